//! Both ways, against what Go wrote, what the specification of the wire allows, and what is malformed.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::*;
use crate::decode::{FieldValidation, Media, check};

/// Random objects of every kind, written by upstream's own types and serializers (Go, v0.36.3): a line each, of apiVersion, kind, the
/// enveloped bytes in base64, and the JSON that Go makes of those bytes.
const VECTORS: &[u8] = include_bytes!("vectors.txt.gz");

struct Vector {
    api_version: String,
    kind: String,
    bytes: Vec<u8>,
    json: Value,
}

fn vectors() -> Vec<Vector> {
    let mut text = String::new();
    GzDecoder::new(VECTORS).read_to_string(&mut text).unwrap();
    let vector = |line: &str| {
        let [api_version, kind, bytes, json] = line.splitn(4, '\t').collect::<Vec<_>>().try_into().unwrap();
        let bytes = STANDARD.decode(bytes).unwrap();
        Vector { api_version: api_version.into(), kind: kind.into(), bytes, json: serde_json::from_str(json).unwrap() }
    };
    text.lines().map(vector).collect()
}

/// An object as it is stored: without what says nothing.
fn settled(schema: &Schema, mut object: Value) -> Value {
    check(schema, &mut object, FieldValidation::Strict).unwrap();
    object
}

/// What is read of Go's bytes is what Go reads; what is written of it is read again as the same, and is no longer than Go's.
#[test]
fn upstreams_objects_are_read_and_written() {
    let mut kinds = std::collections::BTreeSet::new();
    for Vector { api_version, kind, bytes, json } in vectors() {
        let what = format!("{api_version} {kind}");
        let (schema, found) = (schema(&api_version, &kind).unwrap(), Kind::of(&api_version, &kind).unwrap());
        let expected = settled(schema, json.clone());
        let read = settled(schema, decode(&bytes, None).unwrap());
        assert_eq!(read, without_required_empties(&read, expected.clone()), "{what}");
        for written in [found.object(json.to_string().as_bytes()).unwrap(), found.value(&json).unwrap()] {
            assert_eq!(settled(schema, decode(&written, None).unwrap()), expected, "{what}");
        }
        kinds.insert(what);
    }
    let served = crate::resources::all().iter().filter(|one| !one.group.ends_with("example.com"));
    for one in served {
        let api_version = crate::gvk::api_version(&one.group, &one.version);
        assert!(kinds.contains(&format!("{api_version} {}", one.kind)), "{api_version} {}: no vector", one.kind);
        let list = Kind::of(&api_version, &one.list_kind);
        assert!(list.is_some() || !one.has_verb("list"), "{api_version} {}", one.list_kind);
    }
}

/// A dozen strings are required and yet left out by Go when they are empty: they are kept here, where validation complains of them.
fn without_required_empties(read: &Value, mut expected: Value) -> Value {
    if let (Value::Object(read), Value::Object(fields)) = (read, &mut expected) {
        for (name, value) in read {
            match fields.get_mut(name) {
                Some(nested) => *nested = without_required_empties(value, nested.take()),
                None if value == "" => drop(fields.insert(name.clone(), value.clone())),
                None => {}
            }
        }
    } else if let (Value::Array(read), Value::Array(items)) = (read, &mut expected) {
        for (read, item) in read.iter().zip(items) {
            *item = without_required_empties(read, item.take());
        }
    }
    expected
}

/// A field with bytes.
fn part(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, bytes);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [part(1, api_version.as_bytes()), part(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), part(1, &meta), part(2, raw), vec![0x1a, 0, 0x22, 0]].concat()
}

fn service(raw: &[u8]) -> Result<Value, Malformed> {
    decode(&envelope("v1", "Service", raw), None).map(|mut object| object["spec"].take())
}

#[test]
fn proto2_is_read_whole() {
    let port = |number: u8| part(1, &[part(1, b"p"), vec![0x18, number]].concat());
    let cases = [
        // A message that comes in two parts is one; of a scalar the last counts, also a zero.
        (
            [part(2, &part(3, b"a")), part(2, &[part(7, b"x"), part(3, b"b")].concat())].concat(),
            json!({"clusterIP": "b", "sessionAffinity": "x"}),
        ),
        (part(2, &[part(3, b"a"), part(3, b"")].concat()), json!({})),
        // Unknown numbers of each wire type, groups within groups among them.
        (
            part(
                2,
                &[
                    part(3, b"a"),
                    vec![0xf8, 0x3e, 1, 0xf9, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8, 0xfd, 0x3e, 1, 2, 3, 4],
                    vec![0xfb, 0x3e, 0x0b, 0x08, 1, 0x12, 1, 9, 0x0c, 0xfc, 0x3e],
                    part(1000, b"z"),
                ]
                .concat(),
            ),
            json!({"clusterIP": "a"}),
        ),
        // Of a map's equal keys the last counts; what an entry lacks is empty.
        (
            part(
                2,
                &[
                    part(2, &[part(1, b"k"), part(2, b"v")].concat()),
                    part(2, &[part(2, b"w"), part(1, b"k")].concat()),
                    part(2, &part(1, b"e")),
                ]
                .concat(),
            ),
            json!({"selector": {"k": "w", "e": ""}}),
        ),
        (part(2, &[port(1), port(2)].concat()), json!({"ports": [{"name": "p", "port": 1}, {"name": "p", "port": 2}]})),
        // What is required is kept, and a pointer to zero; a number that is neither says nothing.
        (
            part(2, &[part(1, &[0x18, 0, 0x28, 0]), vec![0x60, 0, 0x68, 0], part(14, &part(1, &[0x08, 0]))].concat()),
            json!({"ports": [{"port": 0}], "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
        ),
        // Negative numbers are 64 bits long; Go takes the low 32 of a number that is too large.
        (
            part(2, &part(1, &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
            json!({"ports": [{"port": -1}]}),
        ),
        (part(2, &part(1, &[0x18, 0x82, 0x80, 0x80, 0x80, 0x10])), json!({"ports": [{"port": 2}]})),
    ];
    for (raw, expected) in cases {
        assert_eq!(service(&raw).unwrap(), expected, "{raw:?}");
    }
}

#[test]
fn packed_numbers_are_read() {
    // PodSecurityContext.supplementalGroups is field 4 of PodSpec's securityContext (14).
    let pod = |groups: &[u8]| envelope("v1", "Pod", &part(2, &part(14, groups)));
    for groups in [vec![0x20, 1, 0x20, 0x80, 1], part(4, &[1, 0x80, 1]), [vec![0x20, 1], part(4, &[0x80, 1])].concat()]
    {
        let read = decode(&pod(&groups), None).unwrap();
        assert_eq!(read["spec"]["securityContext"]["supplementalGroups"], json!([1, 128]));
    }
}

#[test]
fn bytes_are_as_gos() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:01Z"},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"configMap": {"name": "m", "optional": false}, "name": "v"}]},
    });
    // ConfigMapVolumeSource: the name is in an inlined reference (1), `optional` is 4; VolumeSource is 2 of Volume, configMap its 19.
    let volume = [part(1, b"v"), part(2, &part(19, &[part(1, &part(1, b"m")), vec![0x20, 0]].concat()))].concat();
    let limits = part(1, &[part(1, b"cpu"), part(2, &part(1, b"1"))].concat());
    let spec = [part(1, &volume), part(2, &[part(1, b"c"), part(8, &limits)].concat())].concat();
    let meta = [part(1, b"a"), part(8, &[0x08, 1, 0x10, 0])].concat();
    let expected = envelope("v1", "Pod", &[part(1, &meta), part(2, &spec)].concat());
    assert_eq!(Kind::of_object(&object).unwrap().value(&object).unwrap(), expected);
}

#[test]
fn lists_and_events_are_put_together() {
    let kind = Kind::of("v1", "SecretList").unwrap();
    let items: Vec<Vec<u8>> = ["a".to_owned(), "b".repeat(300)]
        .iter()
        .map(|name| {
            let mut message = Vec::new();
            let object = json!({"metadata": {"name": name}});
            Kind::of("v1", "Secret").unwrap().message_of(&object, &mut message).unwrap();
            message
        })
        .collect();
    let size = items.iter().map(|item| list_item_len(item.len())).sum();
    let mut list = list_head(kind, &json!({"resourceVersion": "7"}), size).unwrap();
    items.iter().for_each(|item| list_item(item, &mut list));
    list.extend_from_slice(TAIL);
    let read = decode(&list, None).unwrap();
    assert_eq!(
        (&read["metadata"]["resourceVersion"], &read["items"][0]["metadata"]["name"]),
        (&json!("7"), &json!("a"))
    );
    assert_eq!(read["items"][1]["metadata"]["name"].as_str().map(str::len), Some(300));
    assert!(list_head(Kind::of("v1", "Binding").unwrap(), &json!({}), 0).is_ok(), "any metadata will do");
    for size in [0, 1, 100, 127, 128, 20_000] {
        let mut frame = Vec::new();
        watch_event("ADDED", &vec![b'x'; size], &mut frame);
        let (length, event) = frame.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
        assert_eq!(event, [part(1, b"ADDED"), part(2, &part(1, &vec![b'x'; size]))].concat());
    }
}

#[test]
fn malformed_bytes_are_refused() {
    let wrong = |field: &str, wire| Malformed::WrongType { field: field.into(), wire };
    let text = Malformed::NotUtf8("clusterIP".into());
    let cases = [
        (b"".to_vec(), Malformed::NoMagic),
        (b"{}".to_vec(), Malformed::NoMagic),
        (MAGIC.to_vec(), Malformed::Empty),
        (b"k8s\0\xff".to_vec(), Malformed::Cut),
        (b"k8s\0\x0a\x7f".to_vec(), Malformed::Cut),
        (b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(), Malformed::Cut),
        (b"k8s\0\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(), Malformed::Overflow),
        (b"k8s\0\x0f".to_vec(), Malformed::WireType(7)),
        (b"k8s\0\x02".to_vec(), Malformed::Tag(0, 2)),
        (b"k8s\0\x0c".to_vec(), Malformed::EndGroup),
        (b"k8s\0\x0b\x08".to_vec(), Malformed::Cut),
        (envelope("v1", "Service", &[0x10, 1]), wrong("spec", 0)),
        (envelope("v1", "Service", &part(2, &[0x18, 1])), wrong("clusterIP", 0)),
        (envelope("v1", "Service", &part(2, &part(1, &part(3, b"x")))), wrong("port", 2)),
        (envelope("v1", "Service", &part(2, &part(3, b"\xff"))), text),
        (
            envelope("v1", "Service", &part(1, &part(8, &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]))),
            Malformed::OutOfRange("creationTimestamp".into()),
        ),
        (envelope("v1", "Nothing", b""), Malformed::UnknownKind { api_version: "v1".into(), kind: "Nothing".into() }),
        (envelope("", "", b""), Malformed::UnknownKind { api_version: String::new(), kind: String::new() }),
    ];
    for (body, expected) in cases {
        assert_eq!(decode(&body, None).unwrap_err(), expected, "{body:?}");
    }
    let raw = envelope("apps/v1", "ControllerRevision", &part(2, &part(1, b"{]")));
    assert!(matches!(decode(&raw, None), Err(Malformed::Json { field, .. }) if field == "data"));
    // A wrong kind or none: the schema that is wanted has its say through `decode`.
    let pod = Schema::named("io.k8s.api.core.v1.Pod");
    let decode = |body: &[u8]| crate::decode::decode(body, Media::Protobuf, pod, FieldValidation::Strict);
    assert_eq!(decode(&envelope("", "", b"")).unwrap().object, json!({}));
    assert_eq!(decode(&envelope("v1", "Service", &part(2, &part(3, b"a")))).unwrap().object["kind"], "Service");
    let status = decode(b"k8s\0\xff").unwrap_err();
    assert_eq!(
        (status.code, &*status.message),
        (400, "the object provided is unrecognized (must be of type Pod): unexpected EOF")
    );
}

/// Any bytes at all end in an object or an error: here every vector with a byte changed, and cut short.
#[test]
fn damaged_bytes_do_no_harm() {
    for (index, Vector { bytes, .. }) in vectors().into_iter().enumerate().step_by(7) {
        for at in (4 + index % 5..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let _ = decode(&damaged, None);
            let _ = decode(&bytes[..at], None);
        }
    }
}

/// As deep as a body can nest, on a small stack.
#[test]
fn depth_is_limited() {
    let deep = || {
        // JSONSchemaProps in JSONSchemaProps: `not` is field 28.
        let (mut raw, mut tree) = (Vec::new(), json!({"type": "object"}));
        for _ in 0..5000 {
            raw = part(28, &raw);
        }
        for _ in 0..MAX_TREE {
            tree = json!({"not": tree});
        }
        let schema = part(1, &raw);
        let version = part(4, &schema);
        let body = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &part(2, &part(7, &version)));
        assert_eq!(decode(&body, None).unwrap_err(), Malformed::TooDeep);
        let versions = json!([{"name": "v1", "schema": {"openAPIV3Schema": tree}}]);
        let object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"versions": versions}});
        let error = Kind::of_object(&object).unwrap().value(&object).unwrap_err();
        assert!(error.to_string().contains("nested deeper"), "{error}");
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(deep).unwrap().join().unwrap();
}

const MAX_TREE: usize = 120;

#[test]
fn json_that_does_not_fit_is_told() {
    let kind = Kind::of("v1", "Service").unwrap();
    for (json, expected) in [
        ("[]", "invalid type: sequence"),
        (r#"{"spec":{"clusterIP":1}}"#, "a number where the type is string"),
        (r#"{"spec":{"ports":{}}}"#, "an object where the type is []v1.ServicePort"),
        (r#"{"spec":{"ports":[{"port":4294967296}]}}"#, "4294967296 does not fit 32 bits"),
        (r#"{"spec":{"ports":[{"port":1.5}]}}"#, "a number where the type is int32"),
        (r#"{"metadata":{"creationTimestamp":"now"}}"#, "\"now\" is no time"),
        (r#"{"metadata""#, "EOF"),
    ] {
        let error = kind.object(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    assert!(Kind::of("meta.k8s.io/v1", "Table").is_none());
    assert!(Kind::of("example.com/v1", "Thing").is_none());
}
