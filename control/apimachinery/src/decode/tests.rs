//! Bodies and what becomes of them.

use serde_json::json;

use super::*;
use crate::gvk::Gvk;

fn pod() -> &'static Schema {
    Schema::of(&Gvk::new("", "v1", "Pod")).unwrap()
}

fn json_pod(body: &str, validation: FieldValidation) -> Result<Decoded> {
    decode(body.as_bytes(), Media::Json, Some(pod()), validation)
}

#[test]
fn values_become_what_go_would_make_of_them() {
    let cases = [
        (json!({"spec": {"nodeName": null, "securityContext": {}}}), json!({"spec": {"securityContext": {}}})),
        (json!({"metadata": {"creationTimestamp": null}}), json!({"metadata": {}})),
        (json!({"metadata": {"labels": {"a": null}}}), json!({"metadata": {"labels": {"a": ""}}})),
        (json!({"spec": {"containers": [null]}}), json!({"spec": {"containers": [{}]}})),
        (
            json!({"spec": {"overhead": {"cpu": 0.5, "memory": "1024Mi", "x": 2}}}),
            json!({"spec": {"overhead": {"cpu": "500m", "memory": "1Gi", "x": "2"}}}),
        ),
        (
            json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05.7+01:00"}}),
            json!({"metadata": {"creationTimestamp": "2026-01-02T02:04:05Z"}}),
        ),
        (
            json!({"metadata": {"managedFields": [{"fieldsV1": {"f:x": {}}}]}}),
            json!({"metadata": {"managedFields": [{"fieldsV1": {"f:x": {}}}]}}),
        ),
        (json!({"foo": 1, "spec": {"bar": {"a": []}}}), json!({"spec": {}})),
        // Empty optional lists and maps are left out; objects and required lists stay.
        (
            json!({"metadata": {"labels": {}, "finalizers": []}, "spec": {"containers": [], "tolerations": [], "affinity": {}}}),
            json!({"metadata": {}, "spec": {"containers": [], "affinity": {}}}),
        ),
        // So is false where no one can choose it: clients that send all fields must not change a template by it.
        (
            json!({"spec": {"hostNetwork": false, "hostPID": true, "enableServiceLinks": false, "containers": [{"tty": false}]}}),
            json!({"spec": {"hostPID": true, "enableServiceLinks": false, "containers": [{}]}}),
        ),
    ];
    for (body, expect) in cases {
        let decoded = json_pod(&body.to_string(), FieldValidation::Ignore).unwrap();
        assert_eq!(decoded.object, expect, "{body}");
        assert!(decoded.warnings.is_empty());
    }
}

#[test]
fn unknown_and_duplicate_fields() {
    let body = r#"{"kind":"Pod","apiVersion":"v1","spec":{"foo":{"x":1,"x":2},"nodeName":"a","nodeName":"b",
        "containers":[{"name":"c","bar":1}]}}"#;
    let names = [
        r#"unknown field "spec.foo""#,
        r#"duplicate field "spec.nodeName""#,
        r#"unknown field "spec.containers[0].bar""#,
    ];
    let warned = json_pod(body, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, names);
    assert_eq!(warned.object["spec"], json!({"nodeName": "b", "containers": [{"name": "c"}]}));
    let strict = json_pod(body, FieldValidation::Strict).unwrap_err();
    let prefix = r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: "#;
    assert_eq!((strict.code, strict.message), (400, format!("{prefix}{}", names.join(", "))));
    let free = decode(br#"{"a":1,"a":2}"#, Media::Json, None, FieldValidation::Warn).unwrap();
    assert_eq!(free.warnings, [r#"duplicate field "a""#]);
}

#[test]
fn wrong_types() {
    let cases = [
        (
            json!({"spec": {"containers": "x"}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"spec": {"containers": [{"ports": [{"containerPort": 3.5}]}]}}),
            "json: cannot unmarshal number 3.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"spec": {"priority": 3_000_000_000_u64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (json!({"spec": {"hostNetwork": "true"}}), "of type bool"),
        (json!({"spec": {"containers": {}}}), "json: cannot unmarshal object into"),
        (json!({"spec": {"overhead": {"cpu": "1x"}}}), "spec.overhead.cpu: quantities must match"),
        (json!({"metadata": {"creationTimestamp": "today"}}), "metadata.creationTimestamp: parsing time \"today\""),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
    ];
    for (body, expect) in cases {
        let status = json_pod(&body.to_string(), FieldValidation::Ignore).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains(expect), "{} should have {expect}", status.message);
        assert!(status.message.starts_with(r#"Pod in version "v1" cannot be handled as a Pod: "#));
    }
}

#[test]
fn malformed_bodies_are_400_and_say_where() {
    let cases: [(&[u8], Media, &str); 7] = [
        (b"", Media::Json, "EOF"),
        (b"{", Media::Json, "column 1"),
        (b"{}x", Media::Json, "trailing characters at line 1 column 3"),
        (b"{\"a\":\"\xff\"}", Media::Json, "column"),
        (b"a: \xff", Media::Yaml, "index 3"),
        (b"a: [", Media::Yaml, ""),
        (b"{\"a\":1e999}", Media::Json, "number out of range"),
    ];
    for (body, media, expect) in cases {
        let status = parse(body, media).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains(expect), "{}", status.message);
    }
}

#[test]
fn yaml_scalars() {
    let cases = [
        ("a: 0644", json!({"a": 420})),
        ("a: 3.0", json!({"a": 3})),
        ("a: 1.5", json!({"a": 1.5})),
        ("a: yes", json!({"a": true})),
        ("a: 'yes'", json!({"a": "yes"})),
        ("a: ~\nb:", json!({"a": null, "b": null})),
        ("1: x\ntrue: z", json!({"1": "x", "true": "z"})),
        ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
        ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
        ("{\"a\": [1, \"2\"]}", json!({"a": [1, "2"]})),
        ("a: 2026-01-02T03:04:05Z", json!({"a": "2026-01-02T03:04:05Z"})),
        ("a: v1.2.3\nb: 1Gi\nc: 1e3x", json!({"a": "v1.2.3", "b": "1Gi", "c": "1e3x"})),
    ];
    for (body, expect) in cases {
        assert_eq!(parse(body.as_bytes(), Media::Yaml), Ok(expect), "{body}");
    }
}

#[test]
fn only_the_first_yaml_document_counts() {
    for body in [
        "a: 1\n---\n",
        "a: 1\n---",
        "---\na: 1\n---\n",
        "# x\n\n--- \na: 1\n--- # y\nb: 2\n",
        "%YAML 1.2\n---\na: 1\n...\n",
        "a: 1\n--- [\n",
        "a: 1\r\n---\r\nb: 2",
        "{a: 1}\n---\n{b",
    ] {
        assert_eq!(parse(body.as_bytes(), Media::Yaml), Ok(json!({"a": 1})), "{body:?}");
    }
    let text = "a: |\n  x\n  ---\n  y\nb: ---x\n";
    assert_eq!(parse(text.as_bytes(), Media::Yaml), Ok(json!({"a": "x\n---\ny\n", "b": "---x"})));
}

#[test]
fn yaml_duplicates_name_the_line() {
    let body = b"kind: Pod\nspec:\n  nodeName: a\n  nodeName: b\n";
    let decoded = decode(body, Media::Yaml, Some(pod()), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.object["spec"]["nodeName"], "b");
    assert_eq!(decoded.warnings, ["yaml: unmarshal errors:\n  line 4: key \"nodeName\" already set in map"]);
}

/// Deep and expanding bodies end in an answer, on the stack of a worker thread.
#[test]
fn hostile_bodies() {
    let deep = |open: &str, close: &str, levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
    let run = move || {
        for levels in [101, 20_000] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                assert_eq!(parse(deep(open, close, levels).as_bytes(), Media::Json).unwrap_err().code, 400);
                assert_eq!(parse(deep(open, close, levels).as_bytes(), Media::Yaml).unwrap_err().code, 400);
            }
        }
        assert!(parse(deep("[", "]", 100).as_bytes(), Media::Json).is_ok());
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            assert!(parse(deep(open, close, parse::MAX_YAML_DEPTH).as_bytes(), Media::Yaml).is_ok());
        }
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..10 {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert_eq!(parse(bomb.as_bytes(), Media::Yaml).unwrap_err().code, 400);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
