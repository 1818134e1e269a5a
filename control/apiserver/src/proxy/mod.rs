//! Streams through the API server: exec, attach, port-forward and logs to the kubelets, and the `proxy` subresources of
//! nodes, pods and services. Upgraded connections are tunnelled byte for byte.
//!
//! Proxied pages are made to lead through the proxy. For that they have to be readable: the client's `Accept-Encoding` does not
//! reach the backend. What it compresses nevertheless passes as it is.

mod backend;
mod connect;
mod locate;
mod options;
mod rewrite;
mod tunnel;

use std::net::{IpAddr, SocketAddr};

use apimachinery::status::Status;
use http::header::{ACCEPT_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::tokens::Objects;
use crate::pki::{Live, PkiError};
use crate::request::{Query, RequestInfo, ResponseBody};
use crate::server::body::RequestBody;
use crate::server::respond;
use connect::{Connector, Unreachable};
use locate::Target;
use rewrite::Place;

/// The way to kubelets and pods.
pub(crate) struct Streams {
    connector: Connector,
    objects: Objects,
    /// Which addresses may be proxied to.
    proxyable: fn(IpAddr) -> bool,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Whether a request is for a stream rather than for the registry.
pub(crate) fn is_stream(info: &RequestInfo) -> bool {
    info.group.is_empty()
        && matches!(
            (info.resource.as_str(), info.subresource.as_str()),
            ("pods", "exec" | "attach" | "portforward" | "log" | "proxy") | ("services" | "nodes", "proxy")
        )
}

impl Streams {
    /// Streams that show `client` to kubelets and trust only the cluster's CA.
    pub(crate) fn new(
        ca_pem: &str,
        client: Live,
        objects: Objects,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, PkiError> {
        let connector = Connector::new(ca_pem, client)?;
        Ok(Self { connector, objects, proxyable: backend::proxyable, tasks, shutdown })
    }

    /// Serves one stream request.
    pub(crate) async fn serve(
        &self,
        info: &RequestInfo,
        query: &Query,
        parts: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Status> {
        if info.subresource == "proxy" {
            let raw_query = parts.uri.query().unwrap_or_default().to_owned();
            return self.proxy(info, &raw_query, parts, body).await;
        }
        let allowed = match info.subresource.as_str() {
            "log" => parts.method == Method::GET,
            _ => matches!(parts.method, Method::GET | Method::POST),
        };
        if !allowed {
            return Err(Status::method_not_supported(
                "",
                &format!("{}/{}", info.resource, info.subresource),
                info.verb.as_str(),
            ));
        }
        let target = match info.subresource.as_str() {
            "exec" => locate::pod_stream(&self.objects, info, query, "exec", &options::exec(query)?),
            "attach" => locate::pod_stream(&self.objects, info, query, "attach", &options::attach(query)?),
            "portforward" => locate::port_forward(&self.objects, info, &options::port_forward(query)?),
            _ => match locate::log(&self.objects, info, query, &options::log(query, &info.name)?)? {
                Some(target) => Ok(target),
                // A pod without a node has no log yet.
                None => return Ok(respond::text(http::StatusCode::OK, "")),
            },
        }?;
        let failed = |error| Status::internal(format!("error dialing backend: {error}"));
        let addresses = connect::resolve(&target).await.map_err(failed)?;
        let upstream = match self.send(&target, &addresses, parts, body).await? {
            Sent::Switched(response) => return Ok(response),
            Sent::Answered(upstream) => upstream.map_err(failed)?,
        };
        // Refusals of a log are text that has to be made into a Status.
        if info.subresource == "log" && !upstream.status().is_success() {
            return Err(tunnel::refusal(upstream).await);
        }
        Ok(tunnel::relay(upstream))
    }

    /// Serves a `proxy` subresource.
    async fn proxy(
        &self,
        info: &RequestInfo,
        raw_query: &str,
        mut parts: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Status> {
        let target = backend::locate(&self.objects, info, raw_query)?;
        let unreachable = |error: &dyn std::fmt::Display| {
            Status::service_unavailable(format!("error trying to reach service: {error}"))
        };
        // A name must not lead where its addresses may not.
        let addresses = connect::resolve(&target).await.map_err(|error| unreachable(&error))?;
        if !addresses.iter().all(|address| (self.proxyable)(address.ip())) {
            return Err(backend::not_allowed());
        }
        let (prefix, rest) = backend::split_path(info);
        let place = Place {
            prefix: prefix.to_owned(),
            backend: target.address.clone(),
            host: tunnel::host(&parts).unwrap_or(&target.address).to_owned(),
        };
        let upgrade = parts.headers.contains_key(UPGRADE);
        if !upgrade {
            // Without the slash a page's relative links would lead beside it.
            if rest.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
                return tunnel::redirect(&locate::with_query(format!("{}/", info.path), raw_query));
            }
            let said = [("x-forwarded-uri", &info.path), ("x-forwarded-host", &place.host)];
            for (name, value) in said {
                parts.headers.insert(name, HeaderValue::from_str(value).map_err(Status::internal)?);
            }
            parts.headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        }
        tunnel::forwarded_for(&mut parts);
        parts.headers.remove(ACCEPT_ENCODING);
        match self.send(&target, &addresses, parts, body).await? {
            Sent::Switched(response) => Ok(response),
            Sent::Answered(Err(error)) => Err(unreachable(&error)),
            Sent::Answered(Ok(upstream)) if upgrade => Ok(tunnel::relay(upstream)),
            Sent::Answered(Ok(upstream)) => tunnel::relay_page(upstream, place),
        }
    }

    /// Passes a request on; where both sides agree on an upgrade, joins them.
    async fn send(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        mut parts: Parts,
        body: RequestBody,
    ) -> Result<Sent, Status> {
        let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let request = tunnel::outgoing(target, parts, body)?;
        let upstream = match self.connector.send(target, addresses, request, &self.tasks).await {
            Ok(upstream) if upstream.status() == http::StatusCode::SWITCHING_PROTOCOLS => upstream,
            answer => return Ok(Sent::Answered(answer)),
        };
        let Some(client) = client else {
            return Err(Status::bad_request("this connection cannot be upgraded; use HTTP/1.1"));
        };
        Ok(Sent::Switched(tunnel::join(upstream, client, &self.tasks, &self.shutdown)))
    }
}

/// What became of a request that was passed on.
enum Sent {
    /// Client and backend are joined, and this is for the client.
    Switched(Response<ResponseBody>),
    /// An answer like others, or none.
    Answered(Result<Response<Incoming>, Unreachable>),
}

#[cfg(test)]
mod tests;
