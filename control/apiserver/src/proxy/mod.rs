//! Streams through the API server: exec, attach, port-forward and logs to the kubelets, and the `proxy` subresources of
//! nodes, pods and services. Upgraded connections are tunnelled byte for byte.

mod connect;
mod locate;
mod options;
mod tunnel;

use apimachinery::status::Status;
use http::request::Parts;
use http::{Method, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::tokens::Objects;
use crate::pki::{Certified, PkiError};
use crate::request::{Query, RequestInfo, ResponseBody};
use crate::server::body::RequestBody;
use crate::server::respond;
use connect::Connector;
use locate::Target;

/// The way to kubelets and pods.
pub(crate) struct Streams {
    connector: Connector,
    objects: Objects,
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
        client: &Certified,
        objects: Objects,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, PkiError> {
        Ok(Self { connector: Connector::new(ca_pem, client)?, objects, tasks, shutdown })
    }

    /// Serves one stream request.
    pub(crate) async fn serve(
        &self,
        info: &RequestInfo,
        query: &Query,
        parts: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Status> {
        let allowed = match info.subresource.as_str() {
            "log" => parts.method == Method::GET,
            "proxy" => true,
            _ => matches!(parts.method, Method::GET | Method::POST),
        };
        if !allowed {
            return Err(Status::method_not_supported(
                "",
                &format!("{}/{}", info.resource, info.subresource),
                info.verb.as_str(),
            ));
        }
        let raw_query = parts.uri.query().unwrap_or_default().to_owned();
        let target = match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "exec") => locate::pod_stream(&self.objects, info, query, "exec", &options::exec(query)?),
            ("pods", "attach") => locate::pod_stream(&self.objects, info, query, "attach", &options::attach(query)?),
            ("pods", "portforward") => locate::port_forward(&self.objects, info, &raw_query),
            ("pods", "log") => match locate::log(&self.objects, info, query, &options::log(query, &info.name)?)? {
                Some(target) => Ok(target),
                // A pod without a node has no log yet.
                None => return Ok(respond::text(http::StatusCode::OK, "")),
            },
            ("pods", _) => locate::pod_proxy(&self.objects, info, &raw_query),
            ("services", _) => locate::service_proxy(&self.objects, info, &raw_query),
            _ => locate::node_proxy(&self.objects, info, &raw_query),
        }?;
        self.forward(target, parts, body, info.subresource == "log").await
    }

    /// `plain` for a log, whose refusals are text that has to be made into a Status.
    async fn forward(
        &self,
        target: Target,
        mut parts: Parts,
        body: RequestBody,
        plain: bool,
    ) -> Result<Response<ResponseBody>, Status> {
        let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let request = tunnel::outgoing(&target, parts, body)?;
        let upstream = self.connector.send(&target, request, &self.tasks).await?;
        let switched = upstream.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        if plain && !switched && !upstream.status().is_success() {
            return Err(tunnel::refusal(upstream).await);
        }
        if !switched {
            return Ok(tunnel::relay(upstream));
        }
        let Some(client) = client else {
            return Err(Status::bad_request("this connection cannot be upgraded; use HTTP/1.1"));
        };
        Ok(tunnel::join(upstream, client, &self.tasks, &self.shutdown))
    }
}

#[cfg(test)]
mod tests;
