//! The pods of this node: where they come from, their workers, and what the runtime tells about them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cri::events::RuntimeEvent;
use informer::rest::{self, Rest};
use informer::{Informer, Meta, Projection};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Deserializer};
use supervise::Backoff;
use tokio::sync::{Notify, mpsc};

use crate::admission::{self, Offer};
use crate::allocation::{self, Pending};
use crate::context::Context;
use crate::labels;
use crate::pod::{self, PodId};
use crate::qos::QosClass;
use crate::resources;
use crate::worker::{self, Failure, Handle, Message};

/// Where a node's pods come from.
pub(crate) enum PodSource {
    /// The API server. (Static pods from files will be a second.)
    Api(Informer<NodePod>),
}

/// A pod of this node, whole: its worker needs everything.
pub(crate) struct NodePod {
    meta: Meta,
    pod: Arc<Pod>,
}

impl<'de> Deserialize<'de> for NodePod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut pod = Pod::deserialize(deserializer)?;
        pod.metadata.managed_fields = None;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = Meta {
            name: text(&pod.metadata.name),
            namespace: text(&pod.metadata.namespace),
            uid: text(&pod.metadata.uid),
            resource_version: text(&pod.metadata.resource_version),
            ..Meta::default()
        };
        Ok(NodePod { meta, pod: Arc::new(pod) })
    }
}

impl Projection for NodePod {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const RESOURCE: &'static str = "pods";

    fn meta(&self) -> &Meta {
        &self.meta
    }
}

struct Entry {
    handle: Handle,
    /// The pod as the API has it.
    asked: Arc<Pod>,
    /// The same with the resources that the node gave it.
    given: Arc<Pod>,
    /// Why these are not the same.
    pending: Option<Pending>,
    version: String,
    gone: bool,
}

/// The pods but this one that hold something of the node, each with what it was given.
fn others(workers: &HashMap<String, Entry>, uid: &str) -> Vec<Arc<Pod>> {
    let holding = workers.iter().filter(|(other, entry)| other.as_str() != uid && !entry.handle.view.borrow().over);
    holding.map(|(_, entry)| Arc::clone(&entry.given)).collect()
}

/// Workers by pod uid.
pub(crate) struct Pods {
    context: Arc<Context>,
    offer: Mutex<Offer>,
    source: PodSource,
    workers: Mutex<HashMap<String, Entry>>,
    /// What the burstable pods ask for together, as their group was last told.
    burstable_milli: AtomicI64,
    /// Rings when the runtime's images changed.
    pub(crate) images: Arc<Notify>,
}

impl Pods {
    /// None yet.
    pub(crate) fn new(context: Arc<Context>, source: PodSource, offer: Offer) -> Pods {
        let burstable_milli = AtomicI64::new(0);
        Pods {
            context,
            offer: Mutex::new(offer),
            source,
            workers: Mutex::default(),
            burstable_milli,
            images: Arc::default(),
        }
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles of all workers.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.workers().values().map(|entry| entry.handle.clone()).collect()
    }

    /// Keeps workers in step with the API and tells them of the runtime's events.
    pub(crate) async fn run(self: &Arc<Self>, events: &mut mpsc::Receiver<RuntimeEvent>) {
        let PodSource::Api(informer) = &self.source;
        let mut changed = informer.changed();
        let shutdown = self.context.shutdown.clone();
        let mut swept = false;
        loop {
            if informer.has_synced() {
                self.sync(informer).await;
                if !swept {
                    swept = true;
                    self.sweep();
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = changed.changed() => if result.is_err() { return },
                // What a pod held is free: a resize may have waited for it.
                () = self.context.freed.notified() => {}
                event = events.recv() => match event {
                    Some(event) => self.dispatch(event, &mut swept).await,
                    None => return,
                },
            }
        }
    }

    /// Tells the workers whenever somebody sets the clock: they wait for the time when a token is to be renewed, by a clock
    /// that nobody sets.
    pub(crate) async fn follow_clock(&self) {
        let mut retry = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        while let Some(set) = self.context.shutdown.run_until_cancelled(supervise::clock::set()).await {
            match set {
                Ok(()) => self.tell_all(|| Message::ClockSet).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot notice when the clock is set; trying again");
                    retry.wait(&self.context.shutdown).await;
                }
            }
        }
    }

    async fn tell_all(&self, message: impl Fn() -> Message) {
        for handle in self.handles() {
            // A worker that ended does not need it.
            let _ = handle.inbox.send(message()).await;
        }
    }

    async fn sync(&self, informer: &Informer<NodePod>) {
        let pods = informer.list();
        let new = |pod: &NodePod| !self.workers().contains_key(&pod.meta.uid);
        if pods.iter().any(|pod| admission::asks_for_labels(&pod.pod) && new(pod)) {
            self.refresh_labels().await;
        }
        let present: HashSet<&str> = pods.iter().map(|pod| pod.meta.uid.as_str()).collect();
        let mut messages = Vec::new();
        for pod in &pods {
            if let Some(message) = self.sync_one(pod) {
                messages.push(message);
            }
        }
        messages.extend(self.retry_resizes());
        self.workers().retain(|uid, entry| {
            if present.contains(uid.as_str()) {
                return true;
            }
            if !entry.gone {
                entry.gone = true;
                messages.push((entry.handle.inbox.clone(), Message::Gone));
            }
            !entry.handle.inbox.is_closed()
        });
        for (inbox, message) in messages {
            // A worker that ended does not need it.
            let _ = inbox.send(message).await;
        }
        self.weigh();
    }

    /// Reads the node's labels anew: they may have changed after a watch showed them and before the scheduler used them.
    async fn refresh_labels(&self) {
        let Some(client) = &self.context.client else { return };
        let path = rest::Path::object("", "v1", "nodes", "", &self.context.settings.node_name);
        let node = Rest::new(client.clone()).get_metadata(&path).await.map_err(|error| rest::message(&error));
        let meta = node.and_then(|mut node| {
            serde_json::from_value::<Meta>(node["metadata"].take()).map_err(|error| error.to_string())
        });
        match meta {
            Ok(meta) => self.offer().labels = meta.labels,
            Err(error) => {
                tracing::warn!(error, "cannot read the node's labels; pods are judged by those known before");
            }
        }
    }

    fn offer(&self) -> MutexGuard<'_, Offer> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the burstable pods together the weight of all they ask for.
    fn weigh(&self) {
        let Some(cgroups) = &self.context.cgroups else { return };
        let pods = others(&self.workers(), "");
        let burstable = pods.iter().filter(|pod| QosClass::of(pod) == QosClass::Burstable);
        let milli: i64 = burstable.map(|pod| resources::pod_request(pod, "cpu")).sum();
        if self.burstable_milli.swap(milli, Ordering::Relaxed) == milli {
            return;
        }
        if let Err(error) = cgroups.set_weight(QosClass::Burstable, milli) {
            tracing::warn!(%error, "cannot set the weight of the burstable pods");
        }
    }

    fn sync_one(&self, pod: &NodePod) -> Option<(mpsc::Sender<Message>, Message)> {
        let mut workers = self.workers();
        let known = workers.get_mut(&pod.meta.uid);
        match known {
            Some(entry) if entry.version == pod.meta.resource_version => None,
            // Its worker has removed it; the API's own word is still on its way.
            Some(entry) if entry.handle.inbox.is_closed() && pod::deleting(&pod.pod) => None,
            Some(entry) if !entry.handle.inbox.is_closed() => {
                entry.version.clone_from(&pod.meta.resource_version);
                self.grant(&pod.meta.uid, Arc::clone(&pod.pod), &mut workers)
            }
            _ => {
                let rejected = self.judge(&pod.pod, &workers).map(|Failure { reason, message }| {
                    self.context.events.event(&pod.pod, None, true, &reason, message.clone());
                    Failure { reason, message: format!("Pod was rejected: {message}") }
                });
                let asked = Arc::clone(&pod.pod);
                let restored = Some(&pod.pod).filter(|pod| pod::start_time(pod).is_some());
                let restored =
                    restored.map(|pod| allocation::restored(pod)).filter(|pod| !allocation::same(pod, &asked));
                let given = restored.map_or_else(|| Arc::clone(&asked), Arc::new);
                let handle = worker::spawn(&self.context, Arc::clone(&given), rejected);
                let version = pod.meta.resource_version.clone();
                let entry = Entry { handle, asked, given, pending: None, version, gone: false };
                workers.insert(pod.meta.uid.clone(), entry);
                None
            }
        }
    }

    /// Gives a pod what it now asks for, if the node has it; its worker is told.
    fn grant(
        &self,
        uid: &str,
        asked: Arc<Pod>,
        workers: &mut HashMap<String, Entry>,
    ) -> Option<(mpsc::Sender<Message>, Message)> {
        let old = &workers.get(uid)?.given;
        let granted = if allocation::same(&asked, old) {
            Ok(())
        } else {
            let others = others(workers, uid);
            let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
            admission::resize(&asked, old, &others, &self.offer())
        };
        let given = if granted.is_ok() { Arc::clone(&asked) } else { Arc::new(allocation::kept(&asked, old)) };
        let entry = workers.get_mut(uid)?;
        entry.asked = asked;
        entry.given = given;
        entry.pending = granted.err();
        Some((entry.handle.inbox.clone(), Message::Pod(Arc::clone(&entry.given), entry.pending.clone())))
    }

    /// Tries again what could not be given before, the most important pods first.
    fn retry_resizes(&self) -> Vec<(mpsc::Sender<Message>, Message)> {
        let mut workers = self.workers();
        let open = workers.iter().filter(|(_, entry)| !Arc::ptr_eq(&entry.asked, &entry.given));
        let mut open: Vec<_> = open.map(|(uid, entry)| (uid.clone(), Arc::clone(&entry.asked))).collect();
        open.sort_by_key(|(_, pod)| std::cmp::Reverse(pod::spec(pod).priority.unwrap_or(0)));
        let mut messages = Vec::new();
        for (uid, asked) in open {
            let before = workers.get(&uid).and_then(|entry| entry.pending.clone());
            let message = self.grant(&uid, asked, &mut workers);
            // Told before, and nothing has changed.
            let told = before.is_some() && workers.get(&uid).is_some_and(|entry| entry.pending == before);
            messages.extend(message.filter(|_| !told));
        }
        messages
    }

    fn judge(&self, pod: &Pod, workers: &HashMap<String, Entry>) -> Option<Failure> {
        // What was admitted once stays, whatever the node looks like now.
        if pod::start_time(pod).is_some() || pod::deleting(pod) {
            return None;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let others = others(workers, uid);
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        admission::admit(pod, &others, &self.offer()).err()
    }

    async fn dispatch(&self, event: RuntimeEvent, swept: &mut bool) {
        let (id, message) = match event {
            RuntimeEvent::Exit { container_id, .. } => (container_id.clone(), Message::Exited(container_id)),
            RuntimeEvent::Oom { container_id } => (container_id.clone(), Message::Oom(container_id)),
            RuntimeEvent::Resync => {
                self.tell_all(|| Message::Resync).await;
                *swept = false;
                return;
            }
            RuntimeEvent::Image { .. } => {
                self.images.notify_one();
                return;
            }
            RuntimeEvent::Deleted { .. }
            | RuntimeEvent::Created { .. }
            | RuntimeEvent::Started { .. }
            | RuntimeEvent::ExecExit { .. } => return,
        };
        let Some(uid) = self.context.registry.owner(&id) else { return };
        let inbox = self.workers().get(&uid).map(|entry| entry.handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(message).await;
        }
    }

    /// Removes what is left of pods that the API does not know: after a crash, or after a time without events.
    fn sweep(self: &Arc<Self>) {
        let pods = Arc::clone(self);
        self.context.tasks.spawn(async move {
            if let Err(error) = pods.sweep_now().await {
                tracing::warn!(%error, "cannot look for pods left behind");
            }
        });
    }

    async fn sweep_now(&self) -> Result<(), cri::CriError> {
        let mut found: HashMap<String, PodId> = HashMap::new();
        for sandbox in self.context.runtime.list_pod_sandboxes(None).await? {
            let label = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
            let (namespace, name, uid) =
                (label(labels::POD_NAMESPACE), label(labels::POD_NAME), label(labels::POD_UID));
            if !uid.is_empty() {
                found.insert(uid.clone(), PodId { namespace, name, uid });
            }
        }
        let directories = std::fs::read_dir(&self.context.settings.pods_dir).into_iter().flatten().flatten();
        let mut uids: HashSet<String> = directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        uids.extend(self.context.cgroups.iter().flat_map(crate::cgroup::Cgroups::pods));
        for uid in uids {
            let unnamed = PodId { namespace: String::new(), name: String::new(), uid: uid.clone() };
            found.entry(uid).or_insert(unnamed);
        }
        for (uid, id) in found {
            if self.workers().contains_key(&uid) {
                continue;
            }
            tracing::info!(pod = %id, "removing what is left of a pod that is gone");
            if let Err(error) = worker::cleanup(&self.context, &id).await {
                tracing::warn!(pod = %id, error, "cannot remove all that is left of a pod");
            }
        }
        Ok(())
    }
}
