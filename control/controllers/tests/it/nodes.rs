//! Nodes that are lost.

use informer::rest::Path;
use serde_json::{Value, json};

use crate::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_lost_node_only_while_another_is_ready() {
    let cluster = Cluster::start().await;
    cluster.shop().await;
    cluster.node("n1").await;
    let tolerations = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    let labels = json!({"app": "web"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": labels, "ports": [{"port": 80}]}});
    cluster.create("", "v1", "services", service).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}], "tolerations": tolerations}});
    cluster.create("", "v1", "pods", pod).await;
    let path = Path::object("", "v1", "pods", "shop", "p");
    // What one controller has seen, all have.
    let slices = Path::collection("discovery.k8s.io", "v1", "endpointslices", "shop");
    let endpoint = |it: &Value| it["items"][0]["endpoints"][0]["conditions"]["ready"] == true;
    cluster.wait("the pod ready", &slices, endpoint).await;
    let node = |name: &str| Path::object("", "v1", "nodes", "", name);
    let ready = async |name: &str, status: &str| {
        let condition = json!({"type": "Ready", "status": status, "reason": "r", "message": "m"});
        let patch = json!({"status": {"conditions": [condition]}});
        cluster.rest.strategic_merge(&node(name).child("status"), &patch).await.unwrap();
    };
    let effects = |it: &Value| -> Vec<Value> {
        it["spec"]["taints"].as_array().into_iter().flatten().map(|taint| taint["effect"].clone()).collect()
    };
    let unready = |it: &Value| {
        let mut conditions = it["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "False")
    };

    ready("n1", "False").await;
    let tainted = cluster.wait("a taint", &node("n1"), |it| effects(it).contains(&json!("NoSchedule"))).await;
    assert_eq!(effects(&tainted), ["NoSchedule"], "there is nowhere to go");
    cluster.wait("the pod not ready", &path, unready).await;
    cluster.node("n2").await;
    cluster.wait("the pod evicted", &path, Value::is_null).await;
    ready("n2", "False").await;
    cluster.wait("no reason to leave", &node("n1"), |it| effects(it) == ["NoSchedule"]).await;
    cluster.stop().await;
}
