//! Which identity a request proves.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::status::Status;
use http::request::Parts;

use super::tokens::TokenIssuer;
use super::{ANONYMOUS, UNAUTHENTICATED, User};

/// The identity of a caller in this process. Only this crate can put it into a request; a request from the network gets
/// its extensions from the server alone.
#[derive(Clone)]
pub(crate) struct InProcess(pub(crate) Arc<User>);

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    /// The identity of its verified client certificate.
    pub(crate) user: Option<Arc<User>>,
    pub(crate) address: IpAddr,
}

/// The user of a request, in this order: the caller in this process, the client certificate, the bearer token, nobody.
pub(crate) fn authenticate(parts: &Parts, tokens: &TokenIssuer) -> Result<Arc<User>, Status> {
    if let Some(InProcess(user)) = parts.extensions.get::<InProcess>() {
        return Ok(user.clone());
    }
    if let Some(Peer { user: Some(user), .. }) = parts.extensions.get() {
        return Ok(user.clone());
    }
    let Some(header) = parts.headers.get(http::header::AUTHORIZATION) else {
        return Ok(Arc::new(anonymous()));
    };
    // Anything but a bearer token is no credential we know; upstream treats it as anonymous.
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
    });
    let Some(token) = token else { return Ok(Arc::new(anonymous())) };
    match tokens.authenticate(token, &[]) {
        Ok((user, _)) => Ok(Arc::new(user)),
        Err(error) => {
            tracing::info!(%error, "unable to authenticate the request");
            Err(Status::unauthorized())
        }
    }
}

fn anonymous() -> User {
    User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
}
