//! `scale`: the number of replicas, whatever the kind.

use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::api_version;
use apimachinery::meta;
use apimachinery::resources::Subresource;
use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::{decode, schema};
use crate::registry::body::Expected;
use crate::registry::options::{WriteOptions, get_at};
use crate::registry::patch::Patch;
use crate::registry::write::Part;
use crate::registry::{Call, convert, read, respond};
use crate::request::{ResponseBody, Verb};

const PART: Part = Part::Sub { name: "scale", keep: keep_replicas, validate: no_rules };

pub(super) async fn handle(
    call: &Call<'_>,
    subresource: &'static Subresource,
    body: Bytes,
) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let accepted = call.accepted()?;
    let bytes = match call.verb {
        Verb::Get => {
            let cache = read::at_least(storage, get_at(call.query)?).await?;
            let entry =
                cache.get(&storage.key(call.namespace, call.name)).ok_or_else(|| storage.not_found(call.name))?;
            entry.bytes.clone()
        }
        Verb::Update => {
            let options = WriteOptions::parse(call.query, "UpdateOptions")?;
            let scale = decode(call, subresource, options, &body)?;
            call.check_name(&scale)?;
            let mut change = |old: &Value| set(old, &scale, call.name);
            call.writer(options.dry_run)?.update(call.name, PART, false, &mut change).await?.bytes
        }
        Verb::Patch => {
            let options = WriteOptions::parse(call.query, "PatchOptions")?;
            let patch = Patch::parse(call.content_type, body)?;
            let version = api_version(&subresource.group, &subresource.version);
            let expected = Expected { api_version: &version, kind: &subresource.kind, schema: schema(subresource) };
            let mut change = |old: &Value| {
                let scale = patch.apply(&of(old), expected, options.validation, call.warnings)?;
                set(old, &scale, call.name)
            };
            call.writer(options.dry_run)?.update(call.name, PART, false, &mut change).await?.bytes
        }
        _ => return Err(call.unsupported()),
    };
    Ok(respond::scale(accepted, &of(&convert::parse(&bytes)?)))
}

/// The Scale of an object.
fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = object["spec"].get("replicas").filter(|replicas| **replicas != 0) {
        spec["replicas"] = replicas.clone();
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector's text: of a plain map (replication controllers) or a LabelSelector.
fn selector(selector: &Value) -> String {
    let Some(fields) = selector.as_object() else { return String::new() };
    if fields.contains_key("matchLabels") || fields.contains_key("matchExpressions") {
        return label_selector_text(selector);
    }
    let pairs: Vec<_> = fields.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.join(",")
}

fn label_selector_text(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
    }
    // Expressions are rare; their text is that of the parsed selector.
    let expressions = json!({"matchExpressions": selector["matchExpressions"]});
    if selector["matchExpressions"].as_array().is_some_and(|list| !list.is_empty())
        && let Ok(parsed) = LabelSelector::from_object(&expressions)
    {
        terms.push(("\u{7f}".to_owned(), parsed.to_string()));
    }
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// The object that a Scale asks for.
fn set(old: &Value, scale: &Value, name: &str) -> Result<Value, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", name, vec![error]));
    }
    let mut new = old.clone();
    new["spec"]["replicas"] = replicas.into();
    for field in ["resourceVersion", "uid"] {
        if let Some(given) = scale["metadata"][field].as_str().filter(|given| !given.is_empty()) {
            new["metadata"][field] = given.into();
        }
    }
    Ok(new)
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_replicas(new: &mut Value, old: &Value) -> Result<(), Status> {
    let replicas = new["spec"]["replicas"].take();
    let version = meta::resource_version(new).to_owned();
    new.clone_from(old);
    meta::set_text(new, "resourceVersion", &version);
    new["spec"]["replicas"] = replicas;
    Ok(())
}

fn no_rules(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_text() {
        for (object, text) in [
            (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
            (json!({"b": "2", "a": "1"}), "a=1,b=2"),
            (json!({"matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]}), "x in (1,2)"),
            (json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}), "a=1,x"),
            (Value::Null, ""),
        ] {
            assert_eq!(selector(&object), text);
        }
    }
}
