//! A Deployment's status and conditions, computed from its ReplicaSets.

use std::time::Duration;

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::plan::{is_rolling, max_unavailable, total, wanted};
use crate::objects::{Condition, Deployment, DeploymentStatus, ReplicaSet};
use crate::replicas::condition_value;

/// What happened to the new ReplicaSet in this reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewSet {
    /// There is none (yet).
    Absent,
    Found(String),
    Created(String),
    Failed(String),
}

const NO_DEADLINE: i64 = i32::MAX as i64;

pub(super) fn compute(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    event: &NewSet,
    collision_count: Option<u32>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i64| sets.iter().map(|set| count(set)).sum::<i64>();
    let available = sum(|set| set.status.available_replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: new.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (total(sets.iter().copied()) - available).max(0),
        terminating_replicas: Some(sum(|set| set.status.terminating_replicas.unwrap_or_default())),
        collision_count,
        conditions: deployment.status.conditions.clone(),
    };
    if available >= wanted(deployment) - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.";
        set_condition(&mut status, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set_condition(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    progress(deployment, &mut status, new, event, now);
    status.conditions.retain(|condition| condition.r#type != "ReplicaFailure");
    let failure = new
        .into_iter()
        .chain(sets.iter().copied())
        .find_map(|set| set.status.conditions.iter().find(|condition| condition.r#type == "ReplicaFailure"));
    status.conditions.extend(
        failure.map(|failure| Condition { last_update_time: failure.last_transition_time.clone(), ..failure.clone() }),
    );
    status
}

fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    event: &NewSet,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        // Nobody asks whether it moves on.
        return status.conditions.retain(|condition| condition.r#type != "Progressing");
    }
    let current = condition(status, "Progressing").cloned();
    let reason = current.as_ref().map(|condition| condition.reason.clone()).unwrap_or_default();
    if deployment.spec.paused {
        if reason != "DeploymentPaused" && reason != "ProgressDeadlineExceeded" {
            set_condition(status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return;
    }
    if reason == "DeploymentPaused" {
        set_condition(status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
    match event {
        NewSet::Created(name) => {
            let message = format!("Created new replica set \"{name}\"");
            set_condition(status, "Progressing", "True", "NewReplicaSetCreated", &message, now);
            return;
        }
        NewSet::Failed(message) => {
            set_condition(status, "Progressing", "False", "ReplicaSetCreateError", message, now);
            return;
        }
        NewSet::Found(name) if current.is_none() => {
            let message = format!("Found new replica set \"{name}\"");
            set_condition(status, "Progressing", "True", "FoundNewReplicaSet", &message, now);
        }
        NewSet::Found(_) | NewSet::Absent => {}
    }
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name),
        None => format!("Deployment \"{}\"", deployment.metadata.name),
    };
    // Once complete, a later loss of pods is no matter of progress.
    if status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable" {
        return;
    }
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
    } else if has_progressed(&deployment.status, status) {
        // Always written anew: its time is what the deadline counts from.
        let since = current.filter(|condition| condition.status == "True").and_then(|it| it.last_transition_time);
        status.conditions.retain(|condition| condition.r#type != "Progressing");
        let message = format!("{subject} is progressing.");
        set_condition(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        if let (Some(since), Some(written)) = (since, status.conditions.last_mut()) {
            written.last_transition_time = Some(since);
        }
    } else if time_left(deployment, status, now).is_some_and(|left| left.is_zero()) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
    }
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = wanted(deployment);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Until the rollout counts as stuck; none if it is not under way.
pub(super) fn time_left(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(deployment).filter(|_| !deployment.spec.paused)?;
    let condition = condition(status, "Progressing")?;
    if matches!(condition.reason.as_str(), "NewReplicaSetAvailable" | "ProgressDeadlineExceeded") {
        return None;
    }
    let since: Timestamp = condition.last_update_time.as_deref()?.parse().ok()?;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(deadline.saturating_sub(passed))
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.r#type == kind)
}

fn set_condition(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let current = condition(status, kind);
    if current.is_some_and(|current| current.status == value && current.reason == reason) {
        return;
    }
    let since = current.filter(|current| current.status == value).and_then(|it| it.last_transition_time.clone());
    status.conditions.retain(|condition| condition.r#type != kind);
    status.conditions.push(Condition {
        r#type: kind.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since.or_else(|| Some(format_time(now))),
        last_update_time: Some(format_time(now)),
    });
}

/// As it is written: without zeros.
pub(super) fn to_value(status: &DeploymentStatus) -> Value {
    let mut value = Map::new();
    let counts = [
        ("observedGeneration", status.observed_generation),
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
        ("collisionCount", status.collision_count.unwrap_or_default().into()),
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

/// Whether pods of old sets must be gone before new ones are made.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    !is_rolling(deployment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(reason: &str, updated: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 60},
            "status": {"conditions": [{"type": "Progressing", "status": "True", "reason": reason,
                                       "lastUpdateTime": updated, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap()
    }

    fn set(replicas: i64, available: i64) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "web-1"}, "spec": {"replicas": 2},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}}))
        .unwrap()
    }

    #[test]
    fn progress_is_told() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let (recent, long_ago) = ("2026-01-01T00:09:30Z", "2026-01-01T00:01:00Z");
        let found = NewSet::Found("web-1".into());
        let cases = [
            (
                deployment("ReplicaSetUpdated", recent),
                set(2, 2),
                "True NewReplicaSetAvailable ReplicaSet \"web-1\" has successfully progressed.",
            ),
            (
                deployment("ReplicaSetUpdated", recent),
                set(2, 1),
                "True ReplicaSetUpdated ReplicaSet \"web-1\" is progressing.",
            ),
            (deployment("ReplicaSetUpdated", recent), set(0, 0), "True ReplicaSetUpdated "),
            (
                deployment("ReplicaSetUpdated", long_ago),
                set(0, 0),
                "False ProgressDeadlineExceeded ReplicaSet \"web-1\" has timed out progressing.",
            ),
            (deployment("NewReplicaSetAvailable", long_ago), set(2, 1), "True NewReplicaSetAvailable "),
        ];
        for (deployment, new, want) in cases {
            let status = compute(&deployment, &[&new], Some(&new), &found, None, now);
            let got = condition(&status, "Progressing").unwrap();
            assert_eq!(format!("{} {} {}", got.status, got.reason, got.message), want);
        }
        let fresh = deployment("x", recent);
        let status = compute(&fresh, &[], None, &NewSet::Created("web-2".into()), None, now);
        let got = condition(&status, "Progressing").unwrap();
        assert_eq!(
            (got.reason.as_str(), got.message.as_str()),
            ("NewReplicaSetCreated", "Created new replica set \"web-2\"")
        );
        assert_eq!(time_left(&fresh, &status, now), Some(Duration::from_secs(60)));
        let mut endless = fresh;
        endless.spec.progress_deadline_seconds = Some(NO_DEADLINE);
        let status = compute(&endless, &[], None, &NewSet::Created("web-2".into()), None, now);
        assert_eq!(condition(&status, "Progressing"), None);
    }

    #[test]
    fn a_sets_failure_is_the_deployments() {
        let mut failed = set(0, 0);
        let failure = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m",
                             "lastTransitionTime": "2026-01-01T00:00:00Z"});
        failed.status.conditions = vec![serde_json::from_value(failure.clone()).unwrap()];
        let told = compute(&deployment("x", ""), &[&failed], None, &NewSet::Absent, None, Timestamp::UNIX_EPOCH);
        let mut want = failure;
        want["lastUpdateTime"] = want["lastTransitionTime"].clone();
        assert_eq!(condition_value(condition(&told, "ReplicaFailure").unwrap()), want);
        let mended = compute(&deployment("x", ""), &[&set(2, 2)], None, &NewSet::Absent, None, Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&mended, "ReplicaFailure"), None);
    }

    #[test]
    fn availability() {
        let now = Timestamp::UNIX_EPOCH;
        for (available, want) in [(2, "True MinimumReplicasAvailable"), (1, "False MinimumReplicasUnavailable")] {
            let status = compute(&deployment("x", ""), &[&set(2, available)], None, &NewSet::Absent, None, now);
            let got = condition(&status, "Available").unwrap();
            assert_eq!(format!("{} {}", got.status, got.reason), want);
            assert_eq!(status.unavailable_replicas, 2 - available);
        }
    }
}
