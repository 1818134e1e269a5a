//! `pods/binding`: the scheduler's decision.

use apimachinery::field::{FieldError, Path};
use apimachinery::resources::Subresource;
use apimachinery::status::Status;
use apimachinery::{meta, time};
use http::Response;
use serde_json::{Value, json};

use super::{decode, success};
use crate::registry::Call;
use crate::registry::body::{self, Expected};
use crate::registry::options::WriteOptions;
use crate::registry::write::{Part, Writer};
use crate::request::ResponseBody;

const PART: Part = Part::Sub { name: "binding", keep: keep_all, validate: no_rules };

pub(super) async fn create(
    call: &Call<'_>,
    subresource: &Subresource,
    body: &[u8],
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let binding = decode(call, subresource, options, body)?;
    call.check_name(&binding)?;
    bind(call, &call.writer(options.dry_run)?, call.name, &binding).await
}

/// POST of a Binding to the old collection `bindings`.
pub(in crate::registry) async fn legacy(call: &Call<'_>, body: &[u8]) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let served = call.served;
    let expected = Expected { api_version: &served.api_version, kind: served.kind(), schema: served.schema };
    let binding = body::decode(body, call.content_type, expected, options.validation, call.warnings)?;
    let pods = call.registry.stored("", "pods")?.storage()?;
    let writer = Writer {
        registry: call.registry,
        storage: pods,
        namespace: call.namespace,
        user: call.user,
        authorizer: Some(&call.services.authorizer),
        warnings: call.warnings,
        dry_run: options.dry_run,
        manager: call.manager(),
        applies: false,
    };
    bind(call, &writer, meta::name(&binding), &binding).await
}

async fn bind(
    call: &Call<'_>,
    writer: &Writer<'_>,
    pod: &str,
    binding: &Value,
) -> Result<Response<ResponseBody>, Status> {
    let path = Path::new("target");
    let target = &binding["target"];
    let mut invalid = Vec::new();
    if !matches!(target["kind"].as_str().unwrap_or(""), "" | "Node") {
        let kind = target["kind"].clone();
        invalid.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    let node = target["name"].as_str().unwrap_or("");
    if node.is_empty() {
        invalid.push(FieldError::required(&path.child("name"), ""));
    }
    if !invalid.is_empty() {
        return Err(Status::invalid("", "Binding", pod, invalid));
    }
    writer.update(pod, PART, false, &mut |old| assigned(old, node, binding)).await?;
    Ok(success(call))
}

/// The pod on its node.
fn assigned(old: &Value, node: &str, binding: &Value) -> Result<Value, Status> {
    let name = meta::name(old);
    let conflict = |message: String| Err(Status::conflict("", "pods/binding", name, message));
    if meta::deletion_timestamp(old).is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = old["spec"]["nodeName"].as_str().unwrap_or("");
    if !present.is_empty() {
        return conflict(format!("pod {name} is already assigned to node \"{present}\""));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    for field in ["uid", "resourceVersion"] {
        if let Some(given) = binding["metadata"][field].as_str().filter(|given| !given.is_empty()) {
            new["metadata"][field] = given.into();
        }
    }
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    new["spec"]["nodeName"] = node.into();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::now_rfc3339(), "observedGeneration": meta::generation(old)});
    match new["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|one| one["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => new["status"]["conditions"] = json!([condition]),
    }
    Ok(new)
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all parts")]
fn keep_all(_: &mut Value, _: &Value) -> Result<(), Status> {
    Ok(())
}

fn no_rules(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}
