//! Subresources that update one part of their object by the generic path.

use apimachinery::field::FieldError;
use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::Value;

use crate::registry::write::Part;
use crate::strategy::{certificates, pod_update, resize, validate_finalize};

type Keep = fn(&mut Value, &Value) -> Result<(), Status>;
type Validate = fn(&Value, &Value) -> Vec<FieldError>;

/// The part of an object that a subresource updates.
pub(super) fn of(group: &str, resource: &str, subresource: &str) -> Option<Part> {
    let (name, keep, validate): (_, Keep, Validate) = match (group, resource, subresource) {
        ("", "namespaces", "finalize") => ("finalize", keep_finalizers, validate_finalize),
        ("", "pods", "ephemeralcontainers") => ("ephemeralcontainers", keep_ephemeral, pod_update::validate_ephemeral),
        ("", "pods", "resize") => ("resize", keep_resources, resize::validate),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            ("approval", keep_conditions, certificates::conditions)
        }
        _ => return None,
    };
    Some(Part::Sub { name, keep, validate })
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
