//! Moves objects between the versions of their kind.
//!
//! Versions of most kinds have the same fields, so that only `apiVersion` changes, which stored bytes begin with. Events and
//! autoscalers are the exceptions.

use std::borrow::Cow;

use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::resource::{Served, Storage};

/// Moves fields; `to` is the version wanted.
pub(crate) type Convert = fn(object: &mut Value, to: &str);

/// What a resource needs beside another `apiVersion`.
pub(super) fn of(group: &str, resource: &str) -> Option<Convert> {
    match (group, resource) {
        ("", "events") => Some(event),
        ("autoscaling", "horizontalpodautoscalers") => Some(autoscaler),
        _ => None,
    }
}

/// Turns an object as a client sent it into the stored version.
pub(super) fn to_storage(served: &Served, storage: &Storage, object: &mut Value) {
    move_to(storage, object, &served.api_version, &storage.api_version);
}

/// Turns a stored object into the version that a client asked for.
pub(super) fn from_storage(served: &Served, storage: &Storage, object: &mut Value) {
    move_to(storage, object, &storage.api_version, &served.api_version);
}

fn move_to(storage: &Storage, object: &mut Value, from: &str, to: &str) {
    if from != to {
        if let Some(convert) = storage.convert {
            convert(object, to);
        }
        object["apiVersion"] = to.into();
    }
}

/// Stored bytes in the version that a client asked for.
pub(super) fn render<'a>(served: &Served, storage: &Storage, bytes: &'a Bytes) -> Result<Cow<'a, Bytes>, Status> {
    if served.api_version == storage.api_version {
        return Ok(Cow::Borrowed(bytes));
    }
    let stored = format!("{{\"apiVersion\":\"{}\"", storage.api_version);
    if storage.convert.is_none()
        && let Some(rest) = bytes.strip_prefix(stored.as_bytes())
    {
        let mut out = Vec::with_capacity(bytes.len() + served.api_version.len());
        out.extend_from_slice(b"{\"apiVersion\":\"");
        out.extend_from_slice(served.api_version.as_bytes());
        out.push(b'"');
        out.extend_from_slice(rest);
        return Ok(Cow::Owned(out.into()));
    }
    let mut object = parse(bytes)?;
    from_storage(served, storage, &mut object);
    Ok(Cow::Owned(object.to_string().into()))
}

/// Reads stored bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        tracing::error!(%error, "a stored object is not valid JSON");
        Status::internal("a stored object cannot be read")
    })
}

/// Core and `events.k8s.io` names of the fields that differ.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn event(object: &mut Value, to: &str) {
    let Some(fields) = object.as_object_mut() else { return };
    for (core, new) in EVENT_FIELDS {
        let (from, into) = if to == "v1" { (new, core) } else { (core, new) };
        if let Some(value) = fields.remove(from) {
            fields.insert(into.to_owned(), value);
        }
    }
    // The new version requires a time.
    if to != "v1" {
        fields.entry("eventTime").or_insert(Value::Null);
    }
}

/// The stored name of a field by which events of this group are selected, in that group's words alone.
pub(super) fn event_field<'a>(group: &str, field: &'a str) -> Option<Cow<'a, str>> {
    match field {
        _ if group.is_empty() => Some(field.into()),
        "reason" | "type" | "metadata.name" | "metadata.namespace" => Some(field.into()),
        "reportingController" => Some("reportingComponent".into()),
        other => other.strip_prefix("regarding.").map(|rest| format!("involvedObject.{rest}").into()),
    }
}

/// autoscaling/v1 knows one metric, the CPU's utilization; all others travel in annotations, as upstream does.
fn autoscaler(object: &mut Value, to: &str) {
    const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
    const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
    const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
    const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
    let kept = [
        ("spec", "metrics", METRICS),
        ("spec", "behavior", BEHAVIOR),
        ("status", "currentMetrics", CURRENT),
        ("status", "conditions", CONDITIONS),
    ];
    if to == "autoscaling/v1" {
        let spec_cpu = take_cpu(object.pointer_mut("/spec/metrics"), "target");
        let status_cpu = take_cpu(object.pointer_mut("/status/currentMetrics"), "current");
        for (part, field, annotation) in kept {
            let value = object.get_mut(part).and_then(Value::as_object_mut).and_then(|part| part.remove(field));
            if let Some(value) = value.filter(|value| !is_empty(value)) {
                annotations(object).insert(annotation.to_owned(), value.to_string().into());
            }
        }
        if let Some(cpu) = spec_cpu {
            object["spec"]["targetCPUUtilizationPercentage"] = cpu;
        }
        if let Some(cpu) = status_cpu {
            object["status"]["currentCPUUtilizationPercentage"] = cpu;
        }
        // Zero may be left out in the newer version alone.
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.entry("currentReplicas").or_insert(0.into());
        }
        return;
    }
    for (part, field, annotation) in kept {
        let text = object
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
            .and_then(|a| a.remove(annotation));
        let value = text.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(value) = value {
            object[part][field] = value;
        }
    }
    for (part, list, flat, key) in [
        ("spec", "metrics", "targetCPUUtilizationPercentage", "target"),
        ("status", "currentMetrics", "currentCPUUtilizationPercentage", "current"),
    ] {
        let cpu = object.get_mut(part).and_then(Value::as_object_mut).and_then(|part| part.remove(flat));
        let Some(cpu) = cpu else { continue };
        let mut value = json!({"averageUtilization": cpu});
        if key == "target" {
            value["type"] = "Utilization".into();
        }
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", key: value}});
        match object[part].get_mut(list).and_then(Value::as_array_mut) {
            Some(metrics) => metrics.insert(0, metric),
            None => object[part][list] = json!([metric]),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn annotations(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = &mut object["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"].as_object_mut().expect("it was just made an object")
}

/// Takes the first CPU utilization out of a list of metrics.
fn take_cpu(metrics: Option<&mut Value>, key: &str) -> Option<Value> {
    let metrics = metrics?.as_array_mut()?;
    let at = metrics.iter().position(|metric| {
        metric["type"] == "Resource"
            && metric["resource"]["name"] == "cpu"
            && metric["resource"][key]["averageUtilization"].is_number()
    })?;
    Some(metrics.remove(at)["resource"][key]["averageUtilization"].take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_autoscalers_survive_the_round_trip() {
        let cases: [(Convert, &str, &str, Value); 2] = [
            (
                event,
                "events.k8s.io/v1",
                "v1",
                json!({"involvedObject": {"kind": "Pod"}, "message": "m", "count": 3, "eventTime": null, "source": {"component": "c"}}),
            ),
            (
                autoscaler,
                "autoscaling/v1",
                "autoscaling/v2",
                json!({"metadata": {"annotations": {}}, "spec": {"maxReplicas": 3, "behavior": {"scaleUp": {}}, "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}},
                ]}, "status": {"currentReplicas": 1}}),
            ),
        ];
        for (convert, there, back, object) in cases {
            let mut moved = object.clone();
            convert(&mut moved, there);
            assert_ne!(moved, object);
            convert(&mut moved, back);
            assert_eq!(moved, object);
        }
    }
}
