//! Deletion: grace, finalizers, preconditions, propagation, collections, namespaces.

use super::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn what_is_gone_is_answered() {
    let api = Api::new().await;
    let made = api.post(MAPS, config_map("a")).await.ok();
    let gone = api.delete(&format!("{MAPS}/a")).await.ok();
    assert_eq!((text(&gone["kind"]), text(&gone["status"])), ("Status".into(), "Success".into()));
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    assert_eq!(api.delete(&format!("{MAPS}/a")).await.error().0, 404);
    // Some kinds answer the object.
    let account = api.delete("/api/v1/namespaces/default/serviceaccounts/default").await.ok();
    assert_eq!(text(&account["kind"]), "ServiceAccount");
}

/// Behaviour 19.
#[tokio::test]
async fn preconditions_hold() {
    let api = Api::new().await;
    let made = api.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    for (condition, message) in [
        (json!({"uid": "other"}), "the UID in the precondition (other) does not match"),
        (json!({"resourceVersion": "1"}), "the ResourceVersion in the precondition (1) does not match"),
    ] {
        let refused = api.delete_with(&path, json!({"preconditions": condition})).await;
        let (code, reason, text) = refused.error();
        assert!(code == 409 && reason == "Conflict" && text.contains(message), "{text}");
    }
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(api.delete_with(&path, both).await.error().0, 422);
    assert_eq!(api.delete_with(&path, json!({"propagationPolicy": "Some"})).await.error().0, 422);
    // A deletion that is not understood deletes nothing.
    for (field, part) in
        [("gracePeriodSeconds", "of type int64"), ("dryRun", "dryRun"), ("preconditions", "preconditions")]
    {
        let refused = api.delete_with(&path, json!({ field: "x" })).await;
        let (code, _, text) = refused.error();
        assert!(code == 400 && text.contains(field) && text.contains(part), "{text}");
    }
    let right = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": made["metadata"]["uid"]}});
    api.delete_with(&path, right).await.ok();
}

#[tokio::test]
async fn finalizers_hold_an_object_back() {
    let api = Api::new().await;
    api.post(MAPS, json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}})).await.ok();
    let path = format!("{MAPS}/a");
    let pending = api.delete(&path).await.ok();
    assert_eq!(text(&pending["kind"]), "ConfigMap");
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 0);
    // Deleting again changes nothing; adding finalizers is refused; the timestamp cannot be taken off.
    assert_eq!(api.delete(&path).await.ok(), pending);
    let more = api.patch(&path, MERGE, json!({"metadata": {"finalizers": ["example.com/f", "example.com/g"]}})).await;
    assert!(more.error().2.contains("no new finalizers can be added if the object is being deleted"));
    let revived = api.patch(&path, MERGE, json!({"metadata": {"deletionTimestamp": null}})).await.ok();
    assert_eq!(revived, pending);
    let mut watch = api.watch(&format!("{MAPS}?watch=1")).await;
    watch.expect("ADDED", "a").await;
    let last = api.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(last.code, 200);
    watch.expect("DELETED", "a").await;
    assert_eq!(api.get(&path).await.error().0, 404);
}

/// Behaviour 19.
#[tokio::test]
async fn propagation_sets_finalizers() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    for (policy, finalizer) in
        [("Orphan", Some("orphan")), ("Foreground", Some("foregroundDeletion")), ("Background", None)]
    {
        let name = policy.to_lowercase();
        let made = api.post(path, deployment(&name)).await.ok();
        let answer = api.delete(&format!("{path}/{name}?propagationPolicy={policy}")).await.ok();
        match finalizer {
            Some(finalizer) => {
                assert_eq!(answer["metadata"]["finalizers"], json!([finalizer]));
                assert!(answer["metadata"]["deletionTimestamp"].is_string());
                assert_eq!(answer["metadata"]["generation"], made["metadata"]["generation"].as_i64().unwrap() + 1);
            }
            None => assert_eq!(text(&answer["status"]), "Success"),
        }
    }
    let accepted = api.delete(&format!("{path}/orphan?orphanDependents=false")).await;
    // Asking for a cascade takes the orphan finalizer off again.
    assert!(accepted.code == 200 || accepted.code == 202);
}

#[tokio::test]
async fn pods_of_kinds_older_than_the_garbage_collector_stay() {
    let api = Api::new().await;
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let mut controller = template.clone();
    controller["spec"]["restartPolicy"] = "Always".into();
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let kinds = [
        (jobs, json!({"template": template})),
        ("/api/v1/namespaces/default/replicationcontrollers", json!({"replicas": 1, "template": controller})),
    ];
    for (path, spec) in kinds {
        for (policy, own, kept) in [
            ("", None, Some("orphan")),
            ("?propagationPolicy=Orphan", None, Some("orphan")),
            ("?propagationPolicy=Background", None, None),
            ("?orphanDependents=false", None, None),
            ("", Some("foregroundDeletion"), Some("foregroundDeletion")),
        ] {
            let finalizers: Vec<&str> = own.into_iter().collect();
            let object = json!({"metadata": {"generateName": "x", "finalizers": finalizers}, "spec": spec});
            let name = text(&api.post(path, object).await.ok()["metadata"]["name"]);
            let answer = api.delete(&format!("{path}/{name}{policy}")).await;
            assert_eq!(answer.warnings.len(), usize::from(path == jobs && policy.is_empty()), "{:?}", answer.warnings);
            let expected = kept.map_or(Value::Null, |kept| json!([kept]));
            assert_eq!(answer.ok()["metadata"]["finalizers"], expected, "{path} {policy} {own:?}");
        }
    }
}

#[tokio::test]
async fn pods_are_given_time() {
    let api = Api::new().await;
    for name in ["waiting", "running", "done"] {
        api.post(PODS, pod(name)).await.ok();
    }
    // Nothing runs yet: gone at once, and the pod is the answer.
    let gone = api.delete(&format!("{PODS}/waiting")).await.ok();
    assert_eq!(text(&gone["kind"]), "Pod");
    assert_eq!(api.get(&format!("{PODS}/waiting")).await.error().0, 404);
    for name in ["running", "done"] {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
        api.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
    }
    let path = format!("{PODS}/running");
    let patched = api.patch(&path, MERGE, json!({"spec": {"terminationGracePeriodSeconds": 40}})).await;
    let own = if patched.code == 200 { 40 } else { 30 };
    let going = api.delete(&path).await.ok();
    let seconds = |object: &Value| object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap();
    let at =
        |object: &Value| apimachinery::time::parse(object["metadata"]["deletionTimestamp"].as_str().unwrap()).unwrap();
    assert_eq!(seconds(&going), own);
    // A longer or the same grace changes nothing, a shorter one counts from the first request.
    assert_eq!(api.delete_with(&path, json!({"gracePeriodSeconds": 100})).await.ok(), going);
    let sooner = api.delete_with(&path, json!({"gracePeriodSeconds": 10})).await.ok();
    assert_eq!(seconds(&sooner), 10);
    assert_eq!(at(&going).duration_since(at(&sooner)).as_secs(), own - 10);
    // The kubelet is done.
    api.delete_with(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(api.get(&path).await.error().0, 404);
    // What has ended needs no time.
    let path = format!("{PODS}/done");
    api.patch(&format!("{path}/status"), MERGE, json!({"status": {"phase": "Succeeded"}})).await.ok();
    api.delete(&path).await.ok();
    assert_eq!(api.get(&path).await.error().0, 404);
}

/// Behaviour 19.
#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let api = Api::new().await;
    for n in 0..5 {
        let object = json!({"metadata": {"name": format!("m{n}"), "labels": {"half": (n % 2).to_string()}}});
        api.post(MAPS, object).await.ok();
    }
    api.post("/api/v1/namespaces/other/configmaps", config_map("stays")).await.ok();
    let gone = api.delete(&format!("{MAPS}?labelSelector=half=1")).await.ok();
    assert_eq!((text(&gone["kind"]), names(&gone)), ("ConfigMapList".into(), vec!["m1".into(), "m3".into()]));
    api.delete(&format!("{MAPS}?fieldSelector=metadata.name=m0")).await.ok();
    assert_eq!(names(&api.get("/api/v1/configmaps").await.ok()), ["m2", "m4", "stays"]);
    api.delete(MAPS).await.ok();
    assert_eq!(names(&api.get("/api/v1/configmaps").await.ok()), ["stays"]);
    assert_eq!(api.delete("/api/v1/configmaps").await.error().0, 405);
    assert_eq!(api.delete("/api/v1/namespaces").await.error().0, 405);
}

#[tokio::test]
async fn namespaces_go_when_they_are_finalized() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/doomed";
    let namespace = json!({"metadata": {"name": "doomed"}, "spec": {"finalizers": ["kubernetes"]}});
    api.post("/api/v1/namespaces", namespace).await.ok();
    let going = api.delete(path).await.ok();
    assert_eq!((text(&going["kind"]), text(&going["status"]["phase"])), ("Namespace".into(), "Terminating".into()));
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let refused = api.post(&format!("{path}/configmaps"), config_map("a")).await;
    assert_eq!(
        refused.error(),
        (
            403,
            "Forbidden",
            "configmaps \"a\" is forbidden: unable to create new content in namespace doomed because it is being terminated"
        )
    );
    assert_eq!(refused.json["details"]["causes"][0]["reason"], "NamespaceTerminating");
    // A status update is no end; emptying the finalizers is.
    api.patch(&format!("{path}/status"), MERGE, json!({"status": {"conditions": []}})).await.ok();
    let mut emptied = api.get(path).await.ok();
    emptied["spec"]["finalizers"] = json!([]);
    api.put(&format!("{path}/finalize"), &emptied).await.ok();
    assert_eq!(api.get(path).await.error().0, 404);
}
