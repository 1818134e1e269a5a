//! Small hands for walking objects: reading fields with Go's zero values, setting defaults, collecting problems.

use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::selector::LabelSelector;
use serde_json::{Map, Value};

/// What is wrong with an object.
pub(super) type Problems = Vec<FieldError>;

/// A string field; empty where it is absent.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// An integer field.
pub(super) fn int(object: &Value, key: &str) -> Option<i64> {
    object.get(key).and_then(Value::as_i64)
}

/// A boolean field.
pub(super) fn flag(object: &Value, key: &str) -> Option<bool> {
    object.get(key).and_then(Value::as_bool)
}

/// The items of a list field; none where it is absent.
pub(super) fn items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The items of a list field with their paths.
pub(super) fn indexed<'a>(
    object: &'a Value,
    key: &'static str,
    path: &Path,
) -> impl Iterator<Item = (Path, &'a Value)> + use<'a> {
    let path = path.child(key);
    items(object, key).iter().enumerate().map(move |(at, item)| (path.index(at), item))
}

/// The strings of a list field.
pub(super) fn strings<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    items(object, key).iter().filter_map(Value::as_str)
}

/// A map field.
pub(super) fn map<'a>(object: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    object.get(key).and_then(Value::as_object)
}

/// The field, if it is there.
pub(super) fn some<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// Whether a field is absent or has Go's zero value.
pub(super) fn empty(object: &Value, key: &str) -> bool {
    match object.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Sets a field that is absent (or an empty string, which Go cannot tell from absent).
pub(super) fn default_to(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(|old| old.is_null() || old.as_str() == Some(""))
    {
        map.insert(key.to_owned(), value.into());
    }
}

/// The map field, made where it is absent.
pub(super) fn made<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    if !object.get(key).is_some_and(Value::is_object) {
        object[key] = Value::Object(Map::new());
    }
    &mut object[key]
}

/// Applies to a part that is there even where the client has left it out.
pub(super) fn always(object: &mut Value, key: &str, apply: impl FnOnce(&mut Value)) {
    apply(made(object, key));
}

/// Applies to each item of a list field.
pub(super) fn each_mut(object: &mut Value, key: &str, apply: impl FnMut(&mut Value)) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
        list.iter_mut().for_each(apply);
    }
}

/// Applies to a field that is there.
pub(super) fn within(object: &mut Value, key: &str, apply: impl FnOnce(&mut Value)) {
    if let Some(value) = object.get_mut(key).filter(|value| value.is_object()) {
        apply(value);
    }
}

/// One problem for each message of a name check.
pub(super) fn named(path: &Path, value: &str, messages: Vec<String>) -> Problems {
    messages.into_iter().map(|message| FieldError::invalid(path, value, message)).collect()
}

/// The value must be one of these; the empty string is a missing value where `required`.
pub(super) fn one_of(path: &Path, value: &str, supported: &[&str], required: bool, problems: &mut Problems) {
    if value.is_empty() && required {
        problems.push(FieldError::required(path, ""));
    } else if !value.is_empty() && !supported.contains(&value) {
        problems.push(FieldError::not_supported(path, value, supported));
    }
}

/// The value must be one of these; a missing one is none of them.
pub(super) fn supported(path: &Path, value: &str, supported: &[&str], problems: &mut Problems) {
    if !supported.contains(&value) {
        problems.push(FieldError::not_supported(path, value, supported));
    }
}

/// Not below zero.
pub(super) fn non_negative(path: &Path, value: i64, problems: &mut Problems) {
    if value < 0 {
        problems.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// From 1 to 65535.
pub(super) fn port_number(path: &Path, value: i64, problems: &mut Problems) {
    problems.extend(names::is_port_number(value).into_iter().map(|message| FieldError::invalid(path, value, message)));
}

/// A port by number or by name.
pub(super) fn port_number_or_name(path: &Path, value: &Value, problems: &mut Problems) {
    match value {
        Value::String(name) => problems.extend(named(path, name, names::is_port_name(name))),
        other => port_number(path, other.as_i64().unwrap_or_default(), problems),
    }
}

/// A map of labels.
pub(super) fn labels(path: &Path, labels: Option<&Map<String, Value>>, problems: &mut Problems) {
    for (key, value) in labels.into_iter().flatten() {
        problems.extend(named(path, key, names::is_qualified_name(key)));
        let value = value.as_str().unwrap_or_default();
        problems.extend(named(path, value, names::is_label_value(value)));
    }
}

/// A metav1.LabelSelector.
pub(super) fn label_selector(path: &Path, selector: &Value, problems: &mut Problems) {
    labels(&path.child("matchLabels"), map(selector, "matchLabels"), problems);
    for (path, expression) in indexed(selector, "matchExpressions", path) {
        let values = items(expression, "values").len();
        match text(expression, "operator") {
            "In" | "NotIn" if values == 0 => problems.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => problems.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                problems.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"));
            }
        }
        let key = text(expression, "key");
        problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
        for (path, value) in indexed(expression, "values", &path) {
            let value = value.as_str().unwrap_or_default();
            problems.extend(named(&path, value, names::is_label_value(value)));
        }
    }
}

/// Whether a selector object selects these labels; false where it cannot be read.
pub(super) fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let none = Value::Object(Map::new());
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_map(labels.unwrap_or(&none)))
}

/// Whether a field of an update differs from what is stored; absent and zero are the same.
pub(super) fn changed(new: &Value, old: &Value, key: &str) -> bool {
    new.get(key) != old.get(key) && !(empty(new, key) && empty(old, key))
}

/// Upstream's `ValidateImmutableField`.
pub(super) fn immutable(path: &Path, new: &Value, old: &Value, key: &'static str, problems: &mut Problems) {
    if changed(new, old, key) {
        let value = new.get(key).cloned().unwrap_or(Value::Null);
        problems.push(FieldError::invalid(&path.child(key), value, "field is immutable"));
    }
}

/// Keeps a field and the first item of the list that came after it the same: clients that know one of them change that one.
pub(super) fn in_step(
    object: &mut Value,
    single: &str,
    list: &str,
    of_item: fn(&Value) -> Value,
    to_item: fn(Value) -> Value,
) {
    let (one, first) = (text(object, single).to_owned(), items(object, list).first().map(of_item));
    match first {
        Some(first) if one.is_empty() => object[single] = first,
        first if !one.is_empty() && first.as_ref().and_then(Value::as_str) != Some(&*one) => {
            object[list] = Value::Array(vec![to_item(one.into())]);
        }
        _ => {}
    }
}

/// Copies a field from the stored object, or removes it where that has none.
pub(super) fn keep(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}
