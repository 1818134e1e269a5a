//! The one path of every request: understand → authenticate → authorise → route.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::status::Status;
use futures::FutureExt;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};

use super::body::{self, RequestBody};
use super::health::{self, Check};
use super::websocket::Handshake;
use super::{Inner, gzip, pretty, respond};
use crate::accept::Encoding;
use crate::auth::User;
use crate::auth::authenticate::authenticate;
use crate::auth::impersonate::impersonated;
use crate::authz::{Authorized, reviews};
use crate::proxy;
use crate::registry::respond::Accepted;
use crate::request::{Query, RequestContext, RequestInfo, ResponseBody, Verb, Warnings};

type Answer = Result<Response<ResponseBody>, Status>;

impl Inner {
    /// Serves one request, whatever happens.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<RequestBody>) -> Response<ResponseBody> {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        // What comes from elsewhere, or as events, stays as it is.
        let passes = info.verb == Verb::Watch || proxy::is_stream(&info);
        let lines = !passes && pretty::wanted(&parts.headers, &query);
        let gzip = !passes && matches!(info.verb, Verb::Get | Verb::List) && gzip::accepted(&parts.headers);
        let head = parts.method == Method::HEAD;
        let encoding = Encoding::liked(header(&parts, &ACCEPT));
        let socket = (info.verb == Verb::Watch).then(|| Handshake::of(&mut parts)).flatten();
        let warnings = Warnings::default();
        let answered = AssertUnwindSafe(async {
            let answer = self.serve_request(&info, query, parts, body, warnings.clone()).await;
            let answer = match (answer, socket) {
                (Ok(watch), Some(socket)) => socket.carry(watch, &self.tasks, &self.shutdown),
                (answer, _) => answer.unwrap_or_else(|status| respond::failure(&status, encoding)),
            };
            let answer = if lines { pretty::print(answer) } else { answer };
            let answer = if gzip { gzip::compress(answer).await } else { answer };
            if head { respond::head_alone(answer) } else { answer }
        });
        let mut response = answered.catch_unwind().await.unwrap_or_else(|_| {
            self.metrics.panicked();
            tracing::error!(verb = %info.verb, path = info.path, "the request ended in a panic");
            respond::failure(&Status::internal("this request caused the API server to panic"), encoding)
        });
        // Nobody may keep what they are shown, unless it says so.
        let kept = HeaderValue::from_static("no-cache, private");
        response.headers_mut().entry(CACHE_CONTROL).or_insert(kept);
        respond::warn(response.headers_mut(), &warnings.take());
        let (code, took) = (response.status().as_u16(), started.elapsed());
        self.metrics.answered(&info, code, took);
        tracing::debug!(verb = %info.verb, path = info.path, code, ?took, "request");
        response
    }

    async fn serve_request(
        &self,
        info: &RequestInfo,
        query: Query,
        mut parts: Parts,
        body: RequestBody,
        warnings: Warnings,
    ) -> Answer {
        let mut user = authenticate(&mut parts, &self.services.tokens)?;
        if let Some(other) = impersonated(&parts.headers, &user, &self.services.authorizer)? {
            user = Arc::new(other);
        }
        let authorized = self.services.authorizer.authorize(&user, &info.attributes(&query))?;
        if proxy::is_stream(info) {
            return Box::pin(self.streams.serve(info, &query, parts, body)).await;
        }
        match info.is_resource {
            true => self.serve_resource(info, query, parts, body, (user, authorized), warnings).await,
            false => self.serve_path(info, &query, &parts).await,
        }
    }

    async fn serve_resource(
        &self,
        info: &RequestInfo,
        query: Query,
        parts: Parts,
        body: RequestBody,
        (user, authorized): (Arc<User>, Authorized),
        warnings: Warnings,
    ) -> Answer {
        let limit = match info.verb {
            Verb::Watch => self.limits.request,
            _ => deadline(&query, self.limits.request)?,
        };
        let body = match parts.method {
            Method::GET | Method::HEAD => bytes::Bytes::new(),
            _ => body::read(&parts.headers, body, self.limits.stalled_body).await?,
        };
        if reviews::is_review(info) {
            let encoding = Accepted::plain(header(&parts, &ACCEPT))?;
            let review = reviews::review(info, &user, &self.services, header(&parts, &CONTENT_TYPE), &body)?;
            return Ok(respond::object(StatusCode::CREATED, encoding, &review));
        }
        let context = RequestContext {
            info: info.clone(),
            method: parts.method,
            user,
            authorized,
            query,
            headers: parts.headers,
            warnings,
            services: self.services.clone(),
        };
        // Only the answer's head is bounded: a watch goes on as long as its client wishes.
        let handled = tokio::time::timeout(limit, Box::pin(self.registry.handle(context, body))).await;
        handled.unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout")))
    }

    async fn serve_path(&self, info: &RequestInfo, query: &Query, parts: &Parts) -> Answer {
        let path = info.path.as_str();
        if !matches!(info.verb, Verb::Get | Verb::Head) {
            return Err(Status::method_not_supported("", path, info.verb.as_str()));
        }
        let endpoint = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if matches!(endpoint, "healthz" | "livez" | "readyz") {
            let rest = path.trim_start_matches('/').strip_prefix(endpoint).unwrap_or_default().trim_matches('/');
            let checks = self.checks(endpoint).await;
            return health::answer(endpoint, rest, query, &checks).ok_or_else(Status::page_not_found);
        }
        match path.trim_end_matches('/') {
            "/version" => return Ok(respond::json(StatusCode::OK, &health::version(&self.config.version))),
            "/metrics" => {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                return Ok(respond::bytes(StatusCode::OK, content_type, self.metrics.render()));
            }
            "/openid/v1/jwks" => {
                let keys = self.services.tokens.jwks().to_string();
                return Ok(respond::bytes(StatusCode::OK, "application/jwk-set+json", keys));
            }
            "/.well-known/openid-configuration" => {
                return Ok(respond::json(StatusCode::OK, &self.services.tokens.configuration()));
            }
            _ => {}
        }
        self.discovery.answer(path, query, &parts.headers).unwrap_or_else(|| Err(Status::page_not_found()))
    }

    async fn checks(&self, endpoint: &str) -> Vec<Check> {
        let mut checks = vec![Check { name: "ping", result: Ok(()) }, Check { name: "log", result: Ok(()) }];
        let store = self.store.current_revision().await.map(|_| ()).map_err(|error| error.to_string());
        checks.push(Check { name: "etcd", result: store });
        if endpoint == "readyz" {
            let ready = self.ready.load(std::sync::atomic::Ordering::Acquire);
            let bootstrap = if ready { Ok(()) } else { Err("not finished".to_owned()) };
            checks.push(Check { name: "bootstrap", result: bootstrap });
            let stopping =
                if self.shutdown.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) };
            checks.push(Check { name: "shutdown", result: stopping });
        }
        checks
    }
}

/// How long a request may take: what its client wishes, at most `limit`.
fn deadline(query: &Query, limit: Duration) -> Result<Duration, Status> {
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(limit) };
    let wrong = || {
        Status::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))
    };
    let wished = go_duration(text).ok_or_else(wrong)?;
    Ok(if wished.is_zero() { limit } else { wished.min(limit) })
}

/// A duration as Go writes it: `1h15m30.918s`, `300ms`, `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text.strip_prefix('+').unwrap_or(text), 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = rest[end..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |length| end + length);
        seconds += number
            * match &rest[end..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

fn header<'a>(parts: &'a Parts, name: &http::HeaderName) -> &'a str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_when_its_client_wishes() {
        let limit = Duration::from_secs(60);
        for (text, expected) in [
            ("", Some(60_000)),
            ("timeout=", Some(60_000)),
            ("timeout=0", Some(60_000)),
            ("timeout=32s", Some(32_000)),
            ("timeout=1h", Some(60_000)),
            ("timeout=1m0.5s", Some(60_000)),
            ("timeout=1.5s20ms", Some(1520)),
            ("timeout=invalid", None),
            ("timeout=5", None),
            ("timeout=-5s", None),
            ("timeout=1e9h", None),
            ("timeout=..s", None),
        ] {
            let found = deadline(&Query::parse(text), limit).ok().map(|found| found.as_millis());
            assert_eq!(found, expected, "{text}");
        }
        let status = deadline(&Query::parse("timeout=x"), limit).unwrap_err();
        assert_eq!(status.message, "invalid timeout specified in the request URL - time: invalid duration \"x\"");
    }
}
