//! Which identity a request proves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::tokens::TokenIssuer;
use super::x509::Identity;
use super::{ANONYMOUS, UNAUTHENTICATED, User};

/// The identity of a caller in this process. Only this crate can put it into a request; a request from the network gets
/// its extensions from the server alone.
#[derive(Clone)]
pub(crate) struct InProcess(pub(crate) Arc<User>);

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    /// What its verified client certificate says.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) address: IpAddr,
}

/// The user of a request, in this order: the caller in this process, the client certificate, the bearer token, nobody.
pub(crate) fn authenticate(parts: &mut Parts, tokens: &TokenIssuer) -> Result<Arc<User>, Status> {
    if let Some(InProcess(user)) = parts.extensions.get::<InProcess>() {
        return Ok(user.clone());
    }
    if let Some(Peer { identity: Some(identity), .. }) = parts.extensions.get() {
        if !identity.valid.contains(&SystemTime::now()) {
            let user = &identity.user.name;
            tracing::info!(user, "unable to authenticate the request: its certificate has expired or is not yet valid");
            return Err(Status::unauthorized());
        }
        return Ok(identity.user.clone());
    }
    let token = bearer(&parts.headers).map(str::to_owned).or_else(|| of_websocket(&mut parts.headers));
    let Some(token) = token else { return Ok(Arc::new(anonymous())) };
    match tokens.authenticate(&token, &[]) {
        Ok((user, _)) => Ok(Arc::new(user)),
        Err(error) => {
            tracing::info!(%error, "unable to authenticate the request");
            Err(Status::unauthorized())
        }
    }
}

/// The token of `Authorization`. Anything but a bearer token is no credential we know; upstream treats it as anonymous.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// How a sub-protocol begins that is a token.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether a sub-protocol is a token.
pub(crate) fn is_token(protocol: &str) -> bool {
    protocol.starts_with(TOKEN)
}

/// The token of a page in a browser: that may set no headers of a WebSocket, but name sub-protocols. There has to be another
/// one, to be answered. The token is taken out: whoever the request is passed on to must not see it.
fn of_websocket(headers: &mut HeaderMap) -> Option<String> {
    if !headers.get(UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let named = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let (tokens, others): (Vec<&str>, Vec<&str>) =
        named.flat_map(|value| value.split(',')).map(str::trim).partition(|word| is_token(word));
    let ([token], false) = (tokens.as_slice(), others.is_empty()) else { return None };
    let token = String::from_utf8(URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN)?).ok()?).ok()?;
    let others = HeaderValue::from_str(&others.join(", ")).ok()?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    Some(token)
}

fn anonymous() -> User {
    User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hide_their_token_among_the_sub_protocols() {
        let token = |text: &str| format!("{TOKEN}{}", URL_SAFE_NO_PAD.encode(text));
        for (upgrade, protocols, expected) in [
            ("websocket", vec![format!("{}, v4.channel.k8s.io", token("t?"))], Some(("t?", "v4.channel.k8s.io"))),
            ("WebSocket", vec!["a".into(), token("t"), "b".into()], Some(("t", "a, b"))),
            ("websocket", vec![token("t")], None),
            ("websocket", vec![token("t"), token("u"), "a".into()], None),
            ("websocket", vec![format!("{TOKEN}!"), "a".into()], None),
            ("SPDY/3.1", vec![token("t"), "a".into()], None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, upgrade.parse().unwrap());
            for protocol in &protocols {
                headers.append(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
            }
            let found = of_websocket(&mut headers);
            assert_eq!(found.as_deref(), expected.map(|(token, _)| token), "{protocols:?}");
            if let Some((_, left)) = expected {
                assert_eq!(headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().collect::<Vec<_>>(), [left]);
            }
        }
    }
}
