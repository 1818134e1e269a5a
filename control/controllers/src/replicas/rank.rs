//! Which pods go first when there are too many, in upstream's order.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use jiff::Timestamp;

use crate::objects::Pod;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods to delete; `crowd` says how many pods of the same workload share a pod's node.
pub(super) fn first_to_go(
    pods: &[Arc<Pod>],
    crowd: impl Fn(&Pod) -> i64,
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut ranked: Vec<_> = pods.iter().map(|pod| (rank(pod, crowd(pod), now), pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().take(count).map(|(_, pod)| Arc::clone(pod)).collect()
}

/// Lowest first: not assigned, pending, not ready, cheap, crowded, ready for a short time, often restarted, young.
type Rank = (bool, u8, bool, i64, Reverse<i64>, u32, Reverse<i64>, u32, String);

fn rank(pod: &Pod, crowd: i64, now: Timestamp) -> Rank {
    let phase = match pod.status.phase.as_str() {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let ready_since = pod.condition("Ready").filter(|ready| ready.status == "True");
    let ready_since = ready_since.and_then(|ready| ready.last_transition_time.as_deref());
    let cost = pod.metadata.annotation(DELETION_COST).and_then(|text| text.parse::<i32>().ok()).unwrap_or_default();
    let restarts = pod.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or_default();
    (
        !pod.spec.node_name.is_empty(),
        phase,
        pod.is_ready(),
        i64::from(cost),
        Reverse(crowd),
        magnitude(ready_since, now),
        Reverse(restarts),
        magnitude(pod.metadata.creation_timestamp.as_deref(), now),
        pod.metadata.uid.clone(),
    )
}

/// Ages are compared by their order of magnitude, so that among pods of about the same age chance decides, not always the
/// youngest loses. Unknown counts as just now.
fn magnitude(since: Option<&str>, now: Timestamp) -> u32 {
    let Some(since) = since.and_then(|text| text.parse::<Timestamp>().ok()) else { return 0 };
    let seconds = now.duration_since(since).as_secs();
    match seconds.cmp(&0) {
        Ordering::Greater => seconds.ilog2() + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running",
                       "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                       "containerStatuses": [{"restartCount": 0}]},
        });
        change(&mut value);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// `better` must outlive `worse`.
    fn check(what: &str, worse: impl FnOnce(&mut Value), better: impl FnOnce(&mut Value)) {
        let (worse, better) = (pod("z", worse), pod("a", better));
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let gone = first_to_go(&[better, worse], |pod| i64::from(pod.metadata.labels.contains_key("crowded")), 1, now);
        assert_eq!(gone[0].metadata.name, "z", "{what}");
    }

    #[test]
    fn order() {
        let none = |_: &mut Value| {};
        check("unassigned first", |pod| pod["spec"] = json!({}), |pod| pod["status"] = json!({"phase": "Pending"}));
        check("pending first", |pod| pod["status"]["phase"] = json!("Pending"), none);
        check("unready first", |pod| pod["status"]["conditions"][0]["status"] = json!("False"), none);
        let cost =
            |cost: &'static str| move |pod: &mut Value| pod["metadata"]["annotations"][DELETION_COST] = json!(cost);
        check("cheap first", cost("-1"), none);
        check("dear last", none, cost("5"));
        check("crowded first", |pod| pod["metadata"]["labels"] = json!({"crowded": ""}), none);
        let ready_at =
            |at: &'static str| move |pod: &mut Value| pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at);
        check("ready for a short time first", ready_at("2026-01-01T23:59:00Z"), none);
        check("often restarted first", |pod| pod["status"]["containerStatuses"][0]["restartCount"] = json!(2), none);
        check("young first", |pod| pod["metadata"]["creationTimestamp"] = json!("2026-01-01T23:59:00Z"), none);
    }
}
