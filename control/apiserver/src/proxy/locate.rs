//! Where a stream has to go: the kubelet of a pod in the watch caches.

use apimachinery::status::Status;
use serde_json::Value;

use super::options::encode;
use crate::auth::tokens::Objects;
use crate::request::{Query, RequestInfo};

/// The port of a kubelet that does not tell its own.
const KUBELET_PORT: u64 = 10250;
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A server to call and what to ask it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Host and port, as in a URL.
    pub(super) address: String,
    /// How it is called.
    pub(super) via: Via,
    /// Path and query.
    pub(super) path: String,
}

/// How a server is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// Plain HTTP.
    Plain,
    /// TLS as between us and kubelets: the cluster's CA, our client certificate.
    Kubelet,
    /// TLS to a pod or a node's other port. Nobody vouches for their certificates: they are not looked at.
    UnverifiedTls,
}

impl Via {
    /// The port of a URL that names none.
    pub(super) fn default_port(self) -> &'static str {
        match self {
            Self::Plain => "80",
            Self::Kubelet | Self::UnverifiedTls => "443",
        }
    }
}

pub(super) fn get(objects: &Objects, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let bytes = objects("", resource, namespace, name).ok_or_else(|| Status::not_found("", resource, name))?;
    serde_json::from_slice(&bytes).map_err(Status::internal)
}

/// `exec` or `attach`.
pub(super) fn pod_stream(
    objects: &Objects,
    info: &RequestInfo,
    query: &Query,
    action: &str,
    options: &str,
) -> Result<Target, Status> {
    let pod = get(objects, "pods", &info.namespace, &info.name)?;
    let container = container(&pod, &info.name, query.get("container").unwrap_or_default(), true)?;
    let address = kubelet_of(objects, &pod, &info.name)?;
    let path = format!("/{action}/{}/{}/{}?{options}", info.namespace, info.name, encode(&container));
    Ok(Target { address, via: Via::Kubelet, path })
}

/// `portforward`.
pub(super) fn port_forward(objects: &Objects, info: &RequestInfo, options: &str) -> Result<Target, Status> {
    let pod = get(objects, "pods", &info.namespace, &info.name)?;
    let address = kubelet_of(objects, &pod, &info.name)?;
    let path = with_query(format!("/portForward/{}/{}", info.namespace, info.name), options);
    Ok(Target { address, via: Via::Kubelet, path })
}

/// `log`; `None` while the pod has no node.
pub(super) fn log(
    objects: &Objects,
    info: &RequestInfo,
    query: &Query,
    options: &str,
) -> Result<Option<Target>, Status> {
    let pod = get(objects, "pods", &info.namespace, &info.name)?;
    let container = container(&pod, &info.name, query.get("container").unwrap_or_default(), false)?;
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        return Ok(None);
    }
    let address = kubelet_of(objects, &pod, &info.name)?;
    let path = with_query(format!("/containerLogs/{}/{}/{}", info.namespace, info.name, encode(&container)), options);
    Ok(Some(Target { address, via: Via::Kubelet, path }))
}

pub(super) fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

pub(super) fn join(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn kubelet_of(objects: &Objects, pod: &Value, name: &str) -> Result<String, Status> {
    let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = get(objects, "nodes", "", node_name)?;
    Ok(join(&node_address(&node, node_name)?, &kubelet_port(&node).to_string()))
}

pub(super) fn kubelet_port(node: &Value) -> u64 {
    node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(KUBELET_PORT)
}

pub(super) fn node_address(node: &Value, name: &str) -> Result<String, Status> {
    ["InternalIP", "ExternalIP", "Hostname"]
        .into_iter()
        .find_map(|kind| {
            let found = items(&node["status"]["addresses"]).find(|address| address["type"] == kind)?;
            found["address"].as_str().map(str::to_owned)
        })
        .ok_or_else(|| Status::internal(format!("no preferred addresses found for node {name:?}")))
}

/// The container that is meant, by upstream's rules and words.
fn container(pod: &Value, pod_name: &str, wanted: &str, use_default: bool) -> Result<String, Status> {
    let names = |list: &str| -> Vec<&str> {
        items(&pod["spec"][list]).filter_map(|container| container["name"].as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let known =
        |name: &str| main.contains(&name) || init.contains(&name) || names("ephemeralContainers").contains(&name);
    if !wanted.is_empty() {
        return if known(wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        };
    }
    let annotated =
        pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().filter(|name| use_default && known(name));
    match (main.as_slice(), annotated) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(name)) => Ok(name.to_owned()),
        ([], None) => Err(Status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
        (many, None) => {
            let mut text =
                format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", many.join(" "));
            if !init.is_empty() {
                text = format!("{text} or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(text))
        }
    }
}

pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
