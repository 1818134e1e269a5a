//! A set's status, computed from its pods.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::time::format_time;
use informer::Meta;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::framework::Error;
use crate::objects::{Condition, Pod, ReplicaSetSpec, ReplicaStatus};

pub(super) struct Computed {
    status: ReplicaStatus,
    /// When a pod that is ready now becomes available.
    pub(super) look_again: Option<Duration>,
}

/// `pods` are all of the set's, ended and terminating ones included.
pub(super) fn compute(
    meta: &Meta,
    spec: &ReplicaSetSpec,
    old: &ReplicaStatus,
    pods: &[Arc<Pod>],
    failed: Option<&Error>,
    now: Timestamp,
) -> Computed {
    let wanted = spec.replicas.unwrap_or(1);
    let mut status = ReplicaStatus { observed_generation: meta.generation, ..ReplicaStatus::default() };
    let mut look_again: Option<Duration> = None;
    let template_labels = spec.template["metadata"]["labels"].as_object();
    let mut terminating = 0;
    for pod in pods {
        if !pod.is_active() {
            terminating += i64::from(pod.metadata.is_deleting() && !pod.is_terminal());
            continue;
        }
        status.replicas += 1;
        let labelled = template_labels
            .is_none_or(|labels| labels.iter().all(|(key, value)| pod.metadata.label(key) == value.as_str()));
        status.fully_labeled_replicas += i64::from(labelled);
        if !pod.is_ready() {
            continue;
        }
        status.ready_replicas += 1;
        match available_in(pod, spec.min_ready_seconds, now) {
            None => status.available_replicas += 1,
            Some(wait) => look_again = Some(look_again.map_or(wait, |known| known.min(wait))),
        }
    }
    status.terminating_replicas = Some(terminating);
    status.conditions.clone_from(&old.conditions);
    let known = status.conditions.iter().position(|condition| condition.r#type == "ReplicaFailure");
    match (failed, known) {
        (Some(error), None) => status.conditions.push(Condition {
            r#type: "ReplicaFailure".into(),
            status: "True".into(),
            reason: if status.replicas < wanted { "FailedCreate" } else { "FailedDelete" }.into(),
            message: error.cause(),
            last_transition_time: Some(format_time(now)),
            last_update_time: None,
        }),
        (None, Some(at)) => drop(status.conditions.remove(at)),
        _ => {}
    }
    Computed { status, look_again }
}

/// None if a ready pod has been so for long enough.
fn available_in(pod: &Pod, min_ready_seconds: i64, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let ready = pod.condition("Ready").and_then(|ready| ready.last_transition_time.as_deref());
    let since = ready.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or(now);
    let left = min_ready_seconds - now.duration_since(since).as_secs();
    u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs)
}

impl Computed {
    pub(super) fn to_value(&self) -> Value {
        current(&self.status)
    }
}

/// A status as it is written: zero counts are left out, as upstream does, but for `replicas`.
pub(super) fn current(status: &ReplicaStatus) -> Value {
    let mut value = Map::new();
    value.insert("replicas".into(), status.replicas.into());
    let counts = [
        ("observedGeneration", status.observed_generation),
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    for (field, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        value.insert(field.into(), count.into());
    }
    if let Some(terminating) = status.terminating_replicas {
        value.insert("terminatingReplicas".into(), terminating.into());
    }
    if !status.conditions.is_empty() {
        value.insert("conditions".into(), status.conditions.iter().map(condition_value).collect());
    }
    Value::Object(value)
}

/// A condition as it is written.
pub(crate) fn condition_value(condition: &Condition) -> Value {
    let mut value = json!({ "type": condition.r#type, "status": condition.status });
    let texts = [
        ("reason", Some(&condition.reason)),
        ("message", Some(&condition.message)),
        ("lastTransitionTime", condition.last_transition_time.as_ref()),
        ("lastUpdateTime", condition.last_update_time.as_ref()),
    ];
    for (field, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            value[field] = Value::from(text.as_str());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready_at: Option<&str>, labels: &Value, deleting: bool) -> Arc<Pod> {
        let mut value = json!({"metadata": {"labels": labels}, "status": {"phase": "Running", "conditions": []}});
        if let Some(at) = ready_at {
            value["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        }
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn counts() {
        let spec: ReplicaSetSpec = serde_json::from_value(json!({
            "replicas": 5, "minReadySeconds": 10, "template": {"metadata": {"labels": {"a": "b"}}}}))
        .unwrap();
        let labels = json!({"a": "b"});
        let pods = [
            pod(Some("2026-01-01T00:00:00Z"), &labels, false),
            pod(Some("2026-01-01T00:00:56Z"), &labels, false),
            pod(None, &json!({}), false),
            pod(None, &labels, true),
        ];
        let (meta, now) = (Meta { generation: 3, ..Meta::default() }, "2026-01-01T00:01:00Z".parse().unwrap());
        let error = Error::Invalid { object: "x".into(), why: "y".into() };
        let got = compute(&meta, &spec, &ReplicaStatus::default(), &pods, Some(&error), now);
        assert_eq!(got.look_again, Some(Duration::from_secs(6)));
        assert_eq!(
            got.to_value(),
            json!({
                "replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1,
                "terminatingReplicas": 1, "observedGeneration": 3,
                "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "y",
                                "lastTransitionTime": "2026-01-01T00:01:00Z"}],
            })
        );
        let got = compute(&meta, &spec, &got.status, &[], None, now);
        assert_eq!(got.to_value(), json!({"replicas": 0, "observedGeneration": 3, "terminatingReplicas": 0}));
    }
}
