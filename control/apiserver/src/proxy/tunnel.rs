//! Passing requests on and joining upgraded connections.

use apimachinery::status::Status;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::locate::Target;
use crate::request::ResponseBody;
use crate::server::body::{self, RequestBody};
use crate::server::respond;

/// The client's request as the backend gets it: without credentials, on HTTP/1.1.
pub(super) fn outgoing(target: &Target, parts: Parts, body: RequestBody) -> Result<Request<RequestBody>, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = target.path.parse().map_err(|error| Status::bad_request(format!("invalid path: {error}")))?;
    let upgrade = parts.headers.contains_key(UPGRADE);
    let mut headers = parts.headers;
    headers.remove(AUTHORIZATION);
    headers.remove(COOKIE);
    headers.remove(TRANSFER_ENCODING);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        remove_hop_by_hop(&mut headers);
    }
    let host = HeaderValue::from_str(&target.address).map_err(Status::internal)?;
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
            let (client, backend) = futures::future::try_join(client, backend).await.map_err(std::io::Error::other)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            // Copies until each side has ended, telling the other of each end (half-close).
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, 32 << 10, 32 << 10).await
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = run => if let Err(error) = ended { tracing::debug!(%error, "stream ended") },
        }
    });
    response
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}
