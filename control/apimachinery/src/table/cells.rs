//! What cells are made of.

use jiff::Timestamp;
use serde_json::Value;

use super::duration::since;
use crate::meta;

/// The value at a path of fields (`spec.replicas`); null where there is none.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, field| &value[field])
}

/// The text at a path, empty where there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The number at a path, 0 where there is none.
pub(super) fn number(value: &Value, path: &str) -> i64 {
    at(value, path).as_i64().unwrap_or(0)
}

/// The list at a path, empty where there is none.
pub(super) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// How many entries the map at a path has.
pub(super) fn count(value: &Value, path: &str) -> usize {
    at(value, path).as_object().map_or(0, serde_json::Map::len)
}

/// The text, or a stand-in where it is empty.
pub(super) fn or<'a>(text: &'a str, stand_in: &'a str) -> &'a str {
    if text.is_empty() { stand_in } else { text }
}

/// A scalar as text; a stand-in for null.
pub(super) fn scalar(value: &Value, stand_in: &str) -> String {
    match value {
        Value::Null => stand_in.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `<unset>`, `true` or `false`.
pub(super) fn boolean(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "true",
        Some(false) => "false",
        None => "<unset>",
    }
}

pub(super) fn name(object: &Value) -> Value {
    meta::name(object).into()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(meta::creation_timestamp(object), now).into()
}

/// The creation time itself.
pub(super) fn created_at(object: &Value) -> Value {
    meta::creation_timestamp(object).into()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", scalar(value, ""))).collect();
    pairs.sort_unstable();
    or(&pairs.join(","), "<none>").to_owned()
}

/// A `LabelSelector` object as text, or `<none>`.
pub(super) fn selector(selector: &Value) -> String {
    match crate::selector::LabelSelector::from_object(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of a pod template's containers.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let join = |key| list(pod_spec, "containers").iter().map(|one| text(one, key)).collect::<Vec<_>>().join(",");
    [join("name").into(), join("image").into()]
}

/// Joins with commas up to `max` texts and tells how many more there are.
pub(super) fn first(texts: &[String], max: usize, stand_in: &str) -> String {
    match texts.len() {
        0 => stand_in.to_owned(),
        all if all > max => format!("{} + {} more...", texts[..max].join(","), all - max),
        _ => texts.join(","),
    }
}

/// A condition's status, empty where there is none.
pub(super) fn condition<'a>(object: &'a Value, ty: &str) -> &'a str {
    let conditions = list(object, "status.conditions");
    conditions.iter().find(|one| text(one, "type") == ty).map_or("", |one| text(one, "status"))
}
