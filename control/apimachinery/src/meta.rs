//! An object's metadata: accessors, and the bytes that are stored and served.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

/// The finalizer of foreground deletion.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// The finalizer of orphaning deletion.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// `metadata`, where it is an object.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// `metadata` to write to; made an object where it is none. `None` where the object itself is no JSON object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    metadata(object).and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a text of the metadata; an empty text removes it.
pub fn set_text(object: &mut Value, key: &str, value: &str) {
    let Some(metadata) = metadata_mut(object) else { return };
    if value.is_empty() {
        metadata.remove(key);
    } else {
        metadata.insert(key.to_owned(), value.into());
    }
}

/// Puts a condition into a status, in place of the one of its type. Where that had the same status, it is so since then.
pub fn set_condition(status: &mut Value, mut condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = Value::Array(Vec::new());
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|one| one["type"] == condition["type"]) {
        Some(present) => {
            if present["status"] == condition["status"] {
                condition["lastTransitionTime"] = present["lastTransitionTime"].clone();
            }
            *present = condition;
        }
        None => conditions.push(condition),
    }
}

/// `apiVersion`, empty where absent.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

/// `kind`, empty where absent.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`, empty where absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.generateName`, empty where absent.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`, empty where absent.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, empty where absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, empty where absent.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.creationTimestamp`, empty where absent.
pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

/// `metadata.deletionTimestamp`, where set.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|text| !text.is_empty())
}

/// `metadata.deletionGracePeriodSeconds`, where set.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.generation`, 0 where absent.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|metadata| metadata.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.labels`, where there are any.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("labels")?.as_object()
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`, where there are any.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("annotations")?.as_object()
}

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

/// The owner that manages the object, if one does.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

/// Whether the object has this finalizer.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|one| one == finalizer)
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    metadata(object).and_then(|metadata| metadata.get(key)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An object as it is stored: compact JSON without `metadata.resourceVersion`.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The JSON, with `apiVersion`, `kind` and `metadata` first.
    pub bytes: Bytes,
    /// Where the resource version belongs: just after `"metadata":{`.
    pub rv_at: usize,
}

/// Serialises an object for the store: `apiVersion`, `kind`, `metadata` (without `resourceVersion`), then the rest.
pub fn encode(object: &Value) -> Encoded {
    let mut bytes = Vec::with_capacity(2048);
    bytes.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            write_entry(&mut bytes, key, value);
        }
    }
    write_key(&mut bytes, "metadata");
    bytes.push(b'{');
    let rv_at = bytes.len();
    for (key, value) in metadata(object).into_iter().flatten().filter(|(key, _)| *key != "resourceVersion") {
        write_entry(&mut bytes, key, value);
    }
    bytes.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            write_entry(&mut bytes, key, value);
        }
    }
    bytes.push(b'}');
    Encoded { bytes: bytes.into(), rv_at }
}

fn write_entry(bytes: &mut Vec<u8>, key: &str, value: &Value) {
    write_key(bytes, key);
    write_json(bytes, value);
}

fn write_key(bytes: &mut Vec<u8>, key: &str) {
    if bytes.last() != Some(&b'{') {
        bytes.push(b',');
    }
    write_json(bytes, key);
    bytes.push(b':');
}

fn write_json(bytes: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(bytes, value).expect("a JSON tree with text keys serialises into memory");
}

/// Where a resource version belongs in an object's compact JSON: just after `"metadata":{` at the top level.
pub fn rv_position(bytes: &[u8]) -> Option<usize> {
    const METADATA: &[u8] = b"\"metadata\":{";
    let mut depth = 0;
    let mut at = 0;
    let mut key = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                if depth == 1 && key && bytes[at..].starts_with(METADATA) {
                    return Some(at + METADATA.len());
                }
                key = false;
                at = string_end(bytes, at)?;
            }
            b'{' | b'[' => {
                depth += 1;
                key = depth == 1;
            }
            b'}' | b']' => depth -= 1,
            b',' => key = depth == 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The position of the closing quote of the text that opens at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The bytes with `"resourceVersion":"N"` in the metadata. The bytes must be what [`encode`] wrote, or hold no resource version;
/// bytes without metadata are returned as they are.
pub fn splice_rv(bytes: &[u8], revision: u64) -> Bytes {
    match rv_position(bytes) {
        Some(at) => splice_rv_at(bytes, at, revision),
        None => Bytes::copy_from_slice(bytes),
    }
}

/// [`splice_rv`] where the position is known.
pub fn splice_rv_at(bytes: &[u8], rv_at: usize, revision: u64) -> Bytes {
    let comma = if bytes.get(rv_at) == Some(&b'}') { "" } else { "," };
    let entry = format!("\"resourceVersion\":\"{revision}\"{comma}");
    let (head, tail) = bytes.split_at(rv_at);
    [head, entry.as_bytes(), tail].concat().into()
}

/// Bytes that [`splice_rv`] made, at another revision.
pub fn replace_rv(bytes: &Bytes, revision: u64) -> Bytes {
    const FIELD: &[u8] = b"\"resourceVersion\":\"";
    let Some(at) = rv_position(bytes).filter(|at| bytes[*at..].starts_with(FIELD)) else { return bytes.clone() };
    let digits = at + FIELD.len();
    let end = bytes[digits..].iter().position(|byte| *byte == b'"').map_or(digits, |length| digits + length);
    [&bytes[..digits], revision.to_string().as_bytes(), &bytes[end..]].concat().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn encodes_without_revision_and_splices_it_in() {
        let object = json!({"spec": {"metadata": {"a": "}\""}}, "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "x", "resourceVersion": "7", "labels": {"metadata": "{"}}});
        let encoded = encode(&object);
        let text = std::str::from_utf8(&encoded.bytes).unwrap();
        assert!(text.starts_with(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"#), "{text}");
        assert!(!text.contains("resourceVersion"));
        assert_eq!(rv_position(&encoded.bytes), Some(encoded.rv_at));
        let spliced: Value = serde_json::from_slice(&splice_rv(&encoded.bytes, 9)).unwrap();
        let mut expect = object;
        expect["metadata"]["resourceVersion"] = "9".into();
        assert_eq!(spliced, expect);
        let replaced = replace_rv(&splice_rv(&encoded.bytes, 9), 1_234);
        assert_eq!(replaced, splice_rv(&encoded.bytes, 1_234));
        assert_eq!(replace_rv(&encoded.bytes, 9), encoded.bytes, "there is none to replace");
    }

    #[test]
    fn splices_into_empty_and_missing_metadata() {
        assert_eq!(
            splice_rv(&encode(&json!({"kind": "X"})).bytes, 1),
            r#"{"kind":"X","metadata":{"resourceVersion":"1"}}"#
        );
        assert_eq!(splice_rv(br#"{"a":"\"metadata\":{","b":[{"metadata":{}}]}"#, 1).len(), 44);
        assert_eq!(rv_position(br#"{"a":"metadata","metadata":{"x":1}}"#), Some(28));
        assert_eq!(rv_position(br#"{"a":"unterminated"#), None);
    }

    #[test]
    fn accessors_of_odd_objects() {
        for object in [json!(null), json!([]), json!({"metadata": 3}), json!({"metadata": {"name": 3, "labels": []}})] {
            assert_eq!((name(&object), generation(&object), labels(&object)), ("", 0, None));
            assert!(owner_references(&object).is_empty() && controller_of(&object).is_none());
        }
    }
}
