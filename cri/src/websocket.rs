//! The server's half of WebSocket as kubectl speaks it: which sub-protocol, and the answer that switches over.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What is spoken over a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// As Sec-WebSocket-Protocol has it; empty where the client names none.
    pub name: &'static str,
    /// Channel 255 closes the channel that its second byte names.
    pub half_close: bool,
    /// The error channel tells the outcome as a Status in JSON; else only a failure, in plain words.
    pub status: bool,
    /// Messages are text: the channel as a digit, the rest in base64.
    pub base64: bool,
}

const fn protocol(name: &'static str, half_close: bool, status: bool, base64: bool) -> Protocol {
    Protocol { name, half_close, status, base64 }
}

/// What exec and attach speak, best first: a byte of channel, then data.
pub const REMOTE_COMMAND: &[Protocol] = &[
    protocol("v5.channel.k8s.io", true, true, false),
    protocol("v4.channel.k8s.io", false, true, false),
    protocol("v4.base64.channel.k8s.io", false, true, true),
    protocol("channel.k8s.io", false, false, false),
    protocol("base64.channel.k8s.io", false, false, true),
    protocol("", false, false, false),
];
/// Port-forward in which the payloads of binary messages are a SPDY connection.
pub const PORT_FORWARD_SPDY: Protocol = protocol("SPDY/3.1+portforward.k8s.io", false, false, false);
/// What port-forward speaks: that, or two channels for each port that the request names.
pub const PORT_FORWARD: &[Protocol] = &[
    PORT_FORWARD_SPDY,
    protocol("v4.channel.k8s.io", false, false, false),
    protocol("v4.base64.channel.k8s.io", false, false, true),
    protocol("", false, false, false),
];
/// What a log speaks: messages are its bytes.
pub const LOG: &[Protocol] = &[
    protocol("binary.k8s.io", false, false, false),
    protocol("base64.binary.k8s.io", false, false, true),
    protocol("", false, false, false),
];

impl Protocol {
    /// A message of a channel, or of a stream that has none.
    pub fn message(self, channel: Option<u8>, data: &[u8]) -> Message {
        if self.base64 {
            let digit = channel.map(|channel| char::from(b'0' + channel)).into_iter();
            return Message::text(digit.chain(BASE64_STANDARD.encode(data).chars()).collect::<String>());
        }
        Message::binary(channel.iter().chain(data).copied().collect::<Vec<u8>>())
    }

    /// Channel and data of a client's message; `None` for one that says nothing.
    pub fn channel_data(self, message: &Bytes) -> Option<(u8, Bytes)> {
        let channel = *message.first()?;
        let data = message.slice(1..);
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, BASE64_STANDARD.decode(data).ok()?.into()));
        }
        Some((channel, data))
    }
}

/// Whether a request asks to become a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE, "websocket")
}

/// Whether a request asks to become a SPDY connection.
pub fn is_spdy(headers: &HeaderMap) -> bool {
    has_token(headers, UPGRADE, "spdy/3.1")
}

fn has_token(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    let upgrade = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = upgrade.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case("upgrade"));
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    asks && values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// Why a request cannot become a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// No Sec-WebSocket-Key.
    #[error("the request has no Sec-WebSocket-Key")]
    NoKey,
    /// None of the offered sub-protocols is known here.
    #[error("unable to upgrade: none of the sub-protocols {offered:?} is supported, use one of {supported:?}")]
    NoProtocol {
        /// By the client.
        offered: Vec<String>,
        /// By us.
        supported: Vec<&'static str>,
    },
}

/// The sub-protocol to speak and the answer that says so.
pub fn accept(headers: &HeaderMap, supported: &[Protocol]) -> Result<(Protocol, Response<()>), HandshakeError> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(HandshakeError::NoKey)?;
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(|word| word.trim().to_owned());
    let offered: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    let is_offered = |name: &str| if name.is_empty() { offered.is_empty() } else { offered.iter().any(|n| n == name) };
    let chosen = supported.iter().copied().find(|protocol| is_offered(protocol.name));
    let protocol = chosen.ok_or_else(|| HandshakeError::NoProtocol {
        offered,
        supported: supported.iter().map(|protocol| protocol.name).filter(|name| !name.is_empty()).collect(),
    })?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if !protocol.name.is_empty() {
        out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| HandshakeError::NoKey)?;
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok((protocol, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_chosen() {
        for (offered, supported, want) in [
            ("v4.channel.k8s.io, v5.channel.k8s.io", REMOTE_COMMAND, Some("v5.channel.k8s.io")),
            ("v4.channel.k8s.io", REMOTE_COMMAND, Some("v4.channel.k8s.io")),
            ("base64.channel.k8s.io", REMOTE_COMMAND, Some("base64.channel.k8s.io")),
            ("", REMOTE_COMMAND, Some("")),
            ("binary.k8s.io", LOG, Some("binary.k8s.io")),
            ("SPDY/3.1+portforward.k8s.io", PORT_FORWARD, Some("SPDY/3.1+portforward.k8s.io")),
            ("v3.channel.k8s.io", REMOTE_COMMAND, None),
            ("v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io", PORT_FORWARD, Some("SPDY/3.1+portforward.k8s.io")),
            ("v4.base64.channel.k8s.io", PORT_FORWARD, Some("v4.base64.channel.k8s.io")),
            ("", PORT_FORWARD, Some("")),
            ("v5.channel.k8s.io", PORT_FORWARD, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            if !offered.is_empty() {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
            }
            let got = accept(&headers, supported);
            assert_eq!(got.as_ref().ok().map(|(protocol, _)| protocol.name), want, "{offered}");
            if let Ok((protocol, response)) = got {
                assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                assert_eq!(response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL), !protocol.name.is_empty());
            }
        }
        assert_eq!(accept(&HeaderMap::new(), REMOTE_COMMAND).unwrap_err(), HandshakeError::NoKey);
    }

    #[test]
    fn messages() {
        let named = |name: &str| REMOTE_COMMAND.iter().copied().find(|p| p.name == name).unwrap();
        for (name, message, channel, data) in [
            ("channel.k8s.io", &b"\x01hi"[..], 1, &b"hi"[..]),
            ("channel.k8s.io", b"\x04", 4, b""),
            ("base64.channel.k8s.io", b"1aGk=", 1, b"hi"),
            ("v4.base64.channel.k8s.io", b"0", 0, b""),
        ] {
            assert_eq!(named(name).message(Some(channel), data).into_data(), message, "{name}");
            let read = named(name).channel_data(&Bytes::from_static(message));
            assert_eq!(read, Some((channel, Bytes::from_static(data))), "{name}");
        }
        assert_eq!(LOG[0].message(None, b"line\n").into_data(), &b"line\n"[..]);
        assert_eq!(LOG[1].message(None, b"hi").into_data(), &b"aGk="[..]);
        for (name, nonsense) in
            [("channel.k8s.io", &b""[..]), ("base64.channel.k8s.io", b"\x001"), ("base64.channel.k8s.io", b"0*")]
        {
            assert_eq!(named(name).channel_data(&Bytes::from_static(nonsense)), None, "{nonsense:?}");
        }
    }

    #[test]
    fn upgrades_are_recognised() {
        for (connection, upgrade, websocket, spdy) in [
            ("Upgrade", "websocket", true, false),
            ("keep-alive, upgrade", "WebSocket", true, false),
            ("Upgrade", "SPDY/3.1", false, true),
            ("close", "websocket", false, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            assert_eq!((is_websocket(&headers), is_spdy(&headers)), (websocket, spdy), "{connection} {upgrade}");
        }
    }
}
