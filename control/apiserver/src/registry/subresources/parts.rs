//! Subresources that update one part of their object by the generic path.

use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::Value;

use crate::registry::write::Part;
use crate::strategy::{certificates, resize};

type Keep = fn(&mut Value, &Value) -> Result<(), Status>;
type Validate = fn(&Value, &Value) -> Vec<FieldError>;

/// The part of an object that a subresource updates.
pub(super) fn of(group: &str, resource: &str, subresource: &str) -> Option<Part> {
    let (name, keep, validate): (_, Keep, Validate) = match (group, resource, subresource) {
        ("", "namespaces", "finalize") => ("finalize", keep_finalizers, no_rules),
        ("", "pods", "ephemeralcontainers") => ("ephemeralcontainers", keep_ephemeral, validate_ephemeral),
        ("", "pods", "resize") => ("resize", keep_resources, resize::validate),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            ("approval", keep_conditions, certificates::conditions)
        }
        _ => return None,
    };
    Some(Part::Sub { name, keep, validate })
}

fn no_rules(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// Makes `new` the old object with the value at one place (a list of keys) from the new one.
fn keep_at(new: &mut Value, old: &Value, place: [&str; 2]) {
    let wanted = new[place[0]][place[1]].take();
    let version = meta::resource_version(new).to_owned();
    new.clone_from(old);
    meta::set_text(new, "resourceVersion", &version);
    if wanted.is_null() {
        if let Some(parent) = new.get_mut(place[0]).and_then(Value::as_object_mut) {
            parent.remove(place[1]);
        }
    } else {
        new[place[0]][place[1]] = wanted;
    }
}

/// The same, with the new one's metadata: such a subresource may be annotated.
fn keep_with_metadata(new: &mut Value, old: &Value, place: [&str; 2]) {
    let metadata = new["metadata"].take();
    keep_at(new, old, place);
    new["metadata"] = metadata;
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_finalizers(new: &mut Value, old: &Value) -> Result<(), Status> {
    keep_with_metadata(new, old, ["spec", "finalizers"]);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_ephemeral(new: &mut Value, old: &Value) -> Result<(), Status> {
    keep_at(new, old, ["spec", "ephemeralContainers"]);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_conditions(new: &mut Value, old: &Value) -> Result<(), Status> {
    keep_with_metadata(new, old, ["status", "conditions"]);
    certificates::stamp(new, old);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_resources(new: &mut Value, old: &Value) -> Result<(), Status> {
    resize::take(new, old);
    Ok(())
}

/// Ephemeral containers are only ever added.
fn validate_ephemeral(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("spec").child("ephemeralContainers");
    let list = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let after = list(new);
    let mut errors = Vec::new();
    for before in list(old) {
        let name = before["name"].as_str().unwrap_or_default();
        match after.iter().find(|one| one["name"] == before["name"]) {
            Some(same) if *same == before => {}
            Some(_) => errors.push(FieldError::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be changed\n"),
            )),
            None => errors.push(FieldError::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
        }
    }
    for (index, one) in after.iter().enumerate() {
        if one["name"].as_str().unwrap_or("").is_empty() {
            errors.push(FieldError::required(&path.index(index).child("name"), ""));
        }
    }
    errors
}
