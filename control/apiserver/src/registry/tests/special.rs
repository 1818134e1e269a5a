//! Subresources with rules of their own.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Behaviour 26.
#[tokio::test]
async fn scale() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = api.post(path, deployment("d")).await.ok();
    let scale = api.get(&format!("{path}/d/scale")).await.ok();
    assert_eq!((text(&scale["kind"]), text(&scale["apiVersion"])), ("Scale".into(), "autoscaling/v1".into()));
    assert_eq!((&scale["spec"]["replicas"], text(&scale["status"]["selector"])), (&json!(2), "app=web,tier=a".into()));
    assert_eq!(scale["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let table = api.table(&format!("{path}/d/scale")).await.ok();
    let columns = table["columnDefinitions"].as_array().unwrap();
    assert_eq!(
        columns.iter().map(|one| text(&one["name"])).collect::<Vec<_>>(),
        ["Name", "Desired", "Available", "Age"]
    );
    assert_eq!((&table["rows"][0]["cells"][1], &table["rows"][0]["cells"][2]), (&json!(2), &json!(0)));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 4.into();
    let scaled = api.put(&format!("{path}/d/scale"), &wanted).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(api.put(&format!("{path}/d/scale"), &wanted).await.error().0, 409);
    let patched = api.patch(&format!("{path}/d/scale"), MERGE, json!({"spec": {"replicas": 1}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 1);
    let object = api.get(&format!("{path}/d")).await.ok();
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(1), &json!(3)));
    let negative = api.patch(&format!("{path}/d/scale"), MERGE, json!({"spec": {"replicas": -1}})).await;
    assert_eq!(negative.error().0, 422);
    assert_eq!(negative.json["details"]["causes"][0]["field"], "spec.replicas");
    assert_eq!(api.get(&format!("{path}/no/scale")).await.error().0, 404);
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let template =
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let controller = json!({"metadata": {"name": "r"}, "spec": {"replicas": 1, "selector": {"a": "1", "b": "2"}, "template": template}});
    api.post(controllers, controller).await.ok();
    let scale = api.get(&format!("{controllers}/r/scale")).await.ok();
    assert_eq!(text(&scale["status"]["selector"]), "a=1,b=2");
}

#[tokio::test]
async fn binding() {
    let api = Api::new().await;
    let made = api.post(PODS, pod("p")).await.ok();
    let binding = |node: &str| json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": node}});
    let bad = json!({"metadata": {"name": "p"}, "target": {"kind": "Pod"}});
    let fields = api.post(&format!("{PODS}/p/binding"), bad).await;
    assert_eq!((fields.code, fields.json["details"]["causes"].as_array().unwrap().len()), (422, 2));
    let done = api.post(&format!("{PODS}/p/binding"), binding("n1")).await;
    assert_eq!((done.code, text(&done.json["status"])), (201, "Success".into()));
    let bound = api.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(
        (text(&bound["spec"]["nodeName"]), text(&bound["metadata"]["annotations"]["a"])),
        ("n1".into(), "b".into())
    );
    let condition = &bound["status"]["conditions"][0];
    assert_eq!((text(&condition["type"]), text(&condition["status"])), ("PodScheduled".into(), "True".into()));
    assert_eq!((&bound["metadata"]["generation"], &condition["observedGeneration"]), (&1.into(), &1.into()));
    assert_eq!(bound["metadata"]["uid"], made["metadata"]["uid"]);
    let again = api.post(&format!("{PODS}/p/binding"), binding("n2")).await;
    assert_eq!(
        again.error().2,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    api.post(PODS, pod("q")).await.ok();
    let legacy = json!({"metadata": {"name": "q"}, "target": {"name": "n1"}});
    api.post("/api/v1/namespaces/default/bindings", legacy).await.ok();
    assert_eq!(names(&api.get("/api/v1/pods?fieldSelector=spec.nodeName=n1").await.ok()), ["p", "q"]);
}

#[tokio::test]
async fn eviction() {
    let api = Api::new().await;
    let made = api.post(PODS, pod("p")).await.ok();
    let eviction = |options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
    let path = format!("{PODS}/p/eviction");
    assert_eq!(api.post(&path, eviction(json!({"preconditions": {"uid": "x"}}))).await.error().0, 409);
    api.post(&path, eviction(json!({"dryRun": ["All"]}))).await.ok();
    assert_eq!(api.get(&format!("{PODS}/p")).await.ok(), made);
    assert_eq!(api.post(&path, eviction(json!({}))).await.code, 201);
    assert_eq!(api.get(&format!("{PODS}/p")).await.error().0, 404);
    assert_eq!(api.post(&path, eviction(json!({}))).await.error().0, 404);
}

/// A budget allows what its status says, once its controller has seen it.
#[tokio::test]
async fn eviction_within_a_budget() {
    let api = Api::new().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let running =
        |ready: &str| json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    for (name, ready) in [("a", "True"), ("b", "True"), ("c", "False"), ("d", "True")] {
        let mut object = pod(name);
        object["metadata"]["labels"] = json!({"app": "web"});
        object["spec"]["nodeName"] = "n1".into();
        api.post(PODS, object).await.ok();
        api.patch(&format!("{PODS}/{name}/status"), MERGE, running(ready)).await.ok();
    }
    let evict =
        async |name: &str| api.post(&format!("{PODS}/{name}/eviction"), json!({"metadata": {"name": name}})).await;
    let selector = json!({"matchLabels": {"app": "web"}});
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 2, "selector": selector}});
    let made = api.post(budgets, budget).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let unseen = evict("a").await;
    assert_eq!((unseen.error().0, &unseen.json["details"]["retryAfterSeconds"]), (429, &json!(10)));
    let cause = "The disruption budget web is still being processed by the server.";
    assert_eq!(unseen.json["details"]["causes"], json!([{"reason": "DisruptionBudget", "message": cause}]));

    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 4});
    api.patch(&format!("{budgets}/web/status"), MERGE, json!({"status": status})).await.ok();
    assert_eq!(evict("a").await.code, 201);
    let going = api.get(&format!("{PODS}/a")).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going["status"]["conditions"][1]["reason"], "EvictionByEvictionAPI");
    let spent = api.get(&format!("{budgets}/web")).await.ok()["status"].clone();
    assert_eq!((&spent["disruptionsAllowed"], spent["disruptedPods"]["a"].is_string()), (&json!(0), true));
    assert_eq!(spent["conditions"][0]["reason"], "InsufficientPods");
    let refused = evict("b").await;
    assert_eq!(
        refused.error(),
        (429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
    );
    let cause = "The disruption budget web needs 2 healthy pods and has 3 currently";
    assert_eq!(refused.json["details"]["causes"][0]["message"], cause);
    // What is not healthy is missed by nobody, and what is going already may go.
    assert_eq!((evict("c").await.code, evict("a").await.code), (201, 201));
    api.post(budgets, json!({"metadata": {"name": "other"}, "spec": {"maxUnavailable": 1, "selector": {}}})).await.ok();
    assert!(evict("d").await.error().2.contains("more than one PodDisruptionBudget"));
}

#[tokio::test]
async fn ephemeral_containers_are_only_added() {
    let api = Api::new().await;
    api.post(PODS, pod("p")).await.ok();
    let path = format!("{PODS}/p/ephemeralcontainers");
    let add = json!({"spec": {"containers": [{"name": "c", "image": "other"}], "ephemeralContainers": [{"name": "debug", "image": "d"}]}});
    let added = api.patch(&path, STRATEGIC, add).await.ok();
    assert_eq!(added["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!(added["spec"]["containers"][0]["image"], "i");
    let removed = api.patch(&path, MERGE, json!({"spec": {"ephemeralContainers": null}})).await;
    assert!(removed.error().0 == 422 && removed.error().2.contains("may not be removed"), "{:?}", removed.error());
}

#[tokio::test]
async fn resize_changes_resources_alone() {
    let api = Api::new().await;
    let mut made = pod("p");
    made["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "50m"}});
    api.post(PODS, made).await.ok();
    let path = format!("{PODS}/p/resize");
    let ask = |requests: Value| json!({"spec": {"containers": [{"name": "c", "image": "other", "resources": {"requests": requests}}]}});
    let resized = api.patch(&path, STRATEGIC, ask(json!({"cpu": "100m"}))).await.ok();
    let container = &resized["spec"]["containers"][0];
    assert_eq!(
        (text(&container["image"]), text(&container["resources"]["requests"]["cpu"])),
        ("i".into(), "100m".into())
    );
    assert_eq!(resized["metadata"]["generation"], 2);
    assert_eq!(api.get(&path).await.ok(), resized);
    let refused = api.patch(&path, STRATEGIC, ask(json!({"cpu": null}))).await;
    let (code, _, message) = refused.error();
    assert!(code == 422 && message.contains("resource requests cannot be removed"), "{message}");
}

#[tokio::test]
async fn tokens() {
    let api = Api::new().await;
    let made = api.post(PODS, pod("p")).await.ok();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = api.post(path, request(json!({"audiences": ["a"], "expirationSeconds": 700}))).await;
    assert_eq!(answer.code, 201);
    let token = answer.ok();
    assert_eq!(text(&token["status"]["token"]).split('.').count(), 3);
    assert!(token["status"]["expirationTimestamp"].is_string());
    assert_eq!(token["spec"]["audiences"], json!(["a"]));
    let bound =
        |uid: &Value| request(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}));
    api.post(path, bound(&made["metadata"]["uid"])).await.ok();
    assert_eq!(api.post(path, bound(&json!("other"))).await.error().0, 409);
    assert_eq!(api.post(path, request(json!({"expirationSeconds": 10}))).await.error().0, 422);
    let nobody = "/api/v1/namespaces/default/serviceaccounts/nobody/token";
    assert_eq!(api.post(nobody, request(json!({}))).await.error().0, 404);
}

#[tokio::test]
async fn unknown_subresources_and_verbs() {
    let api = Api::new().await;
    api.post(PODS, pod("p")).await.ok();
    assert_eq!(api.get(&format!("{PODS}/p/nothing")).await.error().0, 404);
    assert_eq!(api.get(&format!("{PODS}/p/binding")).await.error().0, 405);
    assert_eq!(api.get("/api/v1/namespaces/default/configmaps/x/status").await.error().0, 404);
}

#[tokio::test]
async fn the_store_is_a_component() {
    let api = Api::new().await;
    let all = api.get("/api/v1/componentstatuses").await;
    assert_eq!(all.warnings, ["v1 ComponentStatus is deprecated in v1.19+"]);
    let all = all.ok();
    assert_eq!((names(&all), text(&all["kind"])), (vec!["etcd-0".to_owned()], "ComponentStatusList".to_owned()));
    let one = api.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(one, all["items"][0]);
    assert_eq!(one["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    assert_eq!(api.get("/api/v1/componentstatuses/scheduler").await.error().0, 404);
    let table = api.table("/api/v1/componentstatuses").await.ok();
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
}

#[tokio::test]
async fn a_deprecated_version_is_told_of_at_every_request() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/endpoints";
    let told = ["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"];
    assert_eq!(api.get(path).await.warnings, told);
    assert_eq!(api.post(path, json!({"metadata": {"name": "a"}})).await.warnings, told);
    assert_eq!(api.delete(&format!("{path}/a")).await.warnings, told);
    assert!(api.get("/apis/discovery.k8s.io/v1/endpointslices").await.warnings.is_empty());
}
