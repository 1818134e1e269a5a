//! The difference between what the API has and what it should have, as a strategic merge patch; nothing where there is none.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use crate::pod::PodId;

/// Fields of status that a kubelet writes; it removes them when they have no value any more.
const OWNED: [&str; 15] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "resources",
    "allocatedResources",
];

/// Conditions that are there only while they are met.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The patch that makes `known` into `wanted`, or `None`.
pub(crate) fn diff(id: &PodId, known: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let known = fields(known);
    let wanted = fields(wanted);
    let mut status = Map::new();
    for field in OWNED {
        let value = match (known.get(field), wanted.get(field)) {
            (old, new) if old == new => continue,
            (_, None) => Value::Null,
            (Some(old), Some(new)) if field.ends_with("IPs") => replaced(old, new),
            (_, Some(new)) => new.clone(),
        };
        status.insert(field.to_owned(), value);
    }
    let conditions = changed_conditions(known.get("conditions"), wanted.get("conditions"));
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    if status.is_empty() {
        return None;
    }
    // The uid makes the server refuse where the name now means another pod.
    Some(json!({"metadata": {"uid": id.uid}, "status": status}))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        // A PodStatus is a struct: it serialises to an object.
        _ => Map::new(),
    }
}

/// Address lists merge by address: what is to go is named.
fn replaced(old: &Value, new: &Value) -> Value {
    let empty = Vec::new();
    let (old, new) = (old.as_array().unwrap_or(&empty), new.as_array().unwrap_or(&empty));
    let gone = old.iter().filter(|item| !new.contains(item)).map(|item| json!({"$patch": "delete", "ip": item["ip"]}));
    new.iter().cloned().chain(gone).collect()
}

/// Conditions merge by type: only those that changed are sent.
fn changed_conditions(known: Option<&Value>, wanted: Option<&Value>) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (known, wanted) = (list(known), list(wanted));
    let significant = |condition: &Value| {
        let mut condition = condition.clone();
        if let Some(fields) = condition.as_object_mut() {
            fields.retain(|key, value| key != "lastProbeTime" && !value.is_null());
        }
        condition
    };
    let mut changed = Vec::new();
    for gone in known.iter().filter(|old| wanted.iter().all(|new| new["type"] != old["type"])) {
        if PASSING.iter().any(|kind| gone["type"] == *kind) {
            changed.push(json!({"$patch": "delete", "type": gone["type"]}));
        }
    }
    for new in wanted {
        let old = known.iter().find(|old| old["type"] == new["type"]);
        if old.map(significant).as_ref() == Some(&significant(&new)) {
            continue;
        }
        let mut new = new;
        // What the old one had and the new one lacks would survive the merge.
        for key in ["reason", "message"] {
            if new.get(key).is_none() && old.is_some_and(|old| old.get(key).is_some()) {
                new[key] = Value::Null;
            }
        }
        changed.push(new);
    }
    changed
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    fn id() -> PodId {
        PodId { namespace: "n".into(), name: "p".into(), uid: "u".into() }
    }

    fn status(text: Value) -> PodStatus {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_what_changed() {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let unready = json!({"type": "Ready", "status": "False", "reason": "R", "message": "m"});
        let other = json!({"type": "DisruptionTarget", "status": "True"});
        for (known, wanted, expected) in [
            (json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null),
            (json!({"phase": "Pending"}), json!({"phase": "Running"}), json!({"phase": "Running"})),
            (json!({"reason": "x"}), json!({}), json!({"reason": null})),
            (json!({"nominatedNodeName": "x"}), json!({}), Value::Null),
            (json!({"conditions": [ready, other]}), json!({"conditions": [ready]}), Value::Null),
            (
                json!({"conditions": [unready, other]}),
                json!({"conditions": [ready]}),
                json!({"conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
            ),
            (
                json!({"conditions": [other, {"type": "PodResizePending", "status": "True"}]}),
                json!({}),
                json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}),
            ),
            (
                json!({"podIPs": [{"ip": "1.1.1.1"}]}),
                json!({"podIPs": [{"ip": "2.2.2.2"}]}),
                json!({"podIPs": [{"ip": "2.2.2.2"}, {"$patch": "delete", "ip": "1.1.1.1"}]}),
            ),
        ] {
            let got = diff(&id(), &status(known.clone()), &status(wanted));
            let got = got.map_or(Value::Null, |patch| patch["status"].clone());
            assert_eq!(got, expected, "{known}");
        }
    }

    #[test]
    fn a_time_alone_is_a_change_and_a_probe_time_is_not() {
        let condition = |probe: Option<i64>| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_probe_time: probe.map(|s| {
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::from_second(s).unwrap())
            }),
            ..PodCondition::default()
        };
        let of = |probe| PodStatus { conditions: Some(vec![condition(probe)]), ..PodStatus::default() };
        assert!(diff(&id(), &of(Some(1)), &of(None)).is_none());
    }
}
