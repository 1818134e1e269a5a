//! What nobody else would remove.

use informer::rest::Path;
use serde_json::{Value, json};

use crate::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_go_whose_service_went_while_nobody_looked() {
    let cluster = Cluster::start().await;
    let endpoints = |name: &str, labels: Value| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": [{"addresses": [{"ip": "10.1.2.3"}]}],
               "metadata": {"name": name, "namespace": "default", "labels": labels}})
    };
    cluster.create("", "v1", "endpoints", endpoints("users", json!({}))).await;
    let own = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    cluster.create("", "v1", "endpoints", endpoints("left", own)).await;
    let path = |name: &str| Path::object("", "v1", "endpoints", "default", name);
    cluster.wait("the controller's own gone", &path("left"), Value::is_null).await;
    assert!(cluster.rest.get_opt(&path("users")).await.unwrap().is_some(), "its Service may come later");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_namespace_is_none() {
    let cluster = Cluster::start().await;
    cluster.shop().await;
    let map = |name: &str, namespace: &str, owners: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
               "metadata": {"name": name, "namespace": namespace, "ownerReferences": owners}})
    };
    let maps = |namespace: &str| Path::collection("", "v1", "configmaps", namespace);
    let owner = cluster.rest.create(&maps("default"), &map("owner", "default", json!([]))).await.unwrap();
    let reference = |name: &str| {
        let uid = &owner["metadata"]["uid"];
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}])
    };
    for (name, namespace, owners) in [
        ("elsewhere", "shop", reference("owner")),
        ("misnamed", "default", reference("other")),
        ("owned", "default", reference("owner")),
    ] {
        cluster.create("", "v1", "configmaps", map(name, namespace, owners)).await;
    }
    cluster.wait("nothing elsewhere", &maps("shop").child("elsewhere"), Value::is_null).await;
    cluster.wait("nothing misnamed", &maps("default").child("misnamed"), Value::is_null).await;
    assert!(cluster.rest.get_opt(&maps("default").child("owned")).await.unwrap().is_some());
    // Once the collector knows where the owner is, it says so.
    let told = async || {
        let again = map("elsewhere", "shop", reference("owner"));
        drop(cluster.rest.create(&maps("shop"), &again).await);
        let events = cluster.rest.get(&Path::collection("", "v1", "events", "shop")).await.unwrap();
        let mut events = events["items"].as_array().into_iter().flatten();
        events.any(|event| event["reason"] == "OwnerRefInvalidNamespace")
    };
    assert!(cluster.until(told).await, "an event about it");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_out_of_service_do_not_wait_for_its_kubelet() {
    let cluster = Cluster::start().await;
    cluster.shop().await;
    cluster.create("", "v1", "nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "down"}})).await;
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
               "spec": {"nodeName": "down", "containers": [{"name": "c", "image": "i"}],
                        "tolerations": [{"operator": "Exists"}]}})
    };
    let path = |name: &str| Path::object("", "v1", "pods", "shop", name);
    for name in ["going", "staying"] {
        cluster.create("", "v1", "pods", pod(name)).await;
    }
    cluster.rest.delete(&path("going"), &Default::default()).await.unwrap();
    let waits = cluster.rest.get(&path("going")).await.unwrap();
    assert!(!waits["metadata"]["deletionTimestamp"].is_null(), "it waits for its kubelet");
    let taints = json!([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]);
    let node = Path::object("", "v1", "nodes", "", "down");
    cluster.rest.merge(&node, &json!({ "spec": { "taints": taints } })).await.unwrap();
    cluster.wait("the pod gone", &path("going"), Value::is_null).await;
    assert!(cluster.rest.get_opt(&path("staying")).await.unwrap().is_some(), "nobody deleted it");
    cluster.rest.delete(&path("staying"), &Default::default()).await.unwrap();
    cluster.wait("the other gone at once", &path("staying"), Value::is_null).await;
    cluster.stop().await;
}
