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
    let set = |name: &str, replicas: u32, spec: Value| {
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": true,
                               "uid": owner["metadata"]["uid"]});
        let template = json!({"metadata": {"labels": {"set": name}}, "spec": spec});
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
               "metadata": {"name": name, "namespace": "shop", "ownerReferences": [reference]},
               "spec": {"replicas": replicas, "selector": {"matchLabels": {"set": name}}, "template": template}})
    };
    let container = json!({"name": "c", "image": "i"});
    // A port of the host puts each of its pods on a node of its own.
    let mut apart = container.clone();
    apart["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    let path = |name: &str| Path::object("apps", "v1", "replicasets", "shop", name);
    let has = |count: u32| move |it: &Value| it["status"]["readyReplicas"] == count;
    let pods = Path::collection("", "v1", "pods", "shop");
    // Either of them might be chosen for its age or by chance. The sets make all pods themselves: what they say is ready,
    // they know whose it is, while an adoption may be told later than a change of a set.
    for (crowded, lonely) in [("n1", "n2"), ("n2", "n1"), ("n1", "n2")] {
        let sibling = set("b", 1, json!({"nodeName": crowded, "containers": [container]}));
        cluster.create("apps", "v1", "replicasets", sibling).await;
        cluster.create("apps", "v1", "replicasets", set("a", 2, json!({"containers": [apart]}))).await;
        cluster.wait("both sets", &path("b"), has(1)).await;
        cluster.wait("both sets", &path("a"), has(2)).await;
        cluster.rest.merge(&path("a"), &json!({"spec": {"replicas": 1}})).await.unwrap();
        let left = cluster.wait("one left beside the sibling", &pods, |it| crate::count(it) == 2).await;
        let of_a = |it: &&Value| it["metadata"]["labels"]["set"] == "a";
        let left = left["items"].as_array().unwrap().iter().find(of_a).expect("a pod of the smaller set");
        assert_eq!(left["spec"]["nodeName"], lonely, "the pod beside the sibling goes");
        for name in ["a", "b"] {
            cluster.rest.delete(&path(name), &Default::default()).await.unwrap();
        }
        cluster.wait("no pods", &pods, |it| crate::count(it) == 0).await;
    }
    cluster.stop().await;
}
