//! Server-side apply.

use super::*;

const APPLY: &str = "application/apply-patch+yaml";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Api {
    async fn apply(&self, object: &str, who: &str, config: &Value) -> Answer {
        self.patch(&format!("{object}?fieldManager={who}"), APPLY, config.clone()).await
    }
}

fn map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

/// Operation, manager, subresource and fields of all owners.
fn owners(object: &Value) -> Vec<(String, String, String, Value)> {
    let all = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let one = |one: &Value| {
        (text(&one["operation"]), text(&one["manager"]), text(&one["subresource"]), one["fieldsV1"].clone())
    };
    all.iter().map(one).collect()
}

fn owned(operation: &str, manager: &str, fields: Value) -> (String, String, String, Value) {
    (operation.into(), manager.into(), String::new(), fields)
}

#[tokio::test]
async fn what_is_applied_is_made_kept_changed_and_taken_away() {
    let api = Api::new().await;
    let path = format!("{MAPS}/m");
    let made = api.apply(&path, "a", &map(&json!({"x": "1", "y": "1"}))).await;
    assert_eq!(made.code, 201);
    assert_eq!(owners(&made.json), [owned("Apply", "a", json!({"f:data": {"f:x": {}, "f:y": {}}}))]);
    let entry = &made.json["metadata"]["managedFields"][0];
    assert_eq!((text(&entry["apiVersion"]), text(&entry["fieldsType"])), ("v1".into(), "FieldsV1".into()));
    assert!(entry["time"].is_string());

    let same = api.apply(&path, "a", &map(&json!({"x": "1", "y": "1"}))).await;
    assert_eq!((same.code, &same.json), (200, &made.json), "nothing is written");
    let less = api.apply(&path, "a", &map(&json!({"x": "2"}))).await.ok();
    assert_eq!(less["data"], json!({"x": "2"}));
    // Another manager's fields stay, and those that both apply stay until the last one lets go.
    let other = api.apply(&path, "b", &map(&json!({"x": "2", "z": "3"}))).await.ok();
    assert_eq!(other["data"], json!({"x": "2", "z": "3"}));
    let shared = api.apply(&path, "a", &map(&json!({}))).await.ok();
    assert_eq!(shared["data"], json!({"x": "2", "z": "3"}));
    assert_eq!(owners(&shared), [owned("Apply", "b", json!({"f:data": {"f:x": {}, "f:z": {}}}))]);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\n  creationTimestamp: null\ndata:\n  z: \"3\"\n";
    let request = api.request(Method::PATCH, &format!("{path}?fieldManager=b"), &[(CONTENT_TYPE, APPLY)], yaml).await;
    assert_eq!(request.ok()["data"], json!({"z": "3"}));
}

#[tokio::test]
async fn conflicts() {
    let api = Api::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let config = |replicas: u32, image: &str| {
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
    };
    api.apply(&path, "a", &config(1, "i")).await.ok();
    let one = api.apply(&path, "b", &config(2, "i")).await;
    assert_eq!(one.error(), (409, "Conflict", "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"));
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".spec.replicas"});
    assert_eq!(one.json["details"]["causes"], json!([cause]));
    let two = api.apply(&path, "b", &config(2, "j")).await;
    let expected = "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image";
    assert_eq!(two.error().2, expected);
    let forced = api.apply(&path, "b&force=true", &config(2, "i")).await.ok();
    assert_eq!((&forced["spec"]["replicas"], forced["metadata"]["generation"].as_i64()), (&json!(2), Some(2)));
    assert_eq!(api.apply(&path, "a", &config(1, "i")).await.error().0, 409);

    // A plain update owns what it changes.
    let agent = (http::header::USER_AGENT, "tool/v1 (linux)");
    let scale = json!({"spec": {"replicas": 5}}).to_string();
    let scaled = api.request(Method::PATCH, &path, &[(CONTENT_TYPE, MERGE), agent], scale).await.ok();
    assert_eq!(owners(&scaled)[2], owned("Update", "tool", json!({"f:spec": {"f:replicas": {}}})));
    let update = api.apply(&path, "b", &config(2, "i")).await;
    assert_eq!(update.error().2, "Apply failed with 1 conflict: conflict with \"tool\" using apps/v1: .spec.replicas");
    assert_eq!(api.apply(&path, "b", &config(5, "i")).await.code, 200, "the same value is nobody's loss");
}

/// `kubectl apply --server-side` of what `kubectl apply` made.
#[tokio::test]
async fn kubectl_takes_over_from_itself() {
    let api = Api::new().await;
    let path = format!("{MAPS}/m");
    let last = map(&json!({"x": "1", "y": "1"})).to_string();
    let mut object = map(&json!({"x": "1", "y": "changed"}));
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let made = api.post(MAPS, object).await.ok();
    assert_eq!(owners(&made), [], "nothing is tracked before someone applies");
    let wanted = map(&json!({"x": "2", "y": "2"}));
    let other = api.apply(&path, "other", &wanted).await;
    let with = "conflict with \"before-first-apply\" using v1";
    assert!(
        other.error().2.contains("2 conflicts") && other.json["details"]["causes"][0]["message"] == with,
        "{other:?}"
    );
    let changed = api.apply(&path, "kubectl", &wanted).await;
    assert_eq!(changed.error().2, format!("Apply failed with 1 conflict: {with}: .data.y"));
    let taken = api.apply(&path, "kubectl", &map(&json!({"x": "2", "y": "changed"}))).await.ok();
    assert_eq!(taken["data"]["x"], "2");
    let last = text(&taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]);
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["data"], json!({"x": "2", "y": "changed"}));
}

#[tokio::test]
async fn status_and_the_rest_are_applied_apart() {
    let api = Api::new().await;
    api.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 7}, "status": {"replicas": 3}});
    let status = api.apply(&format!("{path}/status"), "s", &config).await.ok();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(2), &json!(3)));
    let own = |object: &Value| owners(object).into_iter().find(|owner| owner.0 == "Apply" && owner.1 == "s");
    let fields = json!({"f:status": {"f:replicas": {}}});
    assert_eq!(own(&status), Some(("Apply".into(), "s".into(), "status".into(), fields)));
    let main = api.apply(&path, "m&force=true", &config).await.ok();
    assert_eq!((&main["spec"]["replicas"], &main["status"]["replicas"]), (&json!(7), &json!(3)));
    assert!(owners(&main).contains(&owned("Apply", "m", json!({"f:spec": {"f:replicas": {}}}))));
    assert_eq!(api.apply(&format!("{DEPLOYMENTS}/none/status"), "s", &config).await.error().0, 400);
}

#[tokio::test]
async fn owners_can_be_written_and_forgotten() {
    let api = Api::new().await;
    let path = format!("{MAPS}/m");
    let made = api.apply(&path, "a", &map(&json!({"x": "1"}))).await.ok();
    let mut entry = made["metadata"]["managedFields"][0].clone();
    entry["manager"] = "b".into();
    let replace = |value: Value| json!([{"op": "replace", "path": "/metadata/managedFields", "value": value}]);
    let renamed = api.patch(&path, JSON_PATCH, replace(json!([entry]))).await.ok();
    assert_eq!(owners(&renamed), [owned("Apply", "b", json!({"f:data": {"f:x": {}}}))]);
    // Clients that do not know of owners keep them; what cannot be read changes nothing.
    let mut object = renamed.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    let plain = api.put(&path, &object).await.ok();
    assert_eq!(owners(&plain), owners(&renamed));
    let nonsense = api.patch(&path, JSON_PATCH, replace(json!([{"operation": "Other"}]))).await.ok();
    assert_eq!(owners(&nonsense), owners(&renamed));
    let forgotten = api.patch(&path, JSON_PATCH, replace(json!([{}]))).await.ok();
    assert!(forgotten["metadata"].get("managedFields").is_none());
}

#[tokio::test]
async fn what_cannot_be_applied_says_why() {
    let api = Api::new().await;
    let path = format!("{MAPS}/m");
    let config = map(&json!({"x": "1"}));
    let nobody = api.patch(&path, APPLY, config.clone()).await;
    assert_eq!((nobody.error().0, &nobody.json["details"]["causes"][0]["field"]), (422, &json!("fieldManager")));
    assert_eq!(api.patch(&format!("{path}?force=true"), MERGE, json!({})).await.error().0, 422);
    let mut unknown = config.clone();
    unknown["unknownField"] = "x".into();
    unknown["metadata"]["namespace"] = "default".into();
    assert_eq!(
        api.apply(&path, "a", &unknown).await.error(),
        (
            500,
            "",
            "failed to create typed patch object (default/m; /v1, Kind=ConfigMap): .unknownField: field not declared in schema"
        )
    );
    unknown["another"] = "y".into();
    assert_eq!(
        api.apply(&path, "a", &unknown).await.error().2,
        "failed to create typed patch object (default/m; /v1, Kind=ConfigMap): errors:\n  \
         .another: field not declared in schema\n  .unknownField: field not declared in schema"
    );
    let mut owned = config.clone();
    owned["metadata"]["managedFields"] = json!([]);
    assert_eq!(api.apply(&path, "a", &owned).await.error().2, "metadata.managedFields must be nil");
    let mut other = config.clone();
    other["metadata"]["uid"] = "some".into();
    assert!(api.apply(&path, "a", &other).await.error().2.contains("uid mismatch"));
    assert_eq!(api.apply(&format!("{MAPS}/other"), "a", &config).await.error().0, 400);
    let twice = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"x": "1", "x": "2"}}"#;
    let target = format!("{path}?fieldManager=a&fieldValidation=Strict");
    let strict = api.request(Method::PATCH, &target, &[(CONTENT_TYPE, APPLY)], twice).await;
    assert!(strict.error().0 == 400 && strict.error().2.contains("duplicate field \"data.x\""), "{:?}", strict.error());
    api.apply(&path, "a&dryRun=All", &config).await.ok();
    assert_eq!(api.get(&path).await.error().0, 404);
}

#[tokio::test]
async fn of_many_updaters_the_oldest_are_one() {
    let api = Api::new().await;
    let path = format!("{MAPS}/m");
    let mut last = api.apply(&path, "a", &map(&json!({"x": "1"}))).await.ok();
    for n in 0..12 {
        let body = json!({"data": {format!("k{n:02}"): "v"}});
        last = api.patch(&format!("{path}?fieldManager=u{n:02}"), MERGE, body).await.ok();
    }
    let all = owners(&last);
    assert_eq!(all.len(), 11, "{all:?}");
    let ancient = json!({"f:data": {"f:k00": {}, "f:k01": {}, "f:k02": {}}});
    assert!(all.contains(&owned("Update", "ancient-changes", ancient)), "{all:?}");
    assert!(all.contains(&owned("Apply", "a", json!({"f:data": {"f:x": {}}}))), "{all:?}");
}
