//! Create, get, update and patch; errors and their wording; status; dry runs; field validation.

use super::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn a_created_object_has_its_identity() {
    let api = Api::new().await;
    let sent = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}, "metadata": {
        "name": "a", "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7,
        "deletionTimestamp": "2001-01-01T00:00:00Z", "managedFields": [{"manager": "x"}]}});
    let made = api.post(MAPS, sent).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    let meta = &made["metadata"];
    assert_eq!((text(&meta["name"]), text(&meta["namespace"])), ("a".into(), "default".into()));
    assert!(uuid::Uuid::parse_str(meta["uid"].as_str().unwrap()).is_ok());
    assert!(meta["creationTimestamp"].as_str().unwrap() > "2020");
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    for absent in ["deletionTimestamp", "managedFields", "generation"] {
        assert!(meta[absent].is_null(), "{absent}");
    }
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok(), made);
    let partial = api
        .request(
            Method::GET,
            &format!("{MAPS}/a"),
            &[(ACCEPT, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")],
            "",
        )
        .await
        .ok();
    assert_eq!((text(&partial["kind"]), &partial["metadata"]), ("PartialObjectMetadata".into(), meta));
    assert!(partial["data"].is_null());
}

#[tokio::test]
async fn yaml_is_accepted() {
    let api = Api::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v\n";
    let made = api.request(Method::POST, MAPS, &[(CONTENT_TYPE, "application/yaml")], yaml).await.ok();
    assert_eq!(made["data"]["k"], "v");
}

/// Behaviour 17: method, target and body; code, reason and the message's beginning.
#[tokio::test]
async fn failures_are_statuses_in_upstreams_words() {
    let api = Api::new().await;
    api.post(MAPS, config_map("a")).await.ok();
    // The revision that is none may be there.
    api.post(MAPS, json!({"metadata": {"name": "zero", "resourceVersion": "0"}})).await.ok();
    for (request, body, expect) in failures() {
        let (method, target) = request.split_once(' ').unwrap();
        let target = target.replace("MAPS", MAPS);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = api.request(method.parse().unwrap(), &target, &[], body).await;
        let (code, reason, message) = answer.error();
        assert!(format!("{code} {reason} {message}").starts_with(expect), "{request}: {code} {reason} {message}");
        assert_eq!(answer.json["kind"], "Status");
        assert!(!answer.json.to_string().contains("/registry"));
    }
    let long = api.post(MAPS, json!({"metadata": {"name": "A_", "labels": {"a b": "c d"}}})).await;
    let fields: Vec<_> = long.json["details"]["causes"].as_array().unwrap().iter().map(|c| text(&c["field"])).collect();
    assert_eq!(fields, ["metadata.name", "metadata.labels", "metadata.labels"]);
}

fn failures() -> [(&'static str, Value, &'static str); 14] {
    let meta = |metadata: Value| json!({"metadata": metadata});
    [
        ("GET MAPS/no", Value::Null, "404 NotFound configmaps \"no\" not found"),
        ("POST MAPS", config_map("a"), "409 AlreadyExists configmaps \"a\" already exists"),
        (
            "PUT MAPS/a",
            meta(json!({"name": "a", "resourceVersion": "1"})),
            "409 Conflict Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (
            "PUT MAPS/a",
            config_map("b"),
            "400 BadRequest the name of the object (b) does not match the name on the URL (a)",
        ),
        ("PUT MAPS/no", config_map("no"), "404 NotFound configmaps \"no\" not found"),
        (
            "POST MAPS",
            meta(json!({"name": "x", "namespace": "other"})),
            "400 BadRequest the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST MAPS",
            meta(json!({})),
            "422 Invalid ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "POST MAPS",
            meta(json!({"name": "a", "resourceVersion": "1"})),
            "400 BadRequest resourceVersion should not be set on objects to be created",
        ),
        (
            "POST MAPS",
            json!({"apiVersion": "v2", "metadata": {"name": "x"}}),
            "400 BadRequest the API version in the data (v2) does not match the expected API version (v1)",
        ),
        ("POST /api/v1/namespaces/gone/configmaps", config_map("a"), "404 NotFound namespaces \"gone\" not found"),
        (
            "PUT MAPS/a",
            meta(json!({"name": "a", "uid": "other"})),
            "409 Conflict Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: other, UID in object meta: ",
        ),
        (
            "POST /api/v1/configmaps",
            config_map("a"),
            "405 MethodNotAllowed the server does not allow this method on the requested resource",
        ),
        ("GET /api/v1/nothings", Value::Null, "404 NotFound the server could not find the requested resource"),
        (
            "POST MAPS?dryRun=Some",
            config_map("x"),
            "422 Invalid CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\"",
        ),
    ]
}

/// Behaviour 16.
#[tokio::test]
async fn unknown_fields_are_told() {
    let api = Api::new().await;
    let body = json!({"metadata": {"name": "a"}, "data": {}, "one": 1, "two": 2});
    let strict = api.post(&format!("{MAPS}?fieldValidation=Strict"), body.clone()).await;
    let (code, _, message) = strict.error();
    assert!(code == 400 && message.contains("one") && message.contains("two"), "{message}");
    let warned = api.post(MAPS, body.clone()).await;
    assert_eq!(warned.warnings.len(), 2, "{:?}", warned.warnings);
    assert!(warned.ok()["one"].is_null());
    let ignored = api.put(&format!("{MAPS}/a?fieldValidation=Ignore"), &body).await;
    assert!(ignored.warnings.is_empty());
    ignored.ok();
}

/// Behaviour 18.
#[tokio::test]
async fn generation_counts_the_spec_and_status_is_apart() {
    let api = Api::new().await;
    let mut sent = deployment("d");
    sent["status"] = json!({"replicas": 9});
    let made = api.post(DEPLOYMENTS, sent).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made["status"]["replicas"].as_i64().unwrap_or(0) == 0, "{}", made["status"]);
    let path = format!("{DEPLOYMENTS}/d");

    let mut changed = made.clone();
    changed["metadata"]["generation"] = 50.into();
    changed["metadata"]["labels"] = json!({"a": "b"});
    changed["status"] = json!({"replicas": 4});
    let labelled = api.put(&path, &changed).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 1);
    assert!(labelled["status"]["replicas"].as_i64().unwrap_or(0) == 0);

    let scaled = api.patch(&path, MERGE, json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["metadata"]["generation"], 2);

    let metadata = json!({"labels": {"a": "c"}, "annotations": {"n": "1"}, "finalizers": ["x.y/z"]});
    let patch =
        json!({"metadata": metadata, "spec": {"replicas": 7}, "status": {"replicas": 3, "observedGeneration": 2}});
    let reported = api.patch(&format!("{path}/status"), MERGE, patch).await.ok();
    let metadata = &reported["metadata"];
    assert_eq!((&metadata["labels"]["a"], &metadata["finalizers"]), (&json!("b"), &Value::Null));
    assert_eq!(metadata["annotations"]["n"], "1");
    assert_eq!((&reported["spec"]["replicas"], &reported["status"]["replicas"]), (&json!(5), &json!(3)));
    assert_eq!(reported["metadata"]["generation"], 2);
    assert_eq!(api.get(&format!("{path}/status")).await.ok(), reported);
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let api = Api::new().await;
    let made = api.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    assert_eq!(api.put(&path, &made).await.ok(), made);
    assert_eq!(api.put(&path, &config_map("a")).await.ok(), made);
    assert_eq!(api.patch(&path, MERGE, json!({"data": {"k": "v"}})).await.ok(), made);
    let changed = api.patch(&path, MERGE, json!({"data": {"k": "w"}})).await.ok();
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(api.put(&path, &made).await.error().0, 409);
}

/// Behaviours 20 and 22.
#[tokio::test]
async fn patches_of_three_kinds() {
    let api = Api::new().await;
    api.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let json_patch = json!([{"op": "test", "path": "/spec/replicas", "value": 2}, {"op": "add", "path": "/metadata/annotations", "value": {"a": "1"}}]);
    let patched = api.patch(&path, JSON_PATCH, json_patch).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["a"], "1");
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]);
    assert_eq!(api.patch(&path, JSON_PATCH, failing).await.error().0, 422);
    let containers = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let strategic = api.patch(&path, STRATEGIC, containers.clone()).await.ok();
    let names: Vec<_> = strategic["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| text(&container["name"]))
        .collect();
    assert_eq!(names, ["side", "c"]);
    let merged = api.patch(&path, MERGE, containers).await.ok();
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    assert_eq!(api.patch(&path, MERGE, stale).await.error().1, "Conflict");
    assert_eq!(api.patch(&path, "application/apply-patch+cbor", json!({})).await.error().0, 415);
    assert_eq!(api.patch(&path, MERGE, json!([1])).await.error().0, 400);
    assert_eq!(api.patch(&path, MERGE, json!({"metadata": {"name": "e"}})).await.error().0, 422);
    let (strict, twice) =
        (format!("{path}?fieldValidation=Strict"), r#"{"spec":{"odd":"x","replicas":2,"replicas":3}}"#);
    for kind in [MERGE, STRATEGIC] {
        let refused = api.request(Method::PATCH, &strict, &[(CONTENT_TYPE, kind)], twice).await;
        let expected = "strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.odd\"";
        assert!(refused.error().0 == 422 && refused.error().2.contains(expected), "{:?}", refused.error());
        let warned = api.request(Method::PATCH, &path, &[(CONTENT_TYPE, kind)], twice).await;
        assert_eq!(warned.warnings, ["duplicate field \"spec.replicas\"", "unknown field \"spec.odd\""]);
    }
    let wrong = api.patch(&path, MERGE, json!({"spec": {"replicas": "x"}})).await;
    assert!(wrong.error().0 == 422 && wrong.error().2.starts_with(" \"\" is invalid: patch: "), "{:?}", wrong.error());
    assert_eq!(api.patch(&format!("{DEPLOYMENTS}/no"), MERGE, json!({})).await.error().0, 404);
}

/// Behaviour 20: no patch is lost, and none fails, when many write at once.
/// Each patch is small enough; what they make together is not.
#[tokio::test]
async fn patches_do_not_make_objects_grow_for_ever() {
    let api = Api::new().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let mut first = deployment("d");
    first["metadata"]["finalizers"] = json!(["example.com/f"]);
    api.post(path, first).await.ok();
    let target = format!("{path}/d");
    let grow = |name: &str, size: usize| {
        let env = json!([{"name": name, "value": "x".repeat(size)}]);
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": env}]}}}})
    };
    api.patch(&target, STRATEGIC, grow("A", 2 << 20)).await.ok();
    let refused = api.patch(&target, STRATEGIC, grow("B", 2 << 20)).await;
    assert_eq!((refused.code, text(&refused.json["reason"])), (413, "RequestEntityTooLarge".to_owned()));
    api.patch(&target, STRATEGIC, grow("C", 1 << 20)).await.ok();
    // What has grown to the bound can be marked as going, and go.
    let left = api.get(&target).await.ok().to_string().len();
    api.patch(&target, STRATEGIC, grow("D", super::super::write::MAX_OBJECT - left - 40)).await.ok();
    assert_eq!(api.patch(&target, MERGE, json!({"metadata": {"labels": {"l": "x".repeat(60)}}})).await.code, 413);
    api.delete(&target).await.ok();
    api.patch(&target, MERGE, json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(api.get(&target).await.code, 404);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let api = Api::new().await;
    api.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    let patches = (0..20).map(|n| api.patch(&path, MERGE, json!({"data": {format!("k{n}"): "v"}})));
    for answer in futures::future::join_all(patches).await {
        answer.ok();
    }
    assert_eq!(api.get(&path).await.ok()["data"].as_object().unwrap().len(), 21);
}

/// Behaviour 23.
#[tokio::test]
async fn dry_runs_write_nothing() {
    let api = Api::new().await;
    let made = api.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    let revision = |list: &Value| text(&list["metadata"]["resourceVersion"]);
    let before = revision(&api.get(MAPS).await.ok());
    let dry = api.post(&format!("{MAPS}?dryRun=All"), config_map("b")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(dry.ok()["metadata"]["name"], "b");
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), config_map("a")).await.error().1, "AlreadyExists");
    let patched = api.patch(&format!("{path}?dryRun=All"), MERGE, json!({"data": {"k": "x"}})).await.ok();
    assert_eq!(patched["data"]["k"], "x");
    api.put(&format!("{path}?dryRun=All"), &json!({"metadata": {"name": "a"}, "data": {}})).await.ok();
    api.delete(&format!("{path}?dryRun=All")).await.ok();
    api.delete_with(&path, json!({"dryRun": ["All"]})).await.ok();
    api.delete(&format!("{MAPS}?dryRun=All")).await.ok();
    assert_eq!(api.get(&path).await.ok(), made);
    assert_eq!(revision(&api.get(MAPS).await.ok()), before);
}

/// Behaviour 27.
#[tokio::test]
async fn generated_names() {
    let api = Api::new().await;
    for _ in 0..50 {
        let made = api.post(MAPS, json!({"metadata": {"generateName": "web-"}})).await.ok();
        let name = text(&made["metadata"]["name"]);
        let tail = name.strip_prefix("web-").unwrap();
        assert!(tail.len() == 5 && tail.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{name}");
    }
    assert_eq!(names(&api.get(MAPS).await.ok()).len(), 50);
}

#[tokio::test]
async fn some_kinds_are_created_by_put() {
    let api = Api::new().await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 1}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    assert_eq!(api.put(path, &lease).await.code, 201);
    let unconditional = api.put(path, &json!({"metadata": {"name": "l"}, "spec": {}})).await;
    let (code, _, message) = unconditional.error();
    assert!(code == 422 && message.contains("metadata.resourceVersion"), "{message}");
}

#[tokio::test]
async fn events_are_selected_in_the_words_of_their_version() {
    let api = Api::new().await;
    let (core, new) = ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let pod = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    let old = json!({"metadata": {"name": "old"}, "involvedObject": pod, "reason": "R", "type": "Normal",
        "source": {"component": "kubelet"}});
    api.post(core, old).await.ok();
    let young = json!({"metadata": {"name": "young"}, "regarding": pod, "reason": "R", "type": "Normal", "action": "a",
        "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "test", "reportingInstance": "i"});
    api.post(new, young).await.ok();
    for (path, selector, expected) in [
        (core, "source=kubelet", Some(vec!["old"])),
        (core, "source=test", Some(vec!["young"])),
        (core, "reportingComponent=test", Some(vec!["young"])),
        (core, "reportingComponent=", Some(vec!["old"])),
        (core, "involvedObject.name=p", Some(vec!["old", "young"])),
        (core, "source.component=kubelet", None),
        (core, "reportingController=test", None),
        (core, "regarding.name=p", None),
        (new, "reportingController=test", Some(vec!["young"])),
        (new, "regarding.name=p,reason=R", Some(vec!["old", "young"])),
        (new, "metadata.name=old", Some(vec!["old"])),
        (new, "source=kubelet", None),
        (new, "involvedObject.name=p", None),
    ] {
        let answer = api.get(&format!("{path}?fieldSelector={selector}")).await;
        match expected {
            Some(expected) => assert_eq!(names(&answer.ok()), expected, "{selector}"),
            None => {
                let field = selector.split('=').next().unwrap();
                assert_eq!(answer.error().2, format!("field label not supported: {field}"));
            }
        }
    }
}

#[tokio::test]
async fn versions_of_a_kind_are_the_same_objects() {
    let api = Api::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "m", "reason": "R", "type": "Normal"});
    api.post("/api/v1/namespaces/default/events", event).await.ok();
    let seen = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!(
        (&seen["apiVersion"], &seen["note"], &seen["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("m"), &json!("p"))
    );
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    api.post(path, scaler).await.ok();
    let v2 = api.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.ok();
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let v1 = api.patch(&format!("{path}/h"), MERGE, json!({"spec": {"targetCPUUtilizationPercentage": 70}})).await.ok();
    assert_eq!(
        (&v1["apiVersion"], &v1["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(70))
    );
    // The same fields: only apiVersion differs.
    let path = "/apis/storage.k8s.io/v1beta1/volumeattributesclasses";
    api.post(path, json!({"metadata": {"name": "c"}, "driverName": "d", "parameters": {"a": "b"}})).await.ok();
    let v1 = api.get("/apis/storage.k8s.io/v1/volumeattributesclasses/c").await.ok();
    assert_eq!((&v1["apiVersion"], &v1["driverName"]), (&json!("storage.k8s.io/v1"), &json!("d")));
    assert_eq!(api.get(path).await.ok()["items"][0]["apiVersion"], "storage.k8s.io/v1beta1");
}

/// A list that becomes empty is no longer there, as Go leaves it out.
#[tokio::test]
async fn the_last_taint_takes_the_field_with_it() {
    let api = Api::new().await;
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}});
    let mut made = api.post("/api/v1/nodes", node).await.ok();
    made["spec"]["taints"] = json!([]);
    let updated = api.put("/api/v1/nodes/n", &made).await.ok();
    assert!(updated["spec"].get("taints").is_none(), "{updated}");
    api.patch("/api/v1/nodes/n", MERGE, json!({"spec": {"taints": [taint]}})).await.ok();
    let drop = json!([{"op": "remove", "path": "/spec/taints/0"}]);
    let patched = api.patch("/api/v1/nodes/n", JSON_PATCH, drop).await.ok();
    assert!(patched["spec"].get("taints").is_none(), "{patched}");
}
