//! The algebra of fields on built-in kinds.

use serde_json::json;

use super::*;
use crate::gvk::Gvk;

fn schema(group: &str, kind: &str) -> &'static Schema {
    Schema::of(&Gvk::new(group, "v1", kind)).unwrap()
}

fn pod(containers: &Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
}

#[test]
fn sets_are_written_as_clients_read_them() {
    let object = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x/y"]}, "spec": {"nodeSelector": {"a": "b"},
        "containers": [{"name": "c", "image": "i", "args": ["1"], "ports": [{"containerPort": 80}], "resources": {}}]}});
    let set = field_set(&object, schema("", "Pod")).unwrap();
    let expected = json!({
        "f:metadata": {"f:finalizers": {"v:\"x/y\"": {}}, "f:labels": {"f:a": {}}},
        "f:spec": {"f:nodeSelector": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {},
            "f:resources": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}},
    });
    assert_eq!(set.to_value(), expected);
    assert_eq!(Set::parse(&expected).unwrap(), set);
    let loose = json!({"f:containers": {"k:{ \"name\": \"c\" }": {}}});
    assert_eq!(Set::parse(&loose).unwrap().paths(), [".containers[name=\"c\"]"]);
    for bad in [json!([]), json!({"x": {}}), json!({"k:{": {}}), json!({"f:a": 1})] {
        assert!(Set::parse(&bad).is_err(), "{bad}");
    }
    assert!(set.paths().contains(&".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]".to_owned()));
}

#[test]
fn sets_add_and_take() {
    let set = |value: Value| Set::parse(&value).unwrap();
    let (a, b) = (set(json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}})), set(json!({"f:a": {}, "f:c": {}})));
    assert_eq!(a.clone().difference(&b), set(json!({"f:a": {"f:x": {}}, "f:b": {}})));
    assert_eq!(a.intersection(&b), set(json!({"f:a": {}})));
    assert_eq!(a.clone().union(&b), set(json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}, "f:c": {}})));
    assert_eq!(a.clone().without(&["a"]), set(json!({"f:b": {}})));
    assert_eq!(a.clone().without(&["a", "x"]), set(json!({"f:a": {}, "f:b": {}})));
    assert_eq!(a.keeping(|name| name == "b"), set(json!({"f:b": {}})));
}

#[test]
fn differences() {
    let old =
        json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let new = json!({"metadata": {"labels": {"a": "2"}, "annotations": {"x": "y"}},
        "spec": {"containers": [{"name": "d", "image": "i"}, {"name": "c", "image": "i"}]}});
    let found = compare(&old, &new, schema("", "Pod")).unwrap();
    assert_eq!(found.modified.to_value(), json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
    assert_eq!(found.removed.to_value(), json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
    assert_eq!(
        found.added.to_value(),
        json!({"f:metadata": {"f:annotations": {".": {}, "f:x": {}}},
               "f:spec": {"f:containers": {"k:{\"name\":\"d\"}": {".": {}, "f:name": {}, "f:image": {}}}}})
    );
    assert!(compare(&new, &new, schema("", "Pod")).unwrap().is_same());
}

#[test]
fn merges() {
    let names = |object: &Value| -> String {
        let all = object["spec"]["containers"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap()).collect()
    };
    let list = |text: &str| pod(&text.chars().map(|name| json!({"name": name.to_string()})).collect::<Value>());
    for (live, applied, expected) in [
        ("ab", "", "ab"),
        ("", "ab", "ab"),
        ("ab", "ba", "ba"),
        ("axb", "ab", "axb"),
        ("axb", "ba", "xba"),
        ("ab", "acb", "acb"),
        ("xa", "ab", "xab"),
        ("abcd", "dx", "abcdx"),
        ("abcd", "xb", "axbcd"),
    ] {
        let merged = merge(&list(live), &list(applied), schema("", "Pod")).unwrap();
        assert_eq!(names(&merged), expected, "{live} {applied}");
    }
    let live =
        pod(&json!([{"name": "c", "image": "old", "command": ["a", "b"], "env": [{"name": "X", "value": "1"}]}]));
    let applied = pod(&json!([{"name": "c", "command": ["z"], "env": [{"name": "Y", "value": "2"}]}]));
    let merged = merge(&live, &applied, schema("", "Pod")).unwrap();
    let env = json!([{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]);
    assert_eq!(merged["spec"]["containers"], json!([{"name": "c", "image": "old", "command": ["z"], "env": env}]));
}

#[test]
fn removals_leave_nothing_empty() {
    let object = json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"hostname": "h",
        "containers": [{"name": "c", "image": "i", "stdin": true}, {"name": "d"}]}});
    let fields = Set::parse(&json!({"f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:stdin": {}}, "k:{\"name\":\"d\"}": {}}}}))
    .unwrap();
    let left = remove(&object, &fields, schema("", "Pod")).unwrap();
    assert_eq!(
        left,
        json!({"metadata": {"name": "p"}, "spec": {"hostname": "h", "containers": [{"name": "c", "image": "i"}]}})
    );
}

#[test]
fn named_fields_are_owned_with_what_is_in_them() {
    let set = Set::parse(&json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}}},
        "f:metadata": {"f:labels": {"f:a": {}}}}))
    .unwrap();
    let expected = json!({"f:spec": {".": {}, "f:containers": {".": {}, "k:{\"name\":\"c\"}": {"f:image": {}}}},
        "f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}}});
    assert_eq!(named(&set, schema("", "Pod")).to_value(), expected);
}

#[test]
fn what_cannot_be_applied() {
    let twice = pod(&json!([{"name": "c", "bad": 1}, {"name": "c"}, {"image": "i"}]));
    assert_eq!(
        check(&twice, schema("", "Pod")),
        [
            ".spec.containers[name=\"c\"].bad: field not declared in schema",
            ".spec.containers: duplicate entries for key [name=\"c\"]",
            ".spec.containers: element 2: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ]
    );
    assert!(check(&json!({"data": {"any": "thing"}}), schema("", "ConfigMap")).is_empty());
}
