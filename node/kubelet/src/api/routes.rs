//! From a request to its answer: who, whether, what.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use cri::websocket;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::logs::{LogOptions, LogReader, StreamFilter};
use super::{Attributes, Authorizer, PodLookup, PodRef, User, stats, streams};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What every request needs.
pub(super) struct State {
    pub(super) node_name: String,
    pub(super) auth: Arc<dyn Authorizer>,
    pub(super) pods: Arc<dyn PodLookup>,
    pub(super) runtime: cri::Runtime,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// A refusal: status and words.
pub(super) type Refusal = (StatusCode, String);

/// The parameters after the question mark, decoded, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(request: &Request<Incoming>) -> Query {
        Query::parse(request.uri().query().unwrap_or_default())
    }

    fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// `1` or `true`, under the kubelet's name or the API's.
    pub(super) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let parsed = self.get(name).map(|text| text.parse().map_err(|_| bad(format!("{name}: {text:?} is no number"))));
        parsed.transpose()
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Answers one request.
pub(super) async fn handle(state: Arc<State>, user: Option<Arc<User>>, request: Request<Incoming>) -> Response<Body> {
    let result = match admit(&state, user, &request).await {
        Ok(()) => route(&state, request).await,
        Err(refusal) => Err(refusal),
    };
    result.unwrap_or_else(|(status, message)| text(status, format!("{message}\n")))
}

/// Lets nobody through whom the API server does not.
async fn admit(state: &State, user: Option<Arc<User>>, request: &Request<Incoming>) -> Result<(), Refusal> {
    let user = match (user, bearer(request)) {
        (Some(user), _) => user,
        (None, Some(token)) => {
            let user = state.auth.authenticate(token).await.map_err(|error| {
                tracing::warn!(error, "the kubelet's API cannot authenticate a token");
                (StatusCode::INTERNAL_SERVER_ERROR, "authentication failed: the API server cannot be asked".to_owned())
            })?;
            Arc::new(user.ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?)
        }
        (None, None) => return Err((StatusCode::UNAUTHORIZED, "Unauthorized".into())),
    };
    let attributes = Attributes::of(&state.node_name, request.method(), request.uri().path());
    let decision = state.auth.authorize(&user, &attributes).await.map_err(|error| {
        tracing::warn!(error, "the kubelet's API cannot authorize a request");
        let who = format!("user={}, verb={}, resource=nodes", user.name, attributes.verb);
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Authorization error ({who}, subresource={:?})", attributes.subresources),
        )
    })?;
    if decision.allowed {
        return Ok(());
    }
    let what = attributes.subresources.join(",");
    let message =
        format!("Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{what}])", user.name, attributes.verb);
    Err((StatusCode::FORBIDDEN, message))
}

fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let (scheme, token) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

async fn route(state: &Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path: Vec<String> = request.uri().path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let stream = matches!(path[..], ["exec" | "attach" | "portForward" | "run", ..]);
    let allowed =
        matches!((request.method(), stream), (&Method::GET, _) | (&Method::POST, true) | (&Method::HEAD, false));
    if !allowed {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(if stream { "GET, POST" } else { "GET, HEAD" }));
        return Ok(response);
    }
    match path[..] {
        ["healthz"] | ["healthz", "ping" | "log"] => healthz(state),
        ["metrics"] => Ok(text(StatusCode::OK, state.pods.metrics())),
        ["pods"] => {
            let items: Vec<_> = state.pods.pods();
            let items: Vec<&serde_json::Value> = items.iter().map(Arc::as_ref).collect();
            Ok(json_response(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
        }
        ["runningpods"] => Ok(json_response(&stats::running_pods(&state.runtime).await.map_err(internal)?)),
        ["stats", "summary"] => {
            Ok(json_response(&stats::summary(&state.node_name, &state.runtime).await.map_err(internal)?))
        }
        ["containerLogs", namespace, pod, container] => logs(state, request, namespace, pod, container).await,
        ["exec", namespace, pod, container] => streams::exec(state, request, namespace, pod, "", container).await,
        ["exec", namespace, pod, uid, container] => streams::exec(state, request, namespace, pod, uid, container).await,
        ["attach", namespace, pod, container] => streams::attach(state, request, namespace, pod, "", container).await,
        ["attach", namespace, pod, uid, container] => {
            streams::attach(state, request, namespace, pod, uid, container).await
        }
        ["portForward", namespace, pod] => streams::port_forward(state, request, namespace, pod, "").await,
        ["portForward", namespace, pod, uid] => streams::port_forward(state, request, namespace, pod, uid).await,
        ["run", namespace, pod, container] => streams::run(state, &request, namespace, pod, container).await,
        _ => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
    }
}

fn healthz(state: &State) -> Result<Response<Body>, Refusal> {
    match state.pods.healthy() {
        Ok(()) => Ok(text(StatusCode::OK, "ok".into())),
        Err(why) => Err((StatusCode::INTERNAL_SERVER_ERROR, why)),
    }
}

/// The pod, of this UID if one is given.
pub(super) fn find_pod(state: &State, namespace: &str, name: &str, uid: &str) -> Result<PodRef, Refusal> {
    let pod = state.pods.pod(namespace, name).filter(|pod| uid.is_empty() || pod.uid == uid);
    pod.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")))
}

async fn logs(
    state: &Arc<State>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&request);
    let options = log_options(&query)?;
    let found = find_pod(state, namespace, pod, "")?;
    let not_found = || (StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"));
    let container_ref = found.container(container).ok_or_else(not_found)?;
    let instance = if query.flag(&["previous"]) {
        let missing = || bad(format!("previous terminated container {container:?} in pod {pod:?} not found"));
        container_ref.previous.as_ref().ok_or_else(missing)?
    } else {
        let waiting = if container_ref.waiting.is_empty() { "ContainerCreating" } else { &container_ref.waiting };
        let missing = || bad(format!("container {container:?} in pod {pod:?} is waiting to start: {waiting}"));
        container_ref.current.as_ref().ok_or_else(missing)?
    };
    let reader = LogReader::open(&instance.log_path, &options).await.map_err(internal)?;
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let (tasks, state, id) = (&state.tasks, Arc::clone(state), instance.id.clone());
    let shutdown = state.shutdown.clone();
    tasks.spawn(async move {
        let exited = async {
            state.pods.container_exited(&id).await;
            // Once CRI has recorded the exit, everything the container wrote is in the file.
            let _ = state.runtime.exited_container_status(&id).await;
        };
        tokio::select! {
            () = state.shutdown.cancelled() => {}
            sent = reader.send(sender, exited) => if let Err(error) = sent {
                tracing::warn!(%error, "a container's log cannot be read on");
            },
        }
    });
    if websocket::is_websocket(request.headers()) {
        return streams::log(tasks, shutdown, request, receiver);
    }
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn log_options(query: &Query) -> Result<LogOptions, Refusal> {
    let since_seconds: Option<i64> = query.number("sinceSeconds")?;
    let since_time = query.get("sinceTime");
    let since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => return Err(bad("at most one of `sinceTime` or `sinceSeconds` may be specified".into())),
        (Some(seconds), None) => Some(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)),
        (None, Some(time)) => Some(time.parse().map_err(|_| bad(format!("sinceTime: {time:?} is no time")))?),
        (None, None) => None,
    };
    let stream = match query.get("stream") {
        None | Some("All") => StreamFilter::All,
        Some("Stdout") => StreamFilter::Stdout,
        Some("Stderr") => StreamFilter::Stderr,
        Some(other) => return Err(bad(format!("stream: {other:?} is none of All, Stdout, Stderr"))),
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        tail_lines: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
        since,
        stream,
    })
}

pub(super) fn bad(message: String) -> Refusal {
    (StatusCode::BAD_REQUEST, message)
}

pub(super) fn internal(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

pub(super) fn empty() -> Body {
    Full::new(Bytes::new()).boxed_unsync()
}

pub(super) fn text(status: StatusCode, message: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(message)).boxed_unsync());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%20b%22%&tty=1&x=&%zz=1");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a b\"%"]);
        assert!(query.flag(&["tty"]) && !query.flag(&["x", "stdin"]));
        assert_eq!(query.get("%zz"), Some("1"));
    }

    #[test]
    fn log_options_are_read() {
        let read = |text| log_options(&Query::parse(text)).map_err(|(_, message)| message);
        let options = read("follow=true&tailLines=5&timestamps=true&limitBytes=9&stream=Stderr").unwrap();
        assert_eq!((options.follow, options.tail_lines, options.limit_bytes), (true, Some(5), Some(9)));
        assert_eq!(options.stream, StreamFilter::Stderr);
        assert!(read("sinceTime=2026-01-01T00:00:00Z").unwrap().since.is_some());
        for wrong in
            ["tailLines=-1", "tailLines=x", "sinceTime=y", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "stream=x"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
