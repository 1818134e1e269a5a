//! ReplicaSets and the pods they choose.

use informer::rest::Path;
use serde_json::{Value, json};

use crate::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_alike_pods_the_one_beside_a_sibling_of_another_set_goes() {
    let cluster = Cluster::start().await;
    cluster.shop().await;
    for node in ["n1", "n2"] {
        cluster.node(node).await;
    }
    let maps = Path::collection("", "v1", "configmaps", "shop");
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "shop"}});
    let owner = cluster.rest.create(&maps, &owner).await.unwrap();
    let pod = |name: &str, set: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"set": set}},
               "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    let set = |name: &str, replicas: u32| {
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": true,
                               "uid": owner["metadata"]["uid"]});
        let template = json!({"metadata": {"labels": {"set": name}},
                              "spec": {"containers": [{"name": "c", "image": "i"}]}});
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
               "metadata": {"name": name, "namespace": "shop", "ownerReferences": [reference]},
               "spec": {"replicas": replicas, "selector": {"matchLabels": {"set": name}}, "template": template}})
    };
    let path = |name: &str| Path::object("apps", "v1", "replicasets", "shop", name);
    let has = |count: u32| move |it: &Value| it["status"]["readyReplicas"] == count;
    // Either of them might be chosen for its age or by chance.
    for (lonely, crowded) in [("p1", "p2"), ("p2", "p1")] {
        for (name, set, node) in [("p1", "a", "n1"), ("p2", "a", "n2")] {
            cluster.create("", "v1", "pods", pod(name, set, node)).await;
        }
        let beside = if crowded == "p1" { "n1" } else { "n2" };
        cluster.create("", "v1", "pods", pod("sibling", "b", beside)).await;
        cluster.create("apps", "v1", "replicasets", set("b", 1)).await;
        cluster.create("apps", "v1", "replicasets", set("a", 2)).await;
        cluster.wait("both sets", &path("b"), has(1)).await;
        cluster.wait("both sets", &path("a"), has(2)).await;
        cluster.rest.merge(&path("a"), &json!({"spec": {"replicas": 1}})).await.unwrap();
        let pods = |name: &str| Path::object("", "v1", "pods", "shop", name);
        cluster.wait("one left", &path("a"), has(1)).await;
        cluster.wait("the crowded one gone", &pods(crowded), Value::is_null).await;
        assert!(cluster.rest.get_opt(&pods(lonely)).await.unwrap().is_some(), "{lonely} stays");
        for name in ["a", "b"] {
            cluster.rest.delete(&path(name), &Default::default()).await.unwrap();
        }
        let all = Path::collection("", "v1", "pods", "shop");
        cluster.wait("no pods", &all, |it| crate::count(it) == 0).await;
    }
    cluster.stop().await;
}
