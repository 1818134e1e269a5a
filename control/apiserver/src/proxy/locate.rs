//! Where a stream has to go: from pods, nodes and endpoints in the watch caches.

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
    /// Whether it is a kubelet: TLS with our client certificate.
    pub(super) kubelet: bool,
    /// Path and query.
    pub(super) path: String,
}

fn get(objects: &Objects, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
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
    Ok(Target { address, kubelet: true, path })
}

/// `portforward`.
pub(super) fn port_forward(objects: &Objects, info: &RequestInfo, raw_query: &str) -> Result<Target, Status> {
    let pod = get(objects, "pods", &info.namespace, &info.name)?;
    let address = kubelet_of(objects, &pod, &info.name)?;
    let path = with_query(format!("/portForward/{}/{}", info.namespace, info.name), raw_query);
    Ok(Target { address, kubelet: true, path })
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
    Ok(Some(Target { address, kubelet: true, path }))
}

/// `nodes/NAME/proxy/…`: the kubelet's own API.
pub(super) fn node_proxy(objects: &Objects, info: &RequestInfo, raw_query: &str) -> Result<Target, Status> {
    let (_, name, port) = split_name(&info.name);
    let node = get(objects, "nodes", "", name)?;
    let address = node_address(&node, name)?;
    let own = kubelet_port(&node);
    let port = if port.is_empty() { own.to_string() } else { port.to_owned() };
    Ok(Target {
        address: join(&address, &port),
        kubelet: port == own.to_string(),
        path: with_query(rest(info), raw_query),
    })
}

/// `pods/NAME[:PORT]/proxy/…`.
pub(super) fn pod_proxy(objects: &Objects, info: &RequestInfo, raw_query: &str) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name);
    plain_only(scheme)?;
    let pod = get(objects, "pods", &info.namespace, name)?;
    let address = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty());
    let address = address.ok_or_else(|| Status::bad_request("address not allowed: the pod has no address"))?;
    let first = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64().unwrap_or(80);
    let port = if port.is_empty() { first.to_string() } else { port.to_owned() };
    Ok(Target { address: join(address, &port), kubelet: false, path: with_query(rest(info), raw_query) })
}

/// `services/NAME[:PORT]/proxy/…`: the first ready endpoint of that port, from the service's Endpoints.
pub(super) fn service_proxy(objects: &Objects, info: &RequestInfo, raw_query: &str) -> Result<Target, Status> {
    let (scheme, name, port) = split_name(&info.name);
    plain_only(scheme)?;
    let service = get(objects, "services", &info.namespace, name)?;
    // A number names a service port; its name is what endpoints carry.
    let wanted = match port.parse::<u64>() {
        Ok(number) => {
            let found = items(&service["spec"]["ports"]).find(|candidate| candidate["port"] == number);
            let found = found.ok_or_else(|| unavailable(name))?;
            found["name"].as_str().unwrap_or_default().to_owned()
        }
        Err(_) => port.to_owned(),
    };
    let endpoints = get(objects, "endpoints", &info.namespace, name).map_err(|_| unavailable(name))?;
    let found = items(&endpoints["subsets"]).find_map(|subset| {
        let address = subset["addresses"][0]["ip"].as_str()?;
        let mut ports = items(&subset["ports"]);
        let port =
            ports.find(|candidate| wanted.is_empty() || candidate["name"].as_str().unwrap_or_default() == wanted)?;
        Some(join(address, &port["port"].as_u64()?.to_string()))
    });
    let address = found.ok_or_else(|| unavailable(name))?;
    Ok(Target { address, kubelet: false, path: with_query(rest(info), raw_query) })
}

fn unavailable(service: &str) -> Status {
    Status::service_unavailable(format!("no endpoints available for service {service:?}"))
}

fn plain_only(scheme: &str) -> Result<(), Status> {
    match scheme {
        "" | "http" => Ok(()),
        "https" => Err(Status::bad_request("proxying to https is not supported")),
        other => Err(Status::bad_request(format!("invalid scheme {other:?}"))),
    }
}

/// `[SCHEME:]NAME[:PORT]`.
fn split_name(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", text, ""),
    }
}

/// The path behind `/proxy`, as the client wrote it.
fn rest(info: &RequestInfo) -> String {
    let marker = format!("/{}/", info.resource);
    let tail = info.path.find(&marker).map_or("", |at| &info.path[at + marker.len()..]);
    match tail.split_once("/proxy") {
        Some((_, "")) | None => "/".to_owned(),
        Some((_, path)) => path.to_owned(),
    }
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn join(host: &str, port: &str) -> String {
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

fn kubelet_port(node: &Value) -> u64 {
    node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(KUBELET_PORT)
}

fn node_address(node: &Value, name: &str) -> Result<String, Status> {
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

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
