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
            self.tasks.spawn(async move {
                let write = async {
                    match &choice {
                        Ok(None) => {}
                        Ok(Some(node)) => this.bind(&pod, node).await,
                        Err(error) => this.put_off(&pod, error).await,
                    }
                };
                if let Err(panic) = AssertUnwindSafe(write).catch_unwind().await {
                    this.give_back(&pod, &*panic);
                }
                drop(permit);
            });
            // Cycles do not wait for I/O: let the others on this thread have their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Puts a pod back whose scheduling panicked, to be tried again after its back-off.
    fn give_back(&self, pod: &PodInfo, panic: &(dyn Any + Send)) {
        supervise::panicked("scheduling", panic);
        self.make_room(pod);
        self.state().queue.failed(pod, Instant::now());
        self.wake.notify_one();
    }

    /// Takes back that the pod is on a node; others may fit now.
    fn make_room(&self, pod: &PodInfo) {
        let mut state = self.state();
        let State { cache, queue } = &mut *state;
        if cache.forget(pod) {
            queue.wake(&self.plugins, &ClusterEvent::PodRemoved(pod), Instant::now());
        }
    }

    /// Assumes the pod on `node` and asks the plugins. False if one refuses, or the pod is gone.
    fn reserve(&self, cycle_state: &mut CycleState, pod: &Arc<PodInfo>, node: &str) -> bool {
        {
            let mut state = self.state();
            if !state.queue.is_in_flight(pod) {
                return false;
            }
            state.cache.assume(Arc::clone(pod), node);
        }
        let refused = self.plugins.iter().position(|plugin| plugin.reserve(cycle_state, pod, node).is_err());
        if let Some(at) = refused {
            self.plugins[..at].iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
            let mut state = self.state();
            state.cache.forget(pod);
            state.queue.unschedulable(pod, [self.plugins[at].name()], Instant::now());
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
                // The queue lets go of it when its node comes by the watch.
                self.recorder.event(&reference(&pod.pod), EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                self.plugins.iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
                self.bind_failed(pod, &error).await;
            }
        }
    }

    async fn bind_failed(&self, pod: &PodInfo, error: &kube::Error) {
        self.make_room(pod);
        self.wake.notify_one();
        // A pod deleted meanwhile is not in the queue any more.
        if !rest::is_not_found(error) {
            let message = format!("binding rejected: {}", rest::message(error));
            tracing::warn!(pod = %pod.key(), message, "cannot bind");
            self.tell(pod, "SchedulerError", &message).await;
        }
        self.state().queue.failed(pod, Instant::now());
        self.wake.notify_one();
    }

    /// Nothing suits the pod. It is told before the pod can be tried again: a condition that is written late would be the last
    /// word on a pod that has been bound.
    async fn put_off(&self, pod: &PodInfo, error: &FitError) {
        self.tell(pod, "Unschedulable", &error.message()).await;
        self.state().queue.unschedulable(pod, error.plugins.iter().copied(), Instant::now());
        self.wake.notify_one();
    }

    async fn tell(&self, pod: &PodInfo, reason: &str, message: &str) {
        self.recorder.event(&reference(&pod.pod), EventType::Warning, "FailedScheduling", message);
        write_condition(&self.rest, &pod.pod, reason, message).await;
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
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use tokio::sync::Semaphore;

    /// A scheduler with one node that has room for one pod, whose requests wait for a permit each and are then refused.
    fn small_cluster(answers: Arc<Semaphore>) -> Inner {
        let service = tower::service_fn(move |_: Request<Body>| {
            let answers = Arc::clone(&answers);
            async move {
                answers.acquire().await.unwrap().forget();
                let refused = Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR);
                Ok::<_, std::convert::Infallible>(refused.body(Body::empty()).unwrap())
            }
        });
        let (client, tasks) = (kube::Client::new(service, "default"), TaskTracker::new());
        let inner = Inner {
            rest: Rest::new(client.clone()),
            recorder: Recorder::new(client, SCHEDULER_NAME, "", &tasks, CancellationToken::new()),
            plugins: plugins::defaults(),
            state: Mutex::default(),
            wake: Notify::new(),
            writes: Arc::new(Semaphore::new(WRITES)),
            tasks,
        };
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "1"}}});
        inner.node(&Event::Upsert { old: None, new: Arc::new(serde_json::from_value(node).unwrap()) });
        for name in ["a", "b"] {
            let spec = json!({"schedulerName": SCHEDULER_NAME});
            let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec});
            inner.pod(&Event::Upsert { old: None, new: Arc::new(serde_json::from_value(pod).unwrap()) });
        }
        inner
    }

    fn pop(inner: &Inner) -> Option<Arc<PodInfo>> {
        inner.state().queue.pop(Instant::now())
    }

    fn full() -> FitError {
        let mut error = FitError { nodes: 1, ..FitError::default() };
        error.record("NodeResourcesFit", crate::framework::Rejection::resolvable(vec!["Too many pods".into()]), 1);
        error
    }

    #[tokio::test]
    async fn a_binding_that_fails_makes_room_for_others() {
        let inner = small_cluster(Arc::new(Semaphore::new(100)));
        let (a, b) = (pop(&inner).unwrap(), pop(&inner).unwrap());
        assert!(inner.reserve(&mut CycleState::default(), &a, "n"));
        inner.put_off(&b, &full()).await;
        assert!(pop(&inner).is_none());
        inner.bind(&a, "n").await;
        assert_eq!(pop(&inner).map(|pod| pod.key()), Some(b.key()));
    }

    #[tokio::test]
    async fn a_pod_is_told_before_it_is_tried_again() {
        let answers = Arc::new(Semaphore::new(0));
        let inner = small_cluster(Arc::clone(&answers));
        let (a, b) = (pop(&inner).unwrap(), pop(&inner).unwrap());
        let error = full();
        let mut telling = std::pin::pin!(inner.put_off(&b, &error));
        assert!(futures::poll!(&mut telling).is_pending());
        inner.state().queue.wake(&inner.plugins, &ClusterEvent::PodRemoved(&a), Instant::now());
        assert!(pop(&inner).is_none(), "its condition is being written");
        answers.add_permits(100);
        telling.await;
        assert!(pop(&inner).is_some(), "and what happened meanwhile is not forgotten");
    }

    #[tokio::test]
    async fn a_pod_that_went_during_its_cycle_is_not_placed() {
        let inner = small_cluster(Arc::new(Semaphore::new(0)));
        let a = pop(&inner).unwrap();
        inner.pod(&Event::Delete(Arc::clone(&a.pod)));
        assert!(!inner.reserve(&mut CycleState::default(), &a, "n"));
        let mut again = Pod::clone(&a.pod);
        again.metadata.uid = "again".into();
        inner.pod(&Event::Upsert { old: None, new: Arc::new(again) });
        let keys: Vec<_> = std::iter::from_fn(|| pop(&inner)).map(|pod| pod.pod.metadata.uid.clone()).collect();
        assert_eq!(keys, ["b", "again"]);
    }

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
