//! Passing requests on and joining upgraded connections.

use apimachinery::status::Status;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::locate::Target;
use super::rewrite::{Page, Place};
use crate::auth::authenticate::Peer;
use crate::request::ResponseBody;
use crate::server::body::{self, RequestBody};
use crate::server::respond;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The host that the client called: HTTP/2 has it in the URI.
pub(super) fn host(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
}

/// Adds the client's address to those that the request was forwarded for.
pub(super) fn forwarded_for(parts: &mut Parts) {
    let Some(Peer { address, .. }) = parts.extensions.get() else { return };
    let former = parts.headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all = former.map(str::to_owned).chain([address.to_string()]).collect::<Vec<_>>().join(", ");
    // Of visible characters only, as its parts.
    if let Ok(value) = HeaderValue::try_from(all) {
        parts.headers.insert(FORWARDED_FOR, value);
    }
}

/// The client's request as the backend gets it: without credentials, on HTTP/1.1.
pub(super) fn outgoing(target: &Target, parts: Parts, body: RequestBody) -> Result<Request<RequestBody>, Status> {
    let mut request = Request::new(body);
    let host = HeaderValue::from_str(host(&parts).unwrap_or(&target.address)).map_err(Status::internal)?;
    *request.method_mut() = parts.method;
    *request.uri_mut() = target.path.parse().map_err(|error| Status::bad_request(format!("invalid path: {error}")))?;
    let mut headers = parts.headers;
    headers.remove(AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    let upgrade = headers.remove(UPGRADE);
    remove_hop_by_hop(&mut headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    headers.insert(HOST, host);
    *request.headers_mut() = headers;
    Ok(request)
}

/// A backend's plain answer, streamed.
pub(super) fn relay(upstream: Response<Incoming>) -> Response<ResponseBody> {
    let mut response = upstream.map(|incoming| body::boxed(incoming.map_err(crate::request::BoxError::from)));
    remove_hop_by_hop(response.headers_mut());
    response
}

/// What a backend must not say of the API server's own origin.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// A proxied answer: its redirection, or the links of its page, lead through the proxy.
pub(super) fn relay_page(mut upstream: Response<Incoming>, place: Place) -> Result<Response<ResponseBody>, Status> {
    let headers = upstream.headers_mut();
    for name in CORS {
        headers.remove(name);
    }
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (location, encoding) = (text(LOCATION), text(CONTENT_ENCODING));
    let html = text(CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim() == "text/html");
    if !location.is_empty() {
        if let Some(location) = place.rewrite(location) {
            headers.insert(LOCATION, HeaderValue::from_str(&location).map_err(Status::internal)?);
        }
    } else if html && encoding.is_empty() {
        headers.remove(CONTENT_LENGTH);
        remove_hop_by_hop(headers);
        let (head, page) = upstream.into_parts();
        let page = Page::new(page, place).map_err(Status::internal)?;
        return Ok(Response::from_parts(head, body::boxed(page)));
    }
    Ok(relay(upstream))
}

/// Sends the client elsewhere for good.
pub(super) fn redirect(location: &str) -> Result<Response<ResponseBody>, Status> {
    let mut response = Response::new(respond::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(location).map_err(Status::internal)?);
    Ok(response)
}

/// How much of a refusal's text is passed on.
const MAX_REFUSAL: usize = 2048;

/// A kubelet's refusal of a log, which is plain text, in the words that clients understand.
pub(super) async fn refusal(upstream: Response<Incoming>) -> Status {
    let code = upstream.status();
    let body = Limited::new(upstream.into_body(), MAX_REFUSAL).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned()).unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status { message: text, ..Status::not_found("", "pods/log", "") },
        code => Status::internal(format!("the kubelet answered {code}: {text}")),
    }
}

/// Answers 101 and, once both sides have switched, passes bytes both ways until both have ended or the server stops.
pub(super) fn join(
    mut upstream: Response<Incoming>,
    client: OnUpgrade,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Response<ResponseBody> {
    let backend = hyper::upgrade::on(&mut upstream);
    let mut response = Response::new(respond::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = upstream.headers().clone();
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let run = async {
            match futures::future::try_join(client, backend).await {
                Ok((client, backend)) => supervise::relay(TokioIo::new(client), TokioIo::new(backend)).await,
                Err(error) => tracing::debug!(%error, "a connection did not switch over"),
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run => {}
        }
    });
    response
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}
