//! Whether nodes live. A node renews its Lease; when that stops for too long its conditions become Unknown, its pods unready,
//! and taints keep new pods off and let old ones be evicted, at the pace of [`zones`](super::zones). Where no node is ready nobody
//! is evicted: it is more likely that this side is cut off, and there is nowhere to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apimachinery::time::now_rfc3339;
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, Rest};
use informer::{Event, Informer, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Result, path_of, synced};
use crate::objects::{Condition, Lease, Node, Pod, Taint};
use crate::replicas::pods_on;

use super::zones::{Leave, Pace, zone_of};

/// A node is given up after this time without a sign.
const GRACE: Duration = Duration::from_secs(50);
/// A verdict that comes later than this is not one: for so long nobody looked, because this process was stopped or without an
/// API server, and nodes could not be heard either.
const LATE: Duration = Duration::from_secs(5);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions a kubelet reports.
const KUBELET_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

struct Controller {
    rest: Rest,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// When each node last gave a sign, by this process's clock: clocks of nodes may differ.
    signs: Mutex<HashMap<String, Instant>>,
    pace: Pace,
}

pub(super) fn start(env: &Env) {
    let (nodes, pods) = (env.informers.nodes.clone(), env.informers.pods.clone());
    let leases = Informer::<Lease>::builder((env.client_for)(""))
        .namespace("kube-node-lease")
        .start(&env.tasks, env.shutdown.clone());
    let queue = Queue::new("node-health");
    let controller = Arc::new(Controller {
        rest: env.rest(super::CONTROLLER),
        recorder: env.recorder(super::CONTROLLER),
        nodes: nodes.clone(),
        pods: pods.clone(),
        signs: Mutex::default(),
        pace: Pace::default(),
    });
    let (this, changed) = (Arc::clone(&controller), queue.clone());
    leases.on_event(move |event| {
        let Event::Upsert { old, new } = event else { return };
        let name = &new.metadata.name;
        if old.as_ref().is_some_and(|old| old.spec.renew_time == new.spec.renew_time) {
            return;
        }
        // A renewal wakes nobody unless the node had been given up: the timer that is set finds it.
        if this.sign(name) > GRACE {
            changed.add(name.clone());
        }
    });
    let (all, changed) = (nodes.clone(), queue.clone());
    nodes.on_event(move |event| {
        let (before, now) = match event {
            Event::Upsert { old, new } => (old.as_deref().is_some_and(is_ready), is_ready(new)),
            Event::Delete(last) => (is_ready(last), false),
        };
        // Whether pods have to leave the others depends on how many are ready.
        if before != now {
            let others = all.list().into_iter().filter(|node| !is_ready(node));
            others.for_each(|node| changed.add(node.metadata.name.clone()));
        }
    });
    let (this, changed) = (Arc::clone(&controller), queue.clone());
    nodes.on_event(move |event| match event {
        Event::Upsert { old: None, new } => {
            let name = &new.metadata.name;
            this.sign(name);
            changed.add(name.clone());
            this.tell(new, "RegisteredNode", format!("Node {name} event: Registered Node {name} in Controller"));
        }
        Event::Upsert { old: Some(old), new } => {
            if old.status.conditions != new.status.conditions
                || old.spec.taints != new.spec.taints
                || old.spec.unschedulable != new.spec.unschedulable
            {
                changed.add(new.metadata.name.clone());
            }
        }
        Event::Delete(last) => {
            let name = &last.metadata.name;
            this.forget(name);
            this.tell(last, "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"));
        }
    });
    let known = synced!(nodes, pods, leases);
    env.run(queue, 4, known, controller, |this, name| async move { this.reconcile(&name).await });
}

fn is_ready(node: &Node) -> bool {
    node.condition("Ready").is_some_and(|ready| ready.status == "True")
}

/// What is wanted of a node's taints: those of its conditions; others stay. `evict` says whether pods are to leave a node that
/// is not ready. None if they are so already.
fn taints(node: &Node, evict: bool, now: &str) -> Option<Vec<Taint>> {
    let status = |kind: &str| node.condition(kind).map(|condition| condition.status.as_str());
    let effects: &[&str] = if evict { &["NoSchedule", "NoExecute"] } else { &["NoSchedule"] };
    let mut wanted: Vec<Taint> = Vec::new();
    match status("Ready") {
        Some("True") => {}
        Some("False") => wanted.extend(effects.iter().map(|effect| Taint::new(NOT_READY, effect))),
        Some("Unknown") => wanted.extend(effects.iter().map(|effect| Taint::new(UNREACHABLE, effect))),
        // A node that has not said anything yet is not ready, but nothing runs there that should go.
        _ => wanted.push(Taint::new(NOT_READY, "NoSchedule")),
    }
    let pressures = [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ];
    let pressed = pressures.iter().filter(|(kind, _)| status(kind) == Some("True"));
    wanted.extend(pressed.map(|(_, key)| Taint::new(key, "NoSchedule")));
    if node.spec.unschedulable {
        wanted.push(Taint::new("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let of_condition =
            pressures.iter().any(|(_, key)| *key == taint.key) || taint.key == "node.kubernetes.io/unschedulable";
        matches!(taint.key.as_str(), NOT_READY | UNREACHABLE) || (of_condition && taint.effect == "NoSchedule")
    };
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut next: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|wanted| same(wanted, taint)))
        .cloned()
        .collect();
    for mut taint in wanted {
        if !next.iter().any(|known| same(known, &taint)) {
            taint.time_added = (taint.effect == "NoExecute").then(|| now.to_owned());
            next.push(taint);
        }
    }
    (next != node.spec.taints).then_some(next)
}

/// The conditions of a node that gives no sign any more; those that are Unknown already stay.
fn unknown_conditions(node: &Node, now: &str) -> Vec<Value> {
    let stale = |kind: &&&str| node.condition(kind).is_none_or(|condition| condition.status != "Unknown");
    KUBELET_CONDITIONS
        .iter()
        .filter(stale)
        .map(|kind| {
            let (reason, message) = match node.condition(kind) {
                Some(Condition { .. }) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            json!({
                "type": kind, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": now,
            })
        })
        .collect()
}

impl Controller {
    /// Notes a sign of life; returns how long the node had been silent.
    fn sign(&self, name: &str) -> Duration {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        signs.insert(name.to_owned(), now).map_or(Duration::ZERO, |last| now - last)
    }

    fn forget(&self, name: &str) {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn silence(&self, name: &str) -> Duration {
        let signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.get(name).map(Instant::elapsed).unwrap_or_default()
    }

    fn tell(&self, node: &Node, reason: &str, message: String) {
        self.recorder.event(&ObjectRef::of("v1", "Node", &node.metadata), EventType::Normal, reason, message);
    }

    async fn reconcile(&self, name: &str) -> Result<Action> {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) else { return Ok(Action::Done) };
        let silence = self.silence(name);
        if silence >= GRACE {
            let unknown = unknown_conditions(&node, &now_rfc3339());
            if !unknown.is_empty() && silence >= GRACE + LATE {
                self.sign(name);
                return Ok(Action::RequeueAfter(GRACE));
            }
            if !unknown.is_empty() {
                let patch = json!({ "metadata": { "uid": node.metadata.uid }, "status": { "conditions": unknown } });
                let patched = self.rest.strategic_merge(&path_of(node.as_ref()).child("status"), &patch).await;
                rest::absent_is_none(patched).doing(|| format!("give node {name} up"))?;
                self.tell(&node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
                // The change comes back as an event, and the rest follows then.
                return Ok(Action::Done);
            }
        }
        let leave = self.leave(&node);
        if let Some(taints) = taints(&node, leave == Leave::Now, &now_rfc3339()) {
            let patch = json!({
                "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
                "spec": { "taints": taints },
            });
            rest::absent_is_none(self.rest.merge(&path_of(node.as_ref()), &patch).await)
                .doing(|| format!("taint node {name}"))?;
        }
        if node.condition("Ready").is_some_and(|ready| ready.status != "True") {
            self.unready_pods(name).await?;
        }
        let paced = if let Leave::In(time) = leave { Some(time) } else { None };
        let silent = GRACE.checked_sub(silence).filter(|left| !left.is_zero());
        Ok(paced.into_iter().chain(silent).min().map_or(Action::Done, Action::RequeueAfter))
    }

    /// When pods have to leave the node, if it is not ready.
    fn leave(&self, node: &Node) -> Leave {
        let nodes = self.nodes.list();
        if is_ready(node) || !nodes.iter().any(|node| is_ready(node)) {
            return Leave::NotYet;
        }
        let given_up =
            |taint: &Taint| matches!(taint.key.as_str(), NOT_READY | UNREACHABLE) && taint.effect == "NoExecute";
        // A node that has not said anything yet has nothing to lose.
        let unknown = node.condition("Ready").is_none();
        if unknown || node.spec.taints.iter().any(given_up) {
            return Leave::Now;
        }
        let zone = zone_of(node);
        let (ready, unready): (Vec<_>, Vec<_>) =
            nodes.iter().filter(|other| zone_of(other) == zone).partition(|other| is_ready(other));
        self.pace.take(&zone, (ready.len(), unready.len()), Instant::now())
    }

    /// Nobody else can say so: their kubelet does not.
    async fn unready_pods(&self, node: &str) -> Result<()> {
        for pod in pods_on(&self.pods, node).iter().filter(|pod| pod.is_ready()) {
            let patch = json!({
                "metadata": { "uid": pod.metadata.uid },
                "status": {
                    "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": now_rfc3339() }],
                },
            });
            match self.rest.strategic_merge(&path_of(pod.as_ref()).child("status"), &patch).await {
                Ok(_) => {
                    let about = ObjectRef::of("v1", "Pod", &pod.metadata);
                    self.recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(error) if rest::is_conflict(&error) || rest::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("mark pod {} not ready", pod.key())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, pressure: bool, taints: &Value) -> Node {
        let mut conditions = Vec::new();
        conditions.extend(ready.map(|status| json!({"type": "Ready", "status": status})));
        if pressure {
            conditions.push(json!({"type": "MemoryPressure", "status": "True"}));
        }
        serde_json::from_value(json!({"spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        let not_ready = json!([{"key": NOT_READY, "effect": "NoSchedule"}]);
        let cases = [
            (node(Some("True"), false, &json!([])), None),
            (node(None, false, &not_ready), None),
            (node(Some("True"), false, &not_ready), Some("")),
            (node(Some("False"), false, &json!([])), Some("not-ready:NoSchedule: not-ready:NoExecute:now")),
            (
                node(Some("Unknown"), false, &json!([{"key": NOT_READY, "effect": "NoExecute", "timeAdded": "t"}])),
                Some("unreachable:NoSchedule: unreachable:NoExecute:now"),
            ),
            (
                node(Some("True"), true, &json!([{"key": "mine", "effect": "NoExecute"}])),
                Some("mine:NoExecute: memory-pressure:NoSchedule:"),
            ),
        ];
        for (node, want) in cases {
            let show = |taint: &Taint| {
                let key = taint.key.trim_start_matches("node.kubernetes.io/");
                format!("{key}:{}:{}", taint.effect, taint.time_added.as_deref().unwrap_or_default())
            };
            let got = taints(&node, true, "now").map(|taints| taints.iter().map(show).collect::<Vec<_>>().join(" "));
            assert_eq!(got.as_deref(), want);
        }
        let given_up =
            json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"}]);
        let got = taints(&node(Some("Unknown"), false, &given_up), false, "now");
        assert_eq!(got, Some(vec![Taint::new(UNREACHABLE, "NoSchedule")]), "nobody has to leave");
    }

    #[test]
    fn silent_nodes_become_unknown_once() {
        let got = unknown_conditions(&node(Some("True"), true, &json!([])), "now");
        let reasons: Vec<_> = got.iter().map(|condition| condition["reason"].as_str().unwrap()).collect();
        assert_eq!(
            reasons,
            ["NodeStatusUnknown", "NodeStatusUnknown", "NodeStatusNeverUpdated", "NodeStatusNeverUpdated"]
        );
        assert_eq!(unknown_conditions(&node(Some("Unknown"), false, &json!([])), "now").len(), 3);
    }
}
