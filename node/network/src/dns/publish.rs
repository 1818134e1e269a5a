//! How the cluster learns of DNS: Service `kube-system/kube-dns`, and one EndpointSlice a node.

use std::net::IpAddr;

use http::{Method, Request};
use serde_json::{Value, json};

use super::SupervisorConfig;
use crate::NetworkError;

const SERVICES: &str = "/api/v1/namespaces/kube-system/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices";

/// The name of the slice of one node.
pub(super) fn slice_name(node: &str) -> String {
    format!("kube-dns-{node}")
}

/// Creates Service `kube-system/kube-dns` with the given cluster address where it is missing.
pub async fn ensure_service(client: &kube::Client, cluster_dns: IpAddr) -> Result<(), NetworkError> {
    if get(client, &format!("{SERVICES}/kube-dns")).await?.is_some() {
        return Ok(());
    }
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_dns,
            // Each node answers its own pods.
            "internalTrafficPolicy": "Local",
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    send(client, Method::POST, SERVICES, "create", &service).await
}

/// Makes this node's EndpointSlice so.
pub(super) async fn ensure_slice(client: &kube::Client, config: &SupervisorConfig) -> Result<(), NetworkError> {
    let path = format!("{SLICES}/{}", slice_name(&config.node_name));
    let node = get(client, &format!("/api/v1/nodes/{}", config.node_name)).await?;
    let wanted = slice(config, node.as_ref());
    let Some(mut found) = get(client, &path).await? else {
        return send(client, Method::POST, SLICES, "create", &wanted).await;
    };
    let same = |field: &str| found[field] == wanted[field];
    let metadata = |field: &str| found["metadata"][field] == wanted["metadata"][field];
    if same("endpoints") && same("ports") && metadata("labels") && metadata("ownerReferences") {
        return Ok(());
    }
    for field in ["endpoints", "ports"] {
        found[field] = wanted[field].clone();
    }
    for field in ["labels", "ownerReferences"] {
        found["metadata"][field] = wanted["metadata"][field].clone();
    }
    send(client, Method::PUT, &path, "update", &found).await
}

fn slice(config: &SupervisorConfig, node: Option<&Value>) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": config.port, "protocol": protocol});
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(&config.node_name),
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "dns.keelson.io",
            },
        },
        "addressType": if config.node_ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [config.node_ip],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": config.node_name,
        }],
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    });
    if let Some(uid) = node.and_then(|node| node["metadata"]["uid"].as_str()) {
        // With its node the slice goes, too.
        slice["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": config.node_name, "uid": uid}]);
    }
    slice
}

fn failed(action: &'static str, path: &str) -> impl FnOnce(kube::Error) -> NetworkError {
    move |source| NetworkError::Api { action, object: path.to_owned(), source: Box::new(source) }
}

async fn get(client: &kube::Client, path: &str) -> Result<Option<Value>, NetworkError> {
    let request = Request::get(path).body(Vec::new()).expect("a constant path and a DNS name");
    match client.request::<Value>(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    action: &'static str,
    object: &Value,
) -> Result<(), NetworkError> {
    let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    let request = request.body(object.to_string().into_bytes()).expect("a constant path and a DNS name");
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        // Another did it first: as good.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(failed(action, path)(error)),
    }
}
