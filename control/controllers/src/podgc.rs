//! Pods that nobody else will remove: on nodes that are gone or said to be out of service, being deleted without ever having
//! had a node, and ended ones beyond a threshold.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::time::now_rfc3339;
use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, ObjectKey, Projection};
use serde_json::json;

use crate::framework::{Doing, Env, Result, path_of, synced};
use crate::objects::{Node, Pod};
use crate::replicas::pods_on;

/// A node's object may come back, as when its kubelet registers anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The taint by which people say that a node is shut down and will not come back by itself.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How many ended pods may stay.
const TERMINATED_THRESHOLD: usize = 12_500;
/// Ended pods are counted this long after one more ended.
const COUNT_AFTER: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    /// All pods on this node, which is not known.
    Node(String),
    /// A pod being deleted that has no node, or whose node is out of service.
    Deserted(ObjectKey),
    Terminated,
}

struct Controller {
    rest: Rest,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

/// Starts the controller.
pub(crate) fn start(env: &Env) {
    let (pods, nodes) = (env.informers.pods.clone(), env.informers.nodes.clone());
    let queue = Queue::new("podgc");
    let (changed, all) = (queue.clone(), pods.clone());
    nodes.on_event(move |event| match event {
        Event::Delete(node) => changed.add_after(Key::Node(node.metadata.name.clone()), QUARANTINE),
        Event::Upsert { new, .. } if is_out_of_service(new) => {
            let pods = pods_on(&all, &new.metadata.name);
            let deleting = pods.iter().filter(|pod| pod.metadata.is_deleting());
            deleting.for_each(|pod| changed.add(Key::Deserted(pod.key())));
        }
        Event::Upsert { .. } => {}
    });
    let (changed, known_nodes) = (queue.clone(), nodes.clone());
    pods.on_event(move |event| {
        let Event::Upsert { old, new } = event else { return };
        let node = &new.spec.node_name;
        let known = known_nodes.get(&ObjectKey::cluster(node.clone()));
        if new.metadata.is_deleting() && (node.is_empty() || known.as_deref().is_some_and(is_out_of_service)) {
            changed.add(Key::Deserted(new.metadata.key()));
        }
        let assigned = !node.is_empty() && old.as_ref().is_none_or(|old| old.spec.node_name.is_empty());
        if assigned && known.is_none() {
            changed.add_after(Key::Node(node.clone()), QUARANTINE);
        }
        if new.is_terminal() {
            changed.add_after(Key::Terminated, COUNT_AFTER);
        }
    });
    let known = synced!(pods, nodes);
    let controller = Arc::new(Controller { rest: env.rest("pod-garbage-collector"), pods, nodes });
    env.run(queue, 2, known, controller, |this, key| async move { this.reconcile(key).await });
}

/// Whether nobody looks after the pods of a node, which do not run either.
fn is_out_of_service(node: &Node) -> bool {
    node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
        && node.condition("Ready").is_none_or(|ready| ready.status != "True")
}

/// The oldest ended pods beyond `threshold`.
fn surplus(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| pod.is_terminal() && !pod.metadata.is_deleting()).collect();
    ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let count = ended.len().saturating_sub(threshold);
    ended.into_iter().take(count).cloned().collect()
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Action> {
        match key {
            Key::Node(node) => {
                if self.nodes.get(&ObjectKey::cluster(node.clone())).is_some() {
                    return Ok(Action::Done);
                }
                // The informer may be behind; these deletions cannot be taken back.
                let live = self.rest.get_opt(&Path::object("", "v1", "nodes", "", &node)).await;
                if live.doing(|| format!("read node {node}"))?.is_none() {
                    for pod in pods_on(&self.pods, &node) {
                        self.delete(&pod, Some("PodGC: node no longer exists")).await?;
                    }
                }
            }
            Key::Deserted(key) => {
                let Some(pod) = self.pods.get(&key).filter(|pod| pod.metadata.is_deleting()) else {
                    return Ok(Action::Done);
                };
                let node = self.nodes.get(&ObjectKey::cluster(pod.spec.node_name.clone()));
                if pod.spec.node_name.is_empty() || node.as_deref().is_some_and(is_out_of_service) {
                    self.delete(&pod, None).await?;
                }
            }
            Key::Terminated => {
                for pod in surplus(&self.pods.list(), TERMINATED_THRESHOLD) {
                    self.delete(&pod, None).await?;
                }
            }
        }
        Ok(Action::Done)
    }

    async fn delete(&self, pod: &Pod, disrupted: Option<&str>) -> Result<()> {
        let (path, doing) = (path_of(pod), || format!("remove pod {}", pod.key()));
        // Where a finalizer keeps the pod, it must not look as if it ran.
        if !pod.is_terminal() {
            let mut status = json!({ "phase": "Failed" });
            if let Some(message) = disrupted {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": message,
                    "lastTransitionTime": now_rfc3339(),
                }]);
            }
            let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
            rest::absent_is_none(self.rest.strategic_merge(&path.clone().child("status"), &patch).await)
                .doing(doing)?;
        }
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(&pod.metadata.uid) };
        match self.rest.delete(&path, &options).await {
            Err(error) if rest::is_conflict(&error) => Ok(()),
            other => rest::absent_is_none(other).map(drop).doing(doing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn nodes_out_of_service() {
        for (taint, ready, want) in [
            (OUT_OF_SERVICE, Some("Unknown"), true),
            (OUT_OF_SERVICE, None, true),
            (OUT_OF_SERVICE, Some("True"), false),
            ("node.kubernetes.io/unreachable", Some("Unknown"), false),
        ] {
            let conditions: Vec<Value> =
                ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
            let node = json!({"spec": {"taints": [{"key": taint}]}, "status": {"conditions": conditions}});
            assert_eq!(is_out_of_service(&serde_json::from_value(node).unwrap()), want, "{taint} {ready:?}");
        }
    }

    #[test]
    fn the_oldest_ended_pods_go() {
        let pod = |name: &str, phase: &str, created: &str| -> Arc<Pod> {
            let value: Value =
                json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let pods =
            [pod("a", "Failed", "3"), pod("b", "Succeeded", "1"), pod("c", "Running", "0"), pod("d", "Failed", "2")];
        let names =
            |threshold| surplus(&pods, threshold).iter().map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(1), ["b", "d"]);
        assert!(names(3).is_empty());
    }
}
