//! Watches over WebSocket: a message an event, for clients that prefer that (Java's, pages in a browser). JSON goes as text, protobuf
//! as binary messages without the lengths that separate events elsewhere.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::respond;
use crate::auth::authenticate;
use crate::registry::PROTOBUF_STREAM;
use crate::request::ResponseBody;

/// A request to become a WebSocket.
pub(super) struct Handshake {
    upgrade: OnUpgrade,
    accept: HeaderValue,
    /// The first sub-protocol that the client names: a browser wants one of them answered.
    protocol: Option<HeaderValue>,
}

impl Handshake {
    /// Takes the request to switch over out of a request; `None` where it does not ask.
    pub(super) fn of(parts: &mut Parts) -> Option<Self> {
        let asked = parts.headers.get(UPGRADE)?;
        if !asked.as_bytes().eq_ignore_ascii_case(b"websocket") {
            return None;
        }
        let key = parts.headers.get(SEC_WEBSOCKET_KEY)?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
        let named = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let mut words = named.flat_map(|value| value.split(',')).map(str::trim);
        let protocol =
            words.find(|word| !authenticate::is_token(word)).and_then(|word| HeaderValue::from_str(word).ok());
        Some(Self { upgrade: parts.extensions.remove()?, accept, protocol })
    }

    /// Switches over, and sends the events of a watch that began well.
    pub(super) fn carry(
        self,
        watch: Response<ResponseBody>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Response<ResponseBody> {
        let Self { upgrade, accept, protocol } = self;
        let shutdown = shutdown.clone();
        let content_type = watch.headers().get(CONTENT_TYPE).cloned();
        let binary = content_type.as_ref().is_some_and(|ty| ty == PROTOBUF_STREAM);
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                sent = send(upgrade, watch.into_body(), binary) => if let Err(error) = sent {
                    tracing::debug!(%error, "a watch over WebSocket broke");
                },
            }
        });
        let mut response = Response::new(respond::full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Sends events until there are no more or the client leaves. What it says is not looked at.
async fn send(upgrade: OnUpgrade, mut events: ResponseBody, binary: bool) -> Result<(), Error> {
    let client = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Server, None).await;
    loop {
        tokio::select! {
            said = client.next() => match said {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            frame = events.frame() => match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    // A frame has whole events.
                    let messages: Vec<Message> = if binary { binary_messages(data) } else { text_messages(&data) };
                    for message in messages {
                        client.feed(message).await?;
                    }
                    client.flush().await?;
                }
                Some(Err(error)) => return Err(std::io::Error::other(error).into()),
                None => return client.close(None).await,
            },
        }
    }
}

/// A line an event.
fn text_messages(frame: &[u8]) -> Vec<Message> {
    let lines = frame.split_inclusive(|byte| *byte == b'\n');
    lines.map(|event| Message::text(String::from_utf8_lossy(event).into_owned())).collect()
}

/// Before each event, its length in four bytes.
fn binary_messages(mut frame: Bytes) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((length, _)) = frame.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let _ = frame.split_to(4);
        messages.push(Message::binary(frame.split_to(length.min(frame.len()))));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_into_events() {
        assert_eq!(text_messages(b"{1}\n{2}\n"), [Message::text("{1}\n"), Message::text("{2}\n")]);
        let frame = Bytes::from_static(b"\0\0\0\x02ab\0\0\0\x01c");
        assert_eq!(binary_messages(frame), [Message::binary(&b"ab"[..]), Message::binary(&b"c"[..])]);
        assert!(binary_messages(Bytes::new()).is_empty());
    }
}
