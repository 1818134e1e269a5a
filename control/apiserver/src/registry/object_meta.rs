//! The rules of `metadata`, the same for every kind.

use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::parse_api_version;
use apimachinery::status::Status;
use apimachinery::{meta, names, time};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::resource::Storage;
use crate::strategy::NameRule;

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The metadata of an object that a client sent.
pub(super) fn of(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    meta::metadata_mut(object).ok_or_else(|| Status::bad_request("the object provided is not a JSON object"))
}

/// Makes the object's namespace that of the URL, or refuses another one.
pub(super) fn match_namespace(object: &mut Value, namespace: &str) -> Result<(), Status> {
    let given = meta::namespace(object);
    if given == namespace {
        return Ok(());
    }
    if !given.is_empty() && !namespace.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::set_text(object, "namespace", namespace);
    Ok(())
}

/// Gives a new object its identity. Those that are applied come with their owners.
pub(super) fn prepare_create(object: &mut Value, namespace: &str, applied: bool) -> Result<(), Status> {
    if !matches!(meta::resource_version(object), "" | "0") {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    match_namespace(object, namespace)?;
    let metadata = of(object)?;
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion", "selfLink"] {
        metadata.remove(field);
    }
    if !applied {
        metadata.remove("managedFields");
    }
    metadata.insert("uid".to_owned(), Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), time::now_rfc3339().into());
    Ok(())
}

/// Puts back what an update leaves out or may not change.
pub(super) fn prepare_update(new: &mut Value, old: &Value) -> Result<(), Status> {
    let Some(before) = meta::metadata(old) else { return Err(Status::internal("a stored object has no metadata")) };
    let metadata = of(new)?;
    metadata.remove("selfLink");
    let absent = |metadata: &Map<String, Value>, field: &str| {
        metadata.get(field).is_none_or(|value| value.is_null() || value.as_str() == Some(""))
    };
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if absent(metadata, field) {
            put_back(metadata, before, field);
        }
    }
    for field in ["creationTimestamp", "generation"] {
        put_back(metadata, before, field);
    }
    if before.contains_key("deletionTimestamp") {
        put_back(metadata, before, "deletionTimestamp");
    }
    Ok(())
}

fn put_back(metadata: &mut Map<String, Value>, before: &Map<String, Value>, field: &str) {
    match before.get(field) {
        Some(value) => metadata.insert(field.to_owned(), value.clone()),
        None => metadata.remove(field),
    };
}

/// Removes empty maps and lists of the metadata, so that objects that say the same are the same.
pub(super) fn normalise(object: &mut Value) {
    if let Some(metadata) = meta::metadata_mut(object) {
        metadata.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
    }
}

/// Checks the metadata of a new object.
pub(super) fn validate(object: &Value, storage: &Storage) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let check = |name: &str| check_name(storage.facts.name, name);
    let (name, base) = (meta::name(object), meta::generate_name(object));
    if !base.is_empty() {
        // The random characters make a trailing dash or dot valid.
        let probe = format!("{}a", base.trim_end_matches('-'));
        for message in check(if base.ends_with('-') { &probe } else { base }) {
            errors.push(FieldError::invalid(&path.child("generateName"), base, message));
        }
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        for message in check(name) {
            errors.push(FieldError::invalid(&path.child("name"), name, message));
        }
    }
    let namespace = meta::namespace(object);
    if storage.namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required(&path.child("namespace"), ""));
        } else {
            for message in names::is_dns1123_label(namespace) {
                errors.push(FieldError::invalid(&path.child("namespace"), namespace, message));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"));
    }
    validate_common(object, &path, &mut errors);
    errors
}

fn check_name(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => names::is_dns1123_subdomain(name),
        NameRule::Label => names::is_dns1123_label(name),
        NameRule::Label1035 => names::is_dns1035_label(name),
        NameRule::PathSegment => names::is_path_segment_name(name),
    }
}

fn validate_common(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let labels = path.child("labels");
    for (key, value) in meta::labels(object).into_iter().flatten() {
        for message in names::is_qualified_name(key) {
            errors.push(FieldError::invalid(&labels, key.as_str(), message));
        }
        let value = value.as_str().unwrap_or_default();
        for message in names::is_label_value(value) {
            errors.push(FieldError::invalid(&labels, value, message));
        }
    }
    let annotations = path.child("annotations");
    let mut size = 0;
    for (key, value) in meta::annotations(object).into_iter().flatten() {
        for message in names::is_qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(&annotations, key.as_str(), message));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(&annotations, MAX_ANNOTATIONS));
    }
    validate_owners(meta::owner_references(object), &path.child("ownerReferences"), errors);
    validate_finalizers(object, &path.child("finalizers"), errors);
}

fn validate_owners(owners: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    let mut controller: Option<&str> = None;
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let version = parse_api_version(text("apiVersion"));
        if version.is_none() {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                text("apiVersion"),
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", format!("{field} must not be empty")));
            }
        }
        if version == Some(("", "v1")) && text("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&path, owner.clone(), detail));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = text("name");
            match controller {
                None => controller = Some(name),
                Some(other) => errors.push(FieldError::invalid(
                    &Path::new("metadata").child("ownerReferences"),
                    Value::Array(owners.to_vec()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {name}"
                    ),
                )),
            }
        }
    }
}

fn validate_finalizers(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for finalizer in meta::finalizers(object) {
        for message in names::is_qualified_name(finalizer) {
            errors.push(FieldError::invalid(path, finalizer, message));
        }
        let standard = matches!(finalizer, meta::ORPHAN_FINALIZER | meta::FOREGROUND_FINALIZER | "kubernetes");
        if !standard && !finalizer.contains('/') {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, finalizer, detail));
        }
    }
    if meta::has_finalizer(object, meta::ORPHAN_FINALIZER) && meta::has_finalizer(object, meta::FOREGROUND_FINALIZER) {
        let both = meta::finalizers(object).map(Value::from).collect::<Vec<_>>();
        errors.push(FieldError::invalid(
            path,
            both,
            format!("finalizer {} and {} cannot be both set", meta::ORPHAN_FINALIZER, meta::FOREGROUND_FINALIZER),
        ));
    }
}

/// Checks the metadata of an update.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let null = Value::Null;
    let field = |object: &Value, field: &str| {
        object.pointer("/metadata").and_then(|metadata| metadata.get(field)).cloned().unwrap_or(null.clone())
    };
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let value = field(new, name);
        if value != field(old, name) {
            errors.push(FieldError::invalid(&path.child(name), value, "field is immutable"));
        }
    }
    if meta::deletion_timestamp(new).is_some() {
        let added: Vec<&str> = meta::finalizers(new).filter(|finalizer| !meta::has_finalizer(old, finalizer)).collect();
        if !added.is_empty() {
            let list = added.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
                ),
            ));
        }
    }
    validate_common(new, &path, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_may_not_change_identity() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "finalizers": ["a/b"], "deletionTimestamp": "d"}});
        let cases = [
            (json!({"name": "a"}), vec![]),
            (json!({"name": "b"}), vec!["metadata.name: Invalid value: \"b\": field is immutable"]),
            (json!({"name": "a", "uid": "2"}), vec!["metadata.uid: Invalid value: \"2\": field is immutable"]),
            (json!({"name": "a", "creationTimestamp": "x", "deletionTimestamp": "y", "generation": 9}), vec![]),
            (
                json!({"name": "a", "finalizers": ["a/b", "c/d"]}),
                vec![
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
                ],
            ),
        ];
        for (metadata, expect) in cases {
            let mut new = json!({"metadata": metadata});
            prepare_update(&mut new, &old).unwrap();
            let errors: Vec<_> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
            assert_eq!(errors, expect, "{metadata}");
        }
    }

    #[test]
    fn owners_are_checked() {
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        let object = json!({"metadata": {"ownerReferences": [owner("a"), owner("b"), {"apiVersion": "v1", "kind": "Event", "name": "e"}]}});
        let mut errors = Vec::new();
        validate_common(&object, &Path::new("metadata"), &mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(
            fields,
            ["metadata.ownerReferences", "metadata.ownerReferences[2].uid", "metadata.ownerReferences[2]"]
        );
    }
}
