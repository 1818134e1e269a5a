//! Carries exec, attach and port-forward between a client of the kubelet and the runtime's streaming server.
//!
//! SPDY clients are tunnelled byte for byte. WebSocket clients (which speak newer sub-protocols than containerd 1.6)
//! end here: exec and attach become SPDY streams, port-forward is SPDY already and only unwrapped.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::spdy::{Decoder, Encoder, Frame, SpdyError};
use crate::websocket::Protocol;

/// Upstream's header for what is spoken on the streams.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const SPDY: HeaderValue = HeaderValue::from_static("SPDY/3.1");
/// What a refusing server may say.
const REFUSAL_MAX: usize = 64 << 10;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: "close the channel that the next byte names".
const CLOSE: u8 = 255;

/// Why streams were not carried, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The runtime's URL makes no sense.
    #[error("streaming URL {url:?} of the runtime: {why}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The streaming server cannot be reached.
    #[error("streaming server at {address}: {source}")]
    Connect {
        /// Its address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// HTTP went wrong.
    #[error("streaming server at {address}: {source}")]
    Http {
        /// Its address.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// It does not want to.
    #[error("the runtime refused the stream: {status} {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// A connection broke.
    #[error("a stream broke: {0}")]
    Io(#[from] std::io::Error),
    /// The WebSocket broke or was misused.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The runtime speaks something else.
    #[error(transparent)]
    Spdy(#[from] SpdyError),
}

type Upstream = TokioIo<Upgraded>;
type Sink<C> = futures::stream::SplitSink<WebSocketStream<C>, Message>;
type Source<C> = futures::stream::SplitStream<WebSocketStream<C>>;

/// A connection to the runtime's streaming server that speaks SPDY now.
#[derive(Debug)]
pub struct Connected {
    /// The 101 it answered, for a client that is tunnelled.
    pub response: Response<()>,
    io: Upstream,
}

/// Connects to a URL that CRI gave for exec, attach or port-forward. `protocols` is what the client offered in
/// `X-Stream-Protocol-Version`.
pub async fn connect(url: &str, protocols: &[&str]) -> Result<Connected, StreamError> {
    let bad = |why: &str| StreamError::Url { url: url.to_owned(), why: why.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
    let authority = uri.authority().ok_or_else(|| bad("no host"))?.to_string();
    let address = if uri.port().is_some() { authority } else { format!("{authority}:80") };
    let path = uri.path_and_query().ok_or_else(|| bad("no path"))?.clone();
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|source| StreamError::Connect { address: address.clone(), source })?;
    // Key strokes are small and must not wait for each other.
    stream.set_nodelay(true)?;
    let http = |source| StreamError::Http { address: address.clone(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = upgrade_request(&address, path, protocols).map_err(|_| bad("no request can be made of it"))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), REFUSAL_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(StreamError::Refused { status, message: String::from_utf8_lossy(&body).trim().to_owned() })
    };
    let connection = connection.with_upgrades();
    tokio::pin!(exchange, connection);
    // The connection has to be driven for the answer to come, and to its end for the upgrade.
    let (mut response, driven) = tokio::select! {
        response = &mut exchange => (response?, false),
        ended = &mut connection => {
            ended.map_err(http)?;
            (exchange.await?, true)
        }
    };
    if !driven {
        connection.await.map_err(http)?;
    }
    let upgraded = hyper::upgrade::on(&mut response).await.map_err(http)?;
    Ok(Connected { response: response.map(drop), io: TokioIo::new(upgraded) })
}

fn upgrade_request(
    address: &str,
    path: http::uri::PathAndQuery,
    protocols: &[&str],
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(Uri::from(path))
        .header(HOST, address)
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(UPGRADE, SPDY)
        .header(CONTENT_LENGTH, HeaderValue::from_static("0"));
    for protocol in protocols {
        request = request.header(STREAM_PROTOCOL, *protocol);
    }
    request.body(Empty::new())
}

/// The sub-protocols a SPDY client offered.
pub fn offered_protocols(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(STREAM_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// Which streams an exec or attach has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// From the client.
    pub stdin: bool,
    /// To the client.
    pub stdout: bool,
    /// To the client; never together with a terminal.
    pub stderr: bool,
    /// A terminal, which can be resized.
    pub tty: bool,
}

impl Streams {
    /// Each stream's WebSocket channel, SPDY number and type, in the order in which they are opened.
    fn table(self) -> Vec<(u8, u32, &'static str)> {
        let all = [
            (ERROR, true, "error"),
            (STDIN, self.stdin, "stdin"),
            (STDOUT, self.stdout, "stdout"),
            (STDERR, self.stderr && !self.tty, "stderr"),
            (RESIZE, self.tty, "resize"),
        ];
        let wanted = all.into_iter().filter(|(_, wanted, _)| *wanted);
        wanted.zip((1..).step_by(2)).map(|((channel, _, kind), number)| (channel, number, kind)).collect()
    }
}

impl Connected {
    /// (a) Tunnels a SPDY client byte for byte until one side ends.
    pub async fn tunnel(mut self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), StreamError> {
        tokio::io::copy_bidirectional(&mut client, &mut self.io).await?;
        Ok(())
    }

    /// (b) Serves exec or attach to a WebSocket client: channels there, streams here.
    pub async fn remote_command(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        protocol: Protocol,
        streams: Streams,
    ) -> Result<(), StreamError> {
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
        let (mut sink, source) = socket.split();
        let (reader, mut writer) = tokio::io::split(self.io);
        let table = streams.table();
        let mut encoder = Encoder::default();
        for (_, number, kind) in &table {
            writer.write_all(&encoder.open(*number, &[("streamtype", kind)])).await?;
        }
        // As upstream: an empty message tells the client that it is connected.
        let first = [STDOUT, STDERR].into_iter().find(|channel| table.iter().any(|(known, ..)| known == channel));
        sink.send(protocol.message(Some(first.unwrap_or(ERROR)), &[])).await.map_err(Box::new)?;
        let (pings, answers) = mpsc::channel(8);
        let result = tokio::select! {
            result = download(reader, &mut sink, &table, protocol, pings) => result,
            result = upload(source, writer, &table, protocol, answers) => result,
        };
        say_goodbye(&mut sink, &result).await;
        result
    }

    /// (c) Serves port-forward to a WebSocket client, whose binary messages carry a SPDY connection.
    pub async fn unwrapped(self, client: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), StreamError> {
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
        let (mut sink, mut source) = socket.split();
        let (mut reader, mut writer) = tokio::io::split(self.io);
        let up = async {
            while let Some(message) = source.next().await {
                match message.map_err(Box::new)? {
                    Message::Binary(data) => writer.write_all(&data).await?,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            Ok::<(), StreamError>(())
        };
        let down = async {
            loop {
                let mut buffer = BytesMut::with_capacity(32 << 10);
                if reader.read_buf(&mut buffer).await? == 0 {
                    return Ok::<(), StreamError>(());
                }
                sink.send(Message::binary(buffer.freeze())).await.map_err(Box::new)?;
            }
        };
        let result = tokio::select! { result = up => result, result = down => result };
        say_goodbye(&mut sink, &result).await;
        result
    }
}

/// Serves a stream of bytes, such as a log, to a WebSocket client until one of the two ends.
pub async fn bytes(
    client: impl AsyncRead + AsyncWrite + Unpin,
    protocol: Protocol,
    mut source: mpsc::Receiver<Bytes>,
) -> Result<(), StreamError> {
    let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
    let (mut sink, mut incoming) = socket.split();
    let send = async {
        // As upstream: an empty message tells the client that it is connected.
        sink.send(protocol.message(None, &[])).await.map_err(Box::new)?;
        while let Some(data) = source.recv().await {
            sink.send(protocol.message(None, &data)).await.map_err(Box::new)?;
        }
        Ok(())
    };
    // What a client says is no part of a log; that it has gone is.
    let leave = async { while let Some(Ok(_)) = incoming.next().await {} };
    let result = tokio::select! { result = send => result, () = leave => Ok(()) };
    say_goodbye(&mut sink, &result).await;
    result
}

/// The last frame. The client may be gone already.
async fn say_goodbye<C: AsyncRead + AsyncWrite + Unpin>(sink: &mut Sink<C>, result: &Result<(), StreamError>) {
    let frame = match result {
        Ok(()) => CloseFrame { code: CloseCode::Normal, reason: "".into() },
        Err(error) => CloseFrame { code: CloseCode::Error, reason: short(&error.to_string()).into() },
    };
    let _ = sink.send(Message::Close(Some(frame))).await;
}

/// A close frame's reason has at most 123 bytes.
fn short(text: &str) -> String {
    text.chars().take(100).filter(char::is_ascii).collect()
}

/// Runtime to client, until the runtime has ended every stream it writes to.
async fn download<C: AsyncRead + AsyncWrite + Unpin>(
    mut reader: ReadHalf<Upstream>,
    sink: &mut Sink<C>,
    table: &[(u8, u32, &'static str)],
    protocol: Protocol,
    pings: mpsc::Sender<u32>,
) -> Result<(), StreamError> {
    let mut outcome = Vec::new();
    let mut open: Vec<u8> = table.iter().map(|row| row.0).filter(|c| [STDOUT, STDERR, ERROR].contains(c)).collect();
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(32 << 10));
    while !open.is_empty() {
        while let Some(frame) = decoder.next(&mut buffer)? {
            let (stream, ended, data) = match frame {
                Frame::Data { stream, fin, data } => (stream, fin, data),
                Frame::Reply { stream, fin, .. } => (stream, fin, Bytes::new()),
                Frame::Reset { stream, .. } => (stream, true, Bytes::new()),
                Frame::Ping(id) => {
                    // A full queue means pings faster than they can be answered: drop them.
                    let _ = pings.try_send(id);
                    continue;
                }
                Frame::GoAway => return Ok(()),
                Frame::SynStream { .. } | Frame::Other(_) => continue,
            };
            let Some((channel, ..)) = table.iter().find(|(_, number, _)| *number == stream) else { continue };
            if *channel == ERROR && !protocol.status {
                outcome.extend_from_slice(&data);
                if let Some(failure) = ended.then(|| failure(&outcome)).flatten() {
                    sink.send(protocol.message(Some(ERROR), failure.as_bytes())).await.map_err(Box::new)?;
                }
            } else if !data.is_empty() {
                sink.send(protocol.message(Some(*channel), &data)).await.map_err(Box::new)?;
            }
            if ended {
                open.retain(|known| known != channel);
            }
        }
        if !open.is_empty() && reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// The words of a Status that is no success; a runtime that is older than the Status says them itself.
fn failure(outcome: &[u8]) -> Option<String> {
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(outcome) else {
        return (!outcome.is_empty()).then(|| String::from_utf8_lossy(outcome).into_owned());
    };
    (status["status"] != "Success").then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

/// Client to runtime, until the client is gone.
async fn upload<C: AsyncRead + AsyncWrite + Unpin>(
    mut source: Source<C>,
    mut writer: WriteHalf<Upstream>,
    table: &[(u8, u32, &'static str)],
    protocol: Protocol,
    mut pings: mpsc::Receiver<u32>,
) -> Result<(), StreamError> {
    let number = |channel: u8| {
        let writable = channel == STDIN || channel == RESIZE;
        table.iter().find(|row| writable && row.0 == channel).map(|row| row.1)
    };
    loop {
        let message = tokio::select! {
            message = source.next() => message,
            Some(id) = pings.recv() => {
                writer.write_all(&Encoder::ping(id)).await?;
                continue;
            }
        };
        let data = match message.transpose().map_err(Box::new)? {
            Some(message @ (Message::Binary(_) | Message::Text(_))) => message.into_data(),
            Some(Message::Close(_)) | None => return Ok(()),
            Some(_) => continue,
        };
        match protocol.channel_data(&data) {
            Some((CLOSE, rest)) if protocol.half_close => {
                if let Some(stream) = rest.first().and_then(|channel| number(*channel)) {
                    writer.write_all(&Encoder::data(stream, true, &[])).await?;
                }
            }
            Some((channel, rest)) if !rest.is_empty() => {
                if let Some(stream) = number(channel) {
                    writer.write_all(&Encoder::data(stream, false, &rest)).await?;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_numbered_in_order() {
        let streams = |stdin, stdout, stderr, tty| Streams { stdin, stdout, stderr, tty }.table();
        assert_eq!(
            streams(true, true, true, false),
            [(ERROR, 1, "error"), (STDIN, 3, "stdin"), (STDOUT, 5, "stdout"), (STDERR, 7, "stderr")]
        );
        assert_eq!(
            streams(true, true, true, true),
            [(ERROR, 1, "error"), (STDIN, 3, "stdin"), (STDOUT, 5, "stdout"), (RESIZE, 7, "resize")]
        );
        assert_eq!(streams(false, false, false, false), [(ERROR, 1, "error")]);
    }

    #[test]
    fn offers_are_split() {
        let mut headers = HeaderMap::new();
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v3.channel.k8s.io, v2.channel.k8s.io"));
        assert_eq!(offered_protocols(&headers), ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"]);
    }
}
