//! What the admission chain adds and refuses.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_pod_gets_its_account_its_tolerations_and_its_priority() {
    let api = Api::new().await;
    let pod = api.post(PODS, pod("p")).await.ok();
    let spec = &pod["spec"];
    assert_eq!(
        (text(&spec["serviceAccountName"]), text(&spec["serviceAccount"])),
        ("default".into(), "default".into())
    );
    let volume = &spec["volumes"][0];
    assert!(text(&volume["name"]).starts_with("kube-api-access-"));
    assert_eq!(volume["projected"]["sources"].as_array().unwrap().len(), 3);
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(text(&mount["mountPath"]), "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!((&mount["name"], &mount["readOnly"]), (&volume["name"], &json!(true)));
    let keys: Vec<_> = spec["tolerations"].as_array().unwrap().iter().map(|one| text(&one["key"])).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!((&spec["priority"], text(&spec["preemptionPolicy"])), (&json!(0), "PreemptLowerPriority".into()));
}

#[tokio::test]
async fn automount_can_be_refused() {
    let api = Api::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "s"}]});
    api.post(accounts, account).await.ok();
    let mut wanted = pod("p");
    wanted["spec"]["serviceAccountName"] = "quiet".into();
    let made = api.post(PODS, wanted.clone()).await.ok();
    assert!(made["spec"]["volumes"].is_null());
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
    wanted["metadata"]["name"] = "q".into();
    wanted["spec"]["automountServiceAccountToken"] = true.into();
    assert!(api.post(PODS, wanted).await.ok()["spec"]["volumes"].is_array());
    let mut missing = pod("r");
    missing["spec"]["serviceAccountName"] = "nobody".into();
    let refused = api.post(PODS, missing).await;
    assert_eq!(
        refused.error().2,
        "pods \"r\" is forbidden: error looking up service account default/nobody: serviceaccount \"nobody\" not found"
    );
}

/// A pod of a new namespace waits for the account that a controller makes.
#[tokio::test]
async fn the_default_account_is_waited_for() {
    let api = Api::new().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "fresh"}})).await.ok();
    let create = api.post("/api/v1/namespaces/fresh/pods", pod("p"));
    let account = async {
        tokio::task::yield_now().await;
        api.post("/api/v1/namespaces/fresh/serviceaccounts", json!({"metadata": {"name": "default"}})).await.ok()
    };
    let (pod, _) = tokio::join!(create, account);
    assert_eq!(pod.code, 201, "{}", pod.json);
}

#[tokio::test]
async fn priorities() {
    let api = Api::new().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    api.post(classes, json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"})).await.ok();
    let with_class = |name: &str, class: &str| {
        let mut pod = pod(name);
        pod["spec"]["priorityClassName"] = class.into();
        pod
    };
    let high = api.post(PODS, with_class("a", "high")).await.ok();
    assert_eq!((&high["spec"]["priority"], text(&high["spec"]["preemptionPolicy"])), (&json!(1000), "Never".into()));
    let system = api.post(PODS, with_class("b", "system-node-critical")).await.ok();
    assert_eq!(system["spec"]["priority"], 2_000_001_000_i64);
    let missing = api.post(PODS, with_class("c", "none")).await;
    assert_eq!(missing.error().2, "pods \"c\" is forbidden: no PriorityClass with name none was found");
    let mut own = pod("d");
    own["spec"]["priority"] = 7.into();
    assert_eq!(api.post(PODS, own).await.error().0, 403);
    api.post(classes, json!({"metadata": {"name": "standard"}, "value": 5, "globalDefault": true})).await.ok();
    assert_eq!(api.post(PODS, pod("e")).await.ok()["spec"]["priorityClassName"], "standard");
    let second = api.post(classes, json!({"metadata": {"name": "another"}, "value": 6, "globalDefault": true})).await;
    assert!(
        second.error().2.ends_with("PriorityClass standard is already marked as default. Only one default can exist")
    );
}

#[tokio::test]
async fn a_new_node_is_not_ready() {
    let api = Api::new().await;
    let sent = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}});
    let node = api.post("/api/v1/nodes", sent).await.ok();
    assert_eq!(node["spec"]["taints"][0], json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
    assert_eq!(node["status"]["capacity"]["cpu"], "4");
}

#[tokio::test]
async fn some_namespaces_stay() {
    let api = Api::new().await;
    let refused = api.delete("/api/v1/namespaces/default").await;
    assert_eq!(
        refused.error(),
        (403, "Forbidden", "namespaces \"default\" is forbidden: this namespace may not be deleted")
    );
}

#[tokio::test]
async fn a_pod_takes_its_runtime_class() {
    let api = Api::new().await;
    let mut wanted = pod("p");
    wanted["spec"]["runtimeClassName"] = "slow".into();
    let refused = api.post(PODS, wanted.clone()).await;
    assert_eq!(refused.error().2, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"slow\" not found");
    let class = json!({"metadata": {"name": "slow"}, "handler": "h", "overhead": {"podFixed": {"cpu": "10m"}}});
    api.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.ok();
    assert_eq!(api.post(PODS, wanted).await.ok()["spec"]["overhead"], json!({"cpu": "10m"}));
}

#[tokio::test]
async fn a_default_class_is_given() {
    let api = Api::new().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}})
    };
    assert!(api.post(claims, claim("a")).await.ok()["spec"]["storageClassName"].is_null());
    let class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/p"});
    api.post("/apis/storage.k8s.io/v1/storageclasses", class).await.ok();
    assert_eq!(api.post(claims, claim("b")).await.ok()["spec"]["storageClassName"], "fast");
    let mut none = claim("c");
    none["spec"]["storageClassName"] = "".into();
    assert_eq!(api.post(claims, none).await.ok()["spec"]["storageClassName"], "");
}

#[tokio::test]
async fn the_systems_priority_classes_stay() {
    let api = Api::new().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    api.post(path, json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000})).await.ok();
    let refused = api.delete(&format!("{path}/system-node-critical")).await;
    assert_eq!((refused.error().0, refused.error().1), (403, "Forbidden"));
    api.post(path, json!({"metadata": {"name": "mine"}, "value": 1})).await.ok();
    api.delete(&format!("{path}/mine")).await.ok();
}
