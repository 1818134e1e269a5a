//! Carries exec, attach and port-forward between a client of the kubelet and the runtime's streaming server.
//!
//! SPDY clients are tunnelled byte for byte. WebSocket clients (which speak newer sub-protocols than containerd 1.6)
//! end here: their channels become SPDY streams. Port-forward over SPDY inside a WebSocket is only unwrapped.

use std::pin::pin;

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
    /// Its streams, in the order in which they are opened.
    fn table(self, protocol: Protocol) -> Vec<Stream> {
        let error = if protocol.status { Flow::ToClient } else { Flow::Outcome };
        let all = [
            (ERROR, true, "error", error),
            (STDIN, self.stdin, "stdin", Flow::FromClient),
            (STDOUT, self.stdout, "stdout", Flow::ToClient),
            (STDERR, self.stderr && !self.tty, "stderr", Flow::ToClient),
            (RESIZE, self.tty, "resize", Flow::FromClient),
        ];
        let wanted = all.into_iter().filter(|(_, wanted, ..)| *wanted);
        wanted
            .zip((1..).step_by(2))
            .map(|((channel, _, kind, flow), number)| {
                let headers = vec![("streamtype", kind.to_owned())];
                Stream { channel, number, headers, flow }
            })
            .collect()
    }
}

/// A WebSocket channel and the SPDY stream that it becomes.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    channel: u8,
    number: u32,
    headers: Vec<(&'static str, String)>,
    flow: Flow,
}

/// Who writes to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    FromClient,
    ToClient,
    Both,
    /// To the client, who gets the words of a failure only.
    Outcome,
}

/// Two streams a port: the error of a connection, and its data.
fn port_table(ports: &[u16]) -> Vec<Stream> {
    let mut table = Vec::with_capacity(2 * ports.len());
    for ((id, port), channel) in ports.iter().enumerate().zip((0..=u8::MAX).step_by(2)) {
        for (kind, channel, flow) in [("error", channel + 1, Flow::ToClient), ("data", channel, Flow::Both)] {
            let number = 2 * u32::try_from(table.len()).unwrap_or(u32::MAX) + 1;
            let headers =
                vec![("streamtype", kind.to_owned()), ("port", port.to_string()), ("requestid", id.to_string())];
            table.push(Stream { channel, number, headers, flow });
        }
    }
    table
}

impl Connected {
    /// (a) Tunnels a SPDY client byte for byte.
    pub async fn tunnel(self, client: impl AsyncRead + AsyncWrite) {
        supervise::relay(client, self.io).await;
    }

    /// (b) Serves exec or attach to a WebSocket client: channels there, streams here.
    pub async fn remote_command(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        protocol: Protocol,
        streams: Streams,
    ) -> Result<(), StreamError> {
        let table = streams.table(protocol);
        // As upstream: an empty message tells the client that it is connected.
        let first = [STDOUT, STDERR].into_iter().find(|channel| table.iter().any(|stream| stream.channel == *channel));
        let greeting = vec![protocol.message(Some(first.unwrap_or(ERROR)), &[])];
        self.channels(client, protocol, &table, greeting).await
    }

    /// (c) Serves port-forward to a WebSocket client that has channels for each port, at most 128 of them.
    pub async fn port_forward(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        protocol: Protocol,
        ports: &[u16],
    ) -> Result<(), StreamError> {
        let table = port_table(ports);
        // As upstream: each channel begins with its port.
        let mut greeting = Vec::with_capacity(table.len());
        for (port, channel) in ports.iter().zip((0..=u8::MAX).step_by(2)) {
            greeting.push(protocol.message(Some(channel), &port.to_le_bytes()));
            greeting.push(protocol.message(Some(channel + 1), &port.to_le_bytes()));
        }
        self.channels(client, protocol, &table, greeting).await
    }

    async fn channels(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        protocol: Protocol,
        table: &[Stream],
        greeting: Vec<Message>,
    ) -> Result<(), StreamError> {
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
        let (mut sink, mut source) = socket.split();
        let (reader, mut writer) = tokio::io::split(self.io);
        let mut encoder = Encoder::default();
        for stream in table {
            let headers: Vec<(&str, &str)> =
                stream.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            writer.write_all(&encoder.open(stream.number, &headers)).await?;
        }
        for message in greeting {
            sink.send(message).await.map_err(Box::new)?;
        }
        let (pings, answers) = mpsc::channel(8);
        let down = download(reader, &mut sink, table, protocol, pings);
        let result = until_said(down, upload(&mut source, writer, table, protocol, answers)).await;
        part(sink, source, &result).await;
        result
    }

    /// (d) Serves port-forward to a WebSocket client whose binary messages carry a SPDY connection.
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
        let result = until_said(down, up).await;
        part(sink, source, &result).await;
        result
    }
}

/// Carries both ways until the client is gone or the runtime has said all. One that takes nothing more, as when a command has
/// ended, may still be saying it.
async fn until_said(
    down: impl Future<Output = Result<(), StreamError>>,
    up: impl Future<Output = Result<(), StreamError>>,
) -> Result<(), StreamError> {
    let mut down = pin!(down);
    tokio::select! {
        result = &mut down => result,
        result = up => match result {
            Err(StreamError::Io(_)) => down.await,
            ended => ended,
        },
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
    part(sink, incoming, &result).await;
    result
}

/// Says goodbye and waits a while for the client to hang up, who may be gone already. A connection that is dropped while the
/// client still sends is reset, and what it has not read is lost.
async fn part<C>(mut sink: Sink<C>, mut source: Source<C>, result: &Result<(), StreamError>)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let frame = match result {
        Ok(()) => CloseFrame { code: CloseCode::Normal, reason: "".into() },
        Err(error) => CloseFrame { code: CloseCode::Error, reason: short(&error.to_string()).into() },
    };
    let hang_up = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = source.next().await {}
        }
        if let Ok(mut socket) = sink.reunite(source) {
            let _ = socket.get_mut().shutdown().await;
        }
    };
    let _ = tokio::time::timeout(supervise::LINGER, hang_up).await;
}

/// A close frame's reason has at most 123 bytes.
fn short(text: &str) -> String {
    text.chars().take(100).filter(char::is_ascii).collect()
}

/// Runtime to client, until the runtime has ended every stream it writes to.
async fn download<C: AsyncRead + AsyncWrite + Unpin>(
    mut reader: ReadHalf<Upstream>,
    sink: &mut Sink<C>,
    table: &[Stream],
    protocol: Protocol,
    pings: mpsc::Sender<u32>,
) -> Result<(), StreamError> {
    let mut outcome = Vec::new();
    let mut open: Vec<u32> =
        table.iter().filter(|stream| stream.flow != Flow::FromClient).map(|stream| stream.number).collect();
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(32 << 10));
    while !open.is_empty() {
        while let Some(frame) = decoder.next(&mut buffer)? {
            let (number, ended, data) = match frame {
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
            let Some(stream) = table.iter().find(|stream| stream.number == number) else { continue };
            if stream.flow == Flow::Outcome {
                outcome.extend_from_slice(&data);
                if let Some(failure) = ended.then(|| failure(&outcome)).flatten() {
                    let message = protocol.message(Some(stream.channel), failure.as_bytes());
                    sink.send(message).await.map_err(Box::new)?;
                }
            } else if !data.is_empty() {
                sink.send(protocol.message(Some(stream.channel), &data)).await.map_err(Box::new)?;
            }
            if ended {
                open.retain(|known| *known != number);
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
    source: &mut Source<C>,
    mut writer: WriteHalf<Upstream>,
    table: &[Stream],
    protocol: Protocol,
    mut pings: mpsc::Receiver<u32>,
) -> Result<(), StreamError> {
    let number = |channel: u8| {
        let stream = table.iter().find(|stream| stream.channel == channel)?;
        matches!(stream.flow, Flow::FromClient | Flow::Both).then_some(stream.number)
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::websocket::{PORT_FORWARD, REMOTE_COMMAND};

    #[test]
    fn streams_are_numbered_in_order() {
        let streams = |stdin, stdout, stderr, tty| {
            let table = Streams { stdin, stdout, stderr, tty }.table(REMOTE_COMMAND[0]);
            let row = |stream: &Stream| (stream.channel, stream.number, stream.headers[0].1.clone());
            table.iter().map(row).collect::<Vec<_>>()
        };
        let expected =
            |rows: &[(u8, u32, &str)]| rows.iter().map(|row| (row.0, row.1, row.2.to_owned())).collect::<Vec<_>>();
        assert_eq!(
            streams(true, true, true, false),
            expected(&[(ERROR, 1, "error"), (STDIN, 3, "stdin"), (STDOUT, 5, "stdout"), (STDERR, 7, "stderr")])
        );
        assert_eq!(
            streams(true, true, true, true),
            expected(&[(ERROR, 1, "error"), (STDIN, 3, "stdin"), (STDOUT, 5, "stdout"), (RESIZE, 7, "resize")])
        );
        assert_eq!(streams(false, false, false, false), expected(&[(ERROR, 1, "error")]));
    }

    /// The next frame that a runtime reads.
    async fn frame(decoder: &mut Decoder, buffer: &mut BytesMut, io: &mut TcpStream) -> Frame {
        loop {
            if let Some(frame) = decoder.next(buffer).unwrap() {
                return frame;
            }
            assert_ne!(io.read_buf(buffer).await.unwrap(), 0, "the connection ended");
        }
    }

    /// A runtime's connection once it speaks SPDY.
    async fn switched(listener: &TcpListener) -> TcpStream {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        io.write_all(switch.as_bytes()).await.unwrap();
        io
    }

    /// A runtime that forwards one connection to each of two ports: it answers what it reads in capitals and ends.
    async fn runtime(listener: TcpListener) {
        let mut io = switched(&listener).await;
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        for (number, kind, port, id) in
            [(1, "error", "80", "0"), (3, "data", "80", "0"), (5, "error", "443", "1"), (7, "data", "443", "1")]
        {
            let Frame::SynStream { stream, headers, .. } = frame(&mut decoder, &mut buffer, &mut io).await else {
                panic!("a stream is opened");
            };
            let expected = [("streamtype", kind), ("port", port), ("requestid", id)];
            assert_eq!((stream, headers), (number, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()));
        }
        for _ in 0..2 {
            let Frame::Data { stream, data, .. } = frame(&mut decoder, &mut buffer, &mut io).await else {
                panic!("data comes");
            };
            io.write_all(&Encoder::data(stream, true, &data.to_ascii_uppercase())).await.unwrap();
            io.write_all(&Encoder::data(stream - 2, true, if stream == 7 { b"refused" } else { b"" })).await.unwrap();
        }
    }

    #[tokio::test]
    async fn ports_are_pairs_of_channels() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/portforward/token", listener.local_addr().unwrap());
        let (ours, theirs) = tokio::io::duplex(4096);
        let serve = async {
            let connected = connect(&url, &["portforward.k8s.io"]).await.unwrap();
            connected.port_forward(theirs, PORT_FORWARD[1], &[80, 443]).await.unwrap();
        };
        let ask = async {
            let mut socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
            for message in [b"\x00first", b"\x02other"] {
                socket.send(Message::binary(&message[..])).await.unwrap();
            }
            // What is written to an error channel goes nowhere.
            socket.send(Message::binary(&b"\x01no"[..])).await.unwrap();
            let mut seen = Vec::new();
            while let Some(Ok(Message::Binary(data))) = socket.next().await {
                seen.push(data);
            }
            seen
        };
        let ((), (), seen) = futures::join!(runtime(listener), serve, ask);
        assert_eq!(
            seen,
            [
                &b"\x00\x50\x00"[..],
                b"\x01\x50\x00",
                b"\x02\xbb\x01",
                b"\x03\xbb\x01",
                b"\x00FIRST",
                b"\x02OTHER",
                b"\x03refused"
            ]
        );
    }

    /// A runtime whose command writes a lot and ends, without reading.
    async fn deaf_runtime(listener: TcpListener, ended: tokio::sync::oneshot::Sender<()>) {
        let mut io = switched(&listener).await;
        // The first words of its client, so that there are others that it never reads.
        io.read_u8().await.unwrap();
        // In one piece, which is on its way when the connection is reset.
        let mut words: Vec<Vec<u8>> = (0..20).map(|_| Encoder::data(5, false, &[b'x'; 1000])).collect();
        words.extend([5, 1].map(|stream| Encoder::data(stream, true, b"")));
        io.write_all(&words.concat()).await.unwrap();
        drop(io);
        ended.send(()).unwrap();
    }

    #[tokio::test]
    async fn what_a_command_said_arrives_though_it_takes_nothing_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
        let (ours, theirs) = tokio::io::duplex(256);
        let (ended, end) = tokio::sync::oneshot::channel();
        let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
        let serve = async {
            let connected = connect(&url, &["v4.channel.k8s.io"]).await.unwrap();
            connected.remote_command(theirs, REMOTE_COMMAND[0], streams).await.unwrap();
        };
        let ask = async {
            let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
            let (mut sink, mut source) = socket.split();
            end.await.unwrap();
            let more = async { while sink.send(Message::binary(&b"\x00y"[..])).await.is_ok() {} };
            let read = async {
                let mut seen = 0;
                while let Some(Ok(message)) = source.next().await {
                    // Its other end has time to send.
                    tokio::task::yield_now().await;
                    if let Message::Binary(data) = message {
                        seen += data.len().saturating_sub(1);
                    }
                }
                seen
            };
            futures::join!(more, read).1
        };
        let ((), (), seen) = futures::join!(deaf_runtime(listener, ended), serve, ask);
        assert_eq!(seen, 20_000);
    }

    #[test]
    fn offers_are_split() {
        let mut headers = HeaderMap::new();
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v3.channel.k8s.io, v2.channel.k8s.io"));
        assert_eq!(offered_protocols(&headers), ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"]);
    }
}
