//! What is written, and how to see in objects what is waited for.

use crate::client::Target;
use crate::requests::Request;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

pub(crate) const PODS: &str = "/api/v1/namespaces/bench/pods?watch=true";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench/deployments?watch=true";
/// How often each node renews its Lease.
pub(crate) const RENEWAL: Duration = Duration::from_secs(10);
const RENEWERS: usize = 8;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn delete(path: &str, options: &Value) -> Request {
    Request::new(Method::DELETE, path, "application/json", options)
}

pub(crate) fn namespace() -> [Request; 1] {
    [Request::post(
        "/api/v1/namespaces",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}),
    )]
}

/// A node as its kubelet registers it, with its Lease.
pub(crate) fn node(number: usize) -> [Request; 2] {
    let name = format!("node-{number:04}");
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Kubelet", "message": "as it should be"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "status": {
            "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"},
            "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"},
            "addresses": [{"type": "InternalIP", "address": format!("10.90.{}.{}", number / 250, number % 250 + 1)}, {"type": "Hostname", "address": name}],
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False")],
        },
    });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()},
    });
    [Request::post("/api/v1/nodes", &node), Request::post(LEASES, &lease)]
}

/// Renews the Leases of all nodes, evenly, until the set is dropped. On a busy machine one connection would not do.
pub(crate) async fn renew(target: &Target, nodes: usize) -> anyhow::Result<JoinSet<()>> {
    let mut renewers = JoinSet::new();
    for share in 0..RENEWERS.min(nodes) {
        let mut connection = target.connect().await?;
        let mine = (share..nodes).step_by(RENEWERS);
        let mut turns = tokio::time::interval(RENEWAL / u32::try_from(mine.len())?);
        renewers.spawn(async move {
            for number in mine.cycle() {
                turns.tick().await;
                let path = format!("{LEASES}/node-{number:04}");
                let renewal = Request::new(Method::PATCH, path, MERGE, &json!({"spec": {"renewTime": now()}}));
                if let Err(error) = connection.call(renewal.call(), renewal.body.clone()).await {
                    eprintln!("a Lease was not renewed: {error:#}");
                }
            }
        });
    }
    Ok(renewers)
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

pub(crate) fn deployment(app: &str, replicas: usize) -> Request {
    let template = json!({
        "metadata": {"labels": {"app": app, "app.kubernetes.io/part-of": "shop"}, "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "web", "image": "registry.example.com/shop/web:1.27.3",
                "args": ["--listen=:8080", "--log-format=json", "--graceful-timeout=20s"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}},
            }],
        },
    });
    let labels = json!({"app": app});
    Request::post(
        "/apis/apps/v1/namespaces/bench/deployments",
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        }),
    )
}

pub(crate) fn service(app: &str) -> Request {
    Request::post(
        "/api/v1/namespaces/bench/services",
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
            "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": "http"}]},
        }),
    )
}

/// What a kubelet says of a pod that runs.
pub(crate) fn status(name: &str, number: usize, ready: bool) -> Request {
    let ip = format!("10.{}.{}.{}", 128 + number / 62_500, number / 250 % 250, number % 250 + 1);
    let ready = if ready { "True" } else { "False" };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": "2026-01-01T00:00:00Z",
        "conditions": [condition("PodReadyToStartContainers", "True"), condition("Initialized", "True"), condition("Ready", ready), condition("ContainersReady", ready)],
        "containerStatuses": [{
            "name": "web", "image": "registry.example.com/shop/web:1.27.3", "imageID": "sha256:0", "containerID": "containerd://0",
            "ready": ready == "True", "started": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    });
    Request::new(
        Method::PATCH,
        format!("/api/v1/namespaces/bench/pods/{name}/status"),
        STRATEGIC,
        &json!({"status": status}),
    )
}

pub(crate) fn config_map(number: usize) -> Request {
    let data = json!({"text": "x".repeat(800), "number": number.to_string()});
    Request::post(
        "/api/v1/namespaces/bench/configmaps",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("other-{number:06}")}, "data": data}),
    )
}

pub(crate) fn delete_deployment(app: &str) -> Request {
    let path = format!("/apis/apps/v1/namespaces/bench/deployments/{app}");
    delete(&path, &json!({"propagationPolicy": "Background"}))
}

/// As the kubelet ends a pod whose containers have stopped.
pub(crate) fn delete_pod(name: &str) -> Request {
    delete(&format!("/api/v1/namespaces/bench/pods/{name}"), &json!({"gracePeriodSeconds": 0}))
}

/// Registered, with its addresses for pods and without the taint of a new node.
pub(crate) fn node_is_usable(node: &Value) -> bool {
    node["spec"]["podCIDR"].is_string() && node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
}

fn is_of(app: &str, object: &Value) -> bool {
    object["metadata"]["labels"]["app"] == app
}

pub(crate) fn is_bound(app: &str, pod: &Value) -> bool {
    is_of(app, pod) && pod["spec"]["nodeName"].is_string()
}

pub(crate) fn is_deleting(app: &str, pod: &Value) -> bool {
    is_of(app, pod) && pod["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn is_available(app: &str, replicas: usize, deployment: &Value) -> bool {
    deployment["metadata"]["name"] == app && deployment["status"]["availableReplicas"] == replicas
}

pub(crate) fn ready_endpoints(slice: &Value) -> usize {
    let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

pub(crate) fn ready_addresses(endpoints: &Value) -> usize {
    let subsets = endpoints["subsets"].as_array().map(Vec::as_slice).unwrap_or_default();
    subsets.iter().map(|subset| subset["addresses"].as_array().map_or(0, Vec::len)).sum()
}
