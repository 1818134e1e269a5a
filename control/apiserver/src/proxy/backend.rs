//! Where a request for a `proxy` subresource goes: a kubelet or port of a node, a pod, or one of a service's pods.

use std::net::IpAddr;

use apimachinery::status::Status;
use serde_json::Value;

use super::locate::{Target, Via, get, items, join, kubelet_port, node_address, with_query};
use crate::auth::tokens::Objects;
use crate::request::RequestInfo;

/// Finds the server to call.
pub(super) fn locate(objects: &Objects, info: &RequestInfo, raw_query: &str) -> Result<Target, Status> {
    let (address, via) = match info.resource.as_str() {
        "pods" => pod(objects, info),
        "services" => service(objects, info),
        _ => node(objects, info),
    }?;
    let path = match split_path(info).1 {
        "" => "/",
        rest => rest,
    };
    Ok(Target { address, via, path: with_query(path.to_owned(), raw_query) })
}

/// The URL's path up to and with `/proxy`, and what follows, as the client wrote them.
pub(super) fn split_path(info: &RequestInfo) -> (&str, &str) {
    let segments = info.path.split('/').filter(|segment| !segment.is_empty()).count();
    let mut left = segments - info.rest.len().min(segments);
    let mut end = 0;
    for segment in info.path.split_inclusive('/') {
        if left == 0 {
            break;
        }
        left -= usize::from(segment != "/");
        end += segment.len();
    }
    let end = if info.path[..end].ends_with('/') { end - 1 } else { end };
    info.path.split_at(end)
}

/// Whether the API server lends its place in the network for calls to this address: not to reach itself or its own link.
pub(super) fn proxyable(address: IpAddr) -> bool {
    let local = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// `nodes/NAME[:PORT]`: the kubelet's own API, or another port of the node.
fn node(objects: &Objects, info: &RequestInfo) -> Result<(String, Via), Status> {
    let (via, name, port) = split_name("node", &info.name)?;
    let node = get(objects, "nodes", "", name)?;
    let (host, own) = (node_address(&node, name)?, kubelet_port(&node).to_string());
    Ok(match port {
        "" => (join(&host, &own), Via::Kubelet),
        port if port == own => (join(&host, &own), Via::Kubelet),
        port => (join(&host, port), via),
    })
}

/// `pods/[SCHEME:]NAME[:PORT]`: by default the first port that a container names, else the scheme's.
fn pod(objects: &Objects, info: &RequestInfo) -> Result<(String, Via), Status> {
    let (via, name, port) = split_name("pod", &info.name)?;
    let pod = get(objects, "pods", &info.namespace, name)?;
    let ip = pod_ips(&pod).next().filter(|ip| ip.parse::<IpAddr>().is_ok()).ok_or_else(not_allowed)?;
    let named =
        || items(&pod["spec"]["containers"]).find_map(|container| container["ports"][0]["containerPort"].as_u64());
    let port = match (port, named()) {
        ("", Some(port)) => port.to_string(),
        ("", None) => via.default_port().to_owned(),
        (port, _) => port.to_owned(),
    };
    Ok((join(ip, &port), via))
}

/// `services/[SCHEME:]NAME[:PORT]`: any ready pod behind that port, given by its number or name.
fn service(objects: &Objects, info: &RequestInfo) -> Result<(String, Via), Status> {
    let (via, name, port) = split_name("service", &info.name)?;
    // Endpoints carry the names of ports only.
    let port = match port.parse::<u64>() {
        Ok(number) => {
            let service = get(objects, "services", &info.namespace, name)?;
            let found = items(&service["spec"]["ports"]).find(|candidate| candidate["port"] == number);
            let unknown =
                || Status::service_unavailable(format!("no service port {number} found for service {name:?}"));
            found.ok_or_else(unknown)?["name"].as_str().unwrap_or_default().to_owned()
        }
        Err(_) => port.to_owned(),
    };
    let endpoints = get(objects, "endpoints", &info.namespace, name)?;
    let subsets: Vec<&Value> = items(&endpoints["subsets"]).collect();
    let address = from_random(&subsets).find_map(|subset| {
        let found = items(&subset["ports"]).find(|candidate| candidate["name"].as_str().unwrap_or_default() == port)?;
        let addresses: Vec<&Value> = items(&subset["addresses"]).collect();
        let address = from_random(&addresses).find(|address| is_pods(objects, &info.namespace, address))?;
        Some(join(address["ip"].as_str()?, &found["port"].as_u64()?.to_string()))
    });
    let id = if subsets.is_empty() { name } else { &info.name };
    let address =
        address.ok_or_else(|| Status::service_unavailable(format!("no endpoints available for service {id:?}")))?;
    Ok((address, via))
}

/// Whether an endpoint is a pod of this namespace, so that writing Endpoints does not open the API server's network.
fn is_pods(objects: &Objects, namespace: &str, address: &Value) -> bool {
    let target = &address["targetRef"];
    let (Some(ip), Some(name)) = (address["ip"].as_str(), target["name"].as_str()) else { return false };
    target["namespace"] == namespace
        && get(objects, "pods", namespace, name).is_ok_and(|pod| pod_ips(&pod).any(|own| own == ip))
}

fn pod_ips(pod: &Value) -> impl Iterator<Item = &str> {
    items(&pod["status"]["podIPs"]).filter_map(|ip| ip["ip"].as_str())
}

/// All, beginning anywhere.
fn from_random<'a>(list: &'a [&'a Value]) -> impl Iterator<Item = &'a Value> {
    let start = if list.is_empty() { 0 } else { rand::random_range(0..list.len()) };
    list[start..].iter().chain(&list[..start]).copied()
}

pub(super) fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

/// `[SCHEME:]NAME[:PORT]`.
fn split_name<'a>(what: &str, text: &'a str) -> Result<(Via, &'a str, &'a str), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => ("", "", ""),
    };
    match scheme {
        "" | "http" if !name.is_empty() => Ok((Via::Plain, name, port)),
        "https" if !name.is_empty() => Ok((Via::UnverifiedTls, name, port)),
        _ => Err(Status::bad_request(format!("invalid {what} request {text:?}"))),
    }
}
