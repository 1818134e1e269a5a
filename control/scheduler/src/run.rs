//! The scheduler at work: informers feed cache and queue, one task runs the cycles, bindings are written beside it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use apimachinery::time::now_rfc3339;
use futures::FutureExt;
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, Path, Rest};
use informer::source::error_chain;
use informer::{Event, Informer, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, PodInfo};
use crate::cycle;
use crate::framework::{ClusterEvent, CycleState, FitError, Plugin};
use crate::objects::{Node, Pod};
use crate::plugins;
use crate::queue::Queue;

const SCHEDULER_NAME: &str = "default-scheduler";
/// Bindings and status writes under way at once.
const WRITES: usize = 64;

/// The running scheduler.
pub struct Scheduler(Arc<Inner>);

struct Inner {
    rest: Rest,
    recorder: Recorder,
    plugins: Vec<Box<dyn Plugin>>,
    state: Mutex<State>,
    wake: Notify,
    writes: Arc<Semaphore>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    cache: Cache,
    queue: Queue,
}

impl Scheduler {
    /// Starts to schedule through `client`, until `shutdown`.
    pub fn start(client: kube::Client, tasks: &TaskTracker, shutdown: CancellationToken) -> Scheduler {
        let recorder = Recorder::new(client.clone(), SCHEDULER_NAME, "", tasks, shutdown.clone());
        let inner = Arc::new(Inner {
            rest: Rest::new(client.clone()),
            recorder,
            plugins: plugins::defaults(),
            state: Mutex::default(),
            wake: Notify::new(),
            writes: Arc::new(Semaphore::new(WRITES)),
            tasks: tasks.clone(),
        });
        let nodes = Informer::<Node>::builder(client.clone()).start(tasks, shutdown.clone());
        // Pods that have ended leave this selector, which arrives as their deletion: just what the cache needs.
        let pods = Informer::<Pod>::builder(client)
            .field_selector("status.phase!=Succeeded,status.phase!=Failed")
            .start(tasks, shutdown.clone());
        let (on_node, on_pod) = (Arc::clone(&inner), Arc::clone(&inner));
        nodes.on_event(move |event| on_node.node(event));
        pods.on_event(move |event| on_pod.pod(event));
        let cycles = Arc::clone(&inner);
        let (stop, state) = (shutdown.clone(), (cycles, nodes, pods, shutdown));
        supervise::spawn("scheduler", tasks, &stop, state, |(cycles, nodes, pods, shutdown)| {
            Box::pin(async move {
                let synced = async { tokio::join!(nodes.synced(), pods.synced()) };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = synced => {}
                }
                cycles.run(shutdown).await;
            })
        });
        Scheduler(inner)
    }

    /// How many pods wait for a node.
    pub fn pending(&self) -> usize {
        self.0.state().queue.len()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, event: &Event<Node>) {
        let (mut state, now) = (self.state(), Instant::now());
        let State { cache, queue } = &mut *state;
        match event {
            Event::Upsert { old: None, new } => {
                cache.set_node(Arc::clone(new));
                queue.wake(&self.plugins, &ClusterEvent::NodeAdded(new), now);
            }
            Event::Upsert { old: Some(old), new } => {
                cache.set_node(Arc::clone(new));
                if matters(old, new) {
                    queue.wake(&self.plugins, &ClusterEvent::NodeUpdated { old, new }, now);
                }
            }
            Event::Delete(last) => cache.remove_node(&last.metadata.name),
        }
        self.wake.notify_one();
    }

    fn pod(&self, event: &Event<Pod>) {
        let (mut state, now) = (self.state(), Instant::now());
        let State { cache, queue } = &mut *state;
        match event {
            Event::Upsert { new, .. } => {
                let key = new.metadata.key();
                if !new.spec.node_name.is_empty() {
                    queue.remove(&key);
                    let info = Arc::new(PodInfo::new(Arc::clone(new)));
                    let old = cache.set_pod(Arc::clone(&info));
                    if let Some(old) = old.filter(|old| old.requests.exceeds(&info.requests)) {
                        queue.wake(&self.plugins, &ClusterEvent::PodShrunk(&old), now);
                        self.wake.notify_one();
                    }
                    return;
                }
                if new.spec.scheduler_name != SCHEDULER_NAME || new.metadata.is_deleting() {
                    queue.remove(&key);
                } else if !cache.has_pod(&key) {
                    // Otherwise its binding is under way and it comes back if that fails.
                    queue.set(Arc::clone(new), now);
                    self.tell_gated(new);
                }
            }
            Event::Delete(last) => {
                let key = last.metadata.key();
                queue.remove(&key);
                if let Some(removed) = cache.remove_pod(&key) {
                    queue.wake(&self.plugins, &ClusterEvent::PodRemoved(&removed), now);
                }
            }
        }
        self.wake.notify_one();
    }

    async fn run(self: &Arc<Self>, shutdown: &CancellationToken) {
        let mut start = 0;
        loop {
            let (next, deadline) = {
                let mut state = self.state();
                let next = state.queue.pop(Instant::now()).map(|pod| (pod, state.cache.snapshot()));
                (next, state.queue.next_deadline())
            };
            let Some((pod, nodes)) = next else {
                let sleep = async {
                    match deadline {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = sleep => {}
                }
                continue;
            };
            let mut cycle_state = CycleState::default();
            let pick = |count| if count > 1 { rand::random_range(0..count) } else { 0 };
            let cycle = || {
                let chosen = cycle::schedule(&self.plugins, &mut cycle_state, &pod, &nodes, &mut start, pick);
                // While a snapshot is held, placing a pod copies it.
                drop(nodes);
                chosen.map(|node| self.reserve(&mut cycle_state, &pod, &node).then_some(node))
            };
            let choice = catch_unwind(AssertUnwindSafe(cycle));
            let choice = match choice {
                Ok(choice) => choice,
                Err(panic) => {
                    self.give_back(&pod, &*panic);
                    continue;
                }
            };
            // Waiting here bounds the writes under way; a scheduler that runs far ahead of the API server gains nothing.
            let permit = tokio::select! {
                () = shutdown.cancelled() => return,
                permit = Arc::clone(&self.writes).acquire_owned() => permit,
            };
            let this = Arc::clone(self);
            match choice {
                Ok(None) => {}
                Ok(Some(node)) => {
                    self.tasks.spawn(async move {
                        let bound = AssertUnwindSafe(this.bind(&pod, &node)).catch_unwind().await;
                        if let Err(panic) = bound {
                            this.give_back(&pod, &*panic);
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    self.state().queue.unschedulable(&pod.key(), error.plugins.iter().copied(), Instant::now());
                    self.tasks.spawn(async move {
                        this.tell_unschedulable(&pod, &error).await;
                        drop(permit);
                    });
                }
            }
            // Cycles do not wait for I/O: let the others on this thread have their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Puts a pod back whose scheduling panicked, to be tried again after its back-off.
    fn give_back(&self, pod: &PodInfo, panic: &(dyn Any + Send)) {
        supervise::panicked("scheduling", panic);
        let mut state = self.state();
        state.cache.forget(&pod.key());
        state.queue.failed(&pod.key(), Instant::now());
        drop(state);
        self.wake.notify_one();
    }

    /// Assumes the pod on `node` and asks the plugins. False if one refuses.
    fn reserve(&self, cycle_state: &mut CycleState, pod: &Arc<PodInfo>, node: &str) -> bool {
        self.state().cache.assume(Arc::clone(pod), node);
        let refused = self.plugins.iter().position(|plugin| plugin.reserve(cycle_state, pod, node).is_err());
        if let Some(at) = refused {
            self.plugins[..at].iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
            let mut state = self.state();
            state.cache.forget(&pod.key());
            state.queue.unschedulable(&pod.key(), [self.plugins[at].name()], Instant::now());
        }
        refused.is_none()
    }

    async fn bind(&self, pod: &PodInfo, node: &str) {
        let meta = &pod.pod.metadata;
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": meta.name, "namespace": meta.namespace, "uid": meta.uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let path = pod_path(&pod.key()).child("binding");
        match self.rest.create(&path, &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {}/{} to {node}", meta.namespace, meta.name);
                self.recorder.event(&reference(&pod.pod), EventType::Normal, "Scheduled", message);
                self.state().queue.remove(&pod.key());
            }
            Err(error) => {
                self.plugins.iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
                self.bind_failed(pod, &error).await;
            }
        }
    }

    async fn bind_failed(&self, pod: &PodInfo, error: &kube::Error) {
        let (key, gone) = (pod.key(), rest::is_not_found(error));
        {
            let mut state = self.state();
            state.cache.forget(&key);
            // A pod deleted meanwhile is not in the queue any more.
            state.queue.failed(&key, Instant::now());
        }
        self.wake.notify_one();
        if gone {
            return;
        }
        let message = format!("binding rejected: {}", rest::message(error));
        tracing::warn!(pod = %key, message, "cannot bind");
        self.recorder.event(&reference(&pod.pod), EventType::Warning, "FailedScheduling", message.as_str());
        self.set_condition(&pod.pod, "SchedulerError", &message).await;
    }

    async fn tell_unschedulable(&self, pod: &PodInfo, error: &FitError) {
        let message = error.message();
        self.recorder.event(&reference(&pod.pod), EventType::Warning, "FailedScheduling", message.as_str());
        self.set_condition(&pod.pod, "Unschedulable", &message).await;
    }

    /// The API server sets this at creation as upstream does; gates of pods that came otherwise are told here.
    fn tell_gated(&self, pod: &Arc<Pod>) {
        if pod.spec.scheduling_gates.is_empty() || pod.condition("PodScheduled").is_some() {
            return;
        }
        let (rest, pod) = (self.rest.clone(), Arc::clone(pod));
        self.tasks.spawn(async move {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            write_condition(&rest, &pod, "SchedulingGated", message).await;
        });
    }

    async fn set_condition(&self, pod: &Pod, reason: &str, message: &str) {
        write_condition(&self.rest, pod, reason, message).await;
    }
}

async fn write_condition(rest: &Rest, pod: &Pod, reason: &str, message: &str) {
    let Some(patch) = condition_patch(pod, reason, message) else { return };
    let path = pod_path(&pod.metadata.key()).child("status");
    match rest.strategic_merge(&path, &patch).await {
        Ok(_) => {}
        Err(error) if rest::is_not_found(&error) || rest::is_conflict(&error) => {}
        Err(error) => {
            tracing::warn!(pod = %pod.metadata.key(), error = error_chain(&error), "cannot write the pod's condition");
        }
    }
}

/// None if the pod says so already.
fn condition_patch(pod: &Pod, reason: &str, message: &str) -> Option<Value> {
    let known = pod.condition("PodScheduled");
    if known.is_some_and(|known| (&*known.status, &*known.reason, &*known.message) == ("False", reason, message)) {
        return None;
    }
    let mut condition = json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message });
    if pod.metadata.generation > 0 {
        condition["observedGeneration"] = Value::from(pod.metadata.generation);
    }
    if known.is_none_or(|known| known.status != "False") {
        condition["lastTransitionTime"] = Value::from(now_rfc3339());
    }
    Some(json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } }))
}

fn pod_path(key: &ObjectKey) -> Path {
    Path::object("", "v1", "pods", &key.namespace, &key.name)
}

fn reference(pod: &Pod) -> ObjectRef {
    ObjectRef::of("v1", "Pod", &pod.metadata)
}

/// Whether a node changed in what may make pods fit; its heartbeat does not.
fn matters(old: &Node, new: &Node) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.status.allocatable != new.status.allocatable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Condition;

    #[test]
    fn conditions_are_written_once() {
        let mut pod = Pod::default();
        let patch = condition_patch(&pod, "Unschedulable", "m").unwrap();
        assert_eq!(patch["status"]["conditions"][0]["reason"], "Unschedulable");
        assert!(patch["status"]["conditions"][0]["lastTransitionTime"].is_string());
        pod.status.conditions = vec![Condition {
            r#type: "PodScheduled".into(),
            status: "False".into(),
            reason: "Unschedulable".into(),
            message: "m".into(),
            ..Condition::default()
        }];
        assert_eq!(condition_patch(&pod, "Unschedulable", "m"), None);
        let patch = condition_patch(&pod, "Unschedulable", "other").unwrap();
        assert!(patch["status"]["conditions"][0].get("lastTransitionTime").is_none());
    }

    #[test]
    fn heartbeats_do_not_matter() {
        let old = Node::default();
        let mut new = old.clone();
        new.metadata.resource_version = "2".into();
        assert!(!matters(&old, &new));
        new.spec.unschedulable = true;
        assert!(matters(&old, &new));
    }
}
