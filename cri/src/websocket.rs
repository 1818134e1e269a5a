//! The server's half of WebSocket as kubectl speaks it: which sub-protocol, and the answer that switches over.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How a message's first byte and the end of a stream are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `v4.channel.k8s.io`: one byte of channel, then data; the exit status on channel 3.
    V4,
    /// `v5.channel.k8s.io`: v4, and channel 255 closes the channel its second byte names.
    V5,
    /// `SPDY/3.1+portforward.k8s.io`: the payloads of binary messages are a SPDY connection.
    PortForward,
}

impl Protocol {
    /// The name in Sec-WebSocket-Protocol.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::V4 => "v4.channel.k8s.io",
            Protocol::V5 => "v5.channel.k8s.io",
            Protocol::PortForward => "SPDY/3.1+portforward.k8s.io",
        }
    }
}

/// What exec and attach speak, best first.
pub const REMOTE_COMMAND: &[Protocol] = &[Protocol::V5, Protocol::V4];
/// What port-forward speaks.
pub const PORT_FORWARD: &[Protocol] = &[Protocol::PortForward];

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
    let offered: Vec<String> = values.flat_map(|value| value.split(',')).map(|word| word.trim().to_owned()).collect();
    let chosen = supported.iter().copied().find(|protocol| offered.iter().any(|name| name == protocol.name()));
    let protocol = chosen.ok_or_else(|| HandshakeError::NoProtocol {
        offered,
        supported: supported.iter().map(|protocol| protocol.name()).collect(),
    })?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name()));
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| HandshakeError::NoKey)?;
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok((protocol, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let v4 = "v4.channel.k8s.io";
        for (offered, supported, want) in [
            ("v4.channel.k8s.io, v5.channel.k8s.io", REMOTE_COMMAND, Some(Protocol::V5)),
            (v4, REMOTE_COMMAND, Some(Protocol::V4)),
            ("SPDY/3.1+portforward.k8s.io", PORT_FORWARD, Some(Protocol::PortForward)),
            ("v3.channel.k8s.io", REMOTE_COMMAND, None),
            (v4, PORT_FORWARD, None),
            ("", REMOTE_COMMAND, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
            let got = accept(&headers, supported);
            assert_eq!(got.as_ref().ok().map(|(protocol, _)| *protocol), want, "{offered}");
            if let Ok((_, response)) = got {
                assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            }
        }
        assert_eq!(accept(&HeaderMap::new(), REMOTE_COMMAND).unwrap_err(), HandshakeError::NoKey);
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
