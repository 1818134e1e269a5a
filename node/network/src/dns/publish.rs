//! How the cluster learns of DNS: one EndpointSlice a node, of the Service `kube-system/kube-dns`, which the API server makes.

use informer::rest::{self, DeleteOptions, Path, Rest};
use serde_json::{Value, json};

use super::SupervisorConfig;
use crate::NetworkError;

/// The name of the slice of one node.
pub(super) fn slice_name(node: &str) -> String {
    format!("kube-dns-{node}")
}

/// Makes this node's EndpointSlice so.
pub(super) async fn ensure_slice(client: &kube::Client, config: &SupervisorConfig) -> Result<(), NetworkError> {
    let rest = Rest::new(client.clone());
    let slices = Path::collection("discovery.k8s.io", "v1", "endpointslices", "kube-system");
    let path = slices.clone().child(&slice_name(&config.node_name));
    let node = get(&rest, &Path::object("", "v1", "nodes", "", &config.node_name)).await?;
    let wanted = slice(config, node.as_ref());
    let Some(mut found) = get(&rest, &path).await? else {
        return create(&rest, &slices, &wanted).await;
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
    rest.update(&path, &found).await.map(drop).map_err(failed("update", &path))
}

/// Takes this node's EndpointSlice away, if it is there.
pub(super) async fn remove_slice(client: &kube::Client, node_name: &str) -> Result<(), NetworkError> {
    let rest = Rest::new(client.clone());
    let path =
        Path::collection("discovery.k8s.io", "v1", "endpointslices", "kube-system").child(&slice_name(node_name));
    match rest.delete(&path, &DeleteOptions::default()).await {
        Err(error) if !rest::is_not_found(&error) => Err(failed("delete", &path)(error)),
        _ => Ok(()),
    }
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

fn failed(action: &'static str, path: &Path) -> impl FnOnce(kube::Error) -> NetworkError {
    move |source| NetworkError::Api { action, object: path.as_str().to_owned(), source: Box::new(source) }
}

async fn get(rest: &Rest, path: &Path) -> Result<Option<Value>, NetworkError> {
    rest.get_opt(path).await.map_err(failed("read", path))
}

async fn create(rest: &Rest, collection: &Path, object: &Value) -> Result<(), NetworkError> {
    match rest.create(collection, object).await {
        // Another did it first: as good.
        Err(error) if !rest::is_already_exists(&error) => Err(failed("create", collection)(error)),
        _ => Ok(()),
    }
}
