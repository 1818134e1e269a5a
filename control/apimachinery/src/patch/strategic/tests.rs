//! Patches as kubectl and controllers send them.

use serde_json::json;

use super::*;
use crate::gvk::Gvk;

fn pod() -> &'static Schema {
    Schema::of(&Gvk::new("", "v1", "Pod")).unwrap()
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].to_string().trim_matches('"').to_owned()).collect()
}

fn containers(names: &[&str]) -> Value {
    json!({"containers": names.iter().map(|name| json!({"name": name, "image": "old"})).collect::<Vec<_>>()})
}

fn check(cases: &[(Value, Value, Value)]) {
    for (object, patch, expect) in cases {
        assert_eq!(strategic_merge(object, patch, pod()).as_ref(), Ok(expect), "{object}\n{patch}");
    }
}

#[test]
fn merges() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases = [
        // What merges by key, and new items before the server's.
        (
            spec(containers(&["a", "b"])),
            spec(json!({"containers": [{"name": "b", "image": "new"}, {"name": "c"}]})),
            spec(json!({"containers": [{"name": "a", "image": "old"}, {"name": "b", "image": "new"}, {"name": "c"}]})),
        ),
        (
            spec(containers(&["a"])),
            spec(json!({"containers": [{"name": "c"}]})),
            spec(json!({"containers": [{"name": "c"}, {"name": "a", "image": "old"}]})),
        ),
        (
            spec(containers(&["a", "b"])),
            spec(json!({"containers": [{"name": "a", "$patch": "delete"}]})),
            spec(containers(&["b"])),
        ),
        (
            spec(containers(&["a", "b"])),
            spec(json!({"containers": [{"name": "x"}, {"$patch": "replace"}]})),
            spec(json!({"containers": [{"name": "x"}]})),
        ),
        // Maps: merge, remove, replace, delete.
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 1}}}),
            json!({"spec": {"securityContext": {"$patch": "delete"}}}),
            json!({"spec": {"securityContext": {}}}),
        ),
    ];
    check(&cases);
}

#[test]
fn merges_scalars_and_orders() {
    let spec = |spec: Value| json!({ "spec": spec });
    let cases = [
        // Lists of scalars: merge where the schema says so, else replace.
        (
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "a"]}}),
            json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
        ),
        (
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b"]}}),
        ),
        (
            spec(json!({"containers": [{"name": "a", "args": ["x"]}]})),
            spec(json!({"containers": [{"name": "a", "args": ["y"]}]})),
            spec(json!({"containers": [{"name": "a", "args": ["y"]}]})),
        ),
        (
            spec(json!({"tolerations": [{"key": "a"}]})),
            spec(json!({"tolerations": [{"key": "b"}]})),
            spec(json!({"tolerations": [{"key": "b"}]})),
        ),
        // Retained keys.
        (
            spec(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
            spec(json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]})),
            spec(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
        ),
        // Element order.
        (
            spec(containers(&["a", "b", "c"])),
            spec(json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]})),
            spec(containers(&["b", "c", "a"])),
        ),
        (
            spec(containers(&["a", "b"])),
            spec(json!({"$setElementOrder/containers": [{"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]})),
            spec(json!({"containers": [{"name": "n"}, {"name": "a", "image": "old"}, {"name": "b", "image": "old"}]})),
        ),
        (
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"],
                "$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
        ),
        // Nothing to merge with: directives and nulls go.
        (
            json!({}),
            spec(json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": null},
                {"name": "b", "$patch": "delete"}]})),
            spec(json!({"containers": [{"name": "a"}]})),
        ),
        // Another type than before, and fields that the schema does not know.
        (json!({"spec": "x"}), spec(json!({"a": 1})), spec(json!({"a": 1}))),
        (json!({"x": {"a": 1, "l": [1]}}), json!({"x": {"b": 2, "l": [2]}}), json!({"x": {"a": 1, "b": 2, "l": [2]}})),
    ];
    check(&cases);
}

#[test]
fn ports_merge_by_their_key() {
    let service = Schema::of(&Gvk::new("", "v1", "Service")).unwrap();
    let object = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    let patch = json!({"spec": {"ports": [{"port": 81, "name": "c"}, {"port": 82}]}});
    let merged = strategic_merge(&object, &patch, service).unwrap();
    assert_eq!(names(&merged["spec"]["ports"], "port"), ["80", "81", "82"]);
    assert_eq!(merged["spec"]["ports"][1]["name"], "c");
}

#[test]
fn refuses() {
    let cases = [
        (json!({"metadata": {"labels": {"$patch": "mend"}}}), "unknown patch type: \"mend\" in map"),
        (json!({"spec": {"containers": [{"image": "x"}]}}), "does not contain declared merge key: name"),
        (json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}), "merging lists cannot yet"),
        (json!({"spec": {"containers": [{"$patch": "delete"}]}}), "does not contain declared merge key: name"),
        (json!({"spec": {"$retainKeys": "x"}}), "invalid patch format of retainKeys"),
        (json!({"spec": {"$retainKeys": ["a"], "b": 1}}), "patch content doesn't match retainKeys list"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}), "invalid patch format of primitive list"),
        (json!({"spec": {"$setElementOrder/containers": 1}}), "invalid patch format of setElementOrder list"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}),
            "doesn't match $setElementOrder list",
        ),
        (json!([]), "must be an object"),
    ];
    let object = json!({"metadata": {"labels": {}, "finalizers": ["a"]}, "spec": {"containers": [{"name": "a"}]}});
    for (patch, expect) in cases {
        let status = strategic_merge(&object, &patch, pod()).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains(expect), "{} should have {expect}", status.message);
    }
}
