//! The pods of this node: where they come from, their workers, and what the runtime tells about them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri::events::RuntimeEvent;
use informer::rest::{self, Rest};
use informer::{Informer, Meta, Projection};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Deserializer};
use tokio::sync::{Notify, mpsc};

use crate::admission::{self, Offer};
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
    version: String,
    gone: bool,
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
                event = events.recv() => match event {
                    Some(event) => self.dispatch(event, &mut swept).await,
                    None => return,
                },
            }
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
        let views = self.handles().into_iter().map(|handle| Arc::clone(&handle.view.borrow()));
        let burstable = views.filter(|view| !view.over && QosClass::of(&view.pod) == QosClass::Burstable);
        let milli: i64 = burstable.map(|view| resources::pod_request(&view.pod, "cpu")).sum();
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
                Some((entry.handle.inbox.clone(), Message::Pod(Arc::clone(&pod.pod))))
            }
            _ => {
                let rejected = self.judge(&pod.pod, &workers).map(|Failure { reason, message }| {
                    self.context.events.event(&pod.pod, None, true, &reason, message.clone());
                    Failure { reason, message: format!("Pod was rejected: {message}") }
                });
                let handle = worker::spawn(&self.context, Arc::clone(&pod.pod), rejected);
                let version = pod.meta.resource_version.clone();
                workers.insert(pod.meta.uid.clone(), Entry { handle, version, gone: false });
                None
            }
        }
    }

    fn judge(&self, pod: &Pod, workers: &HashMap<String, Entry>) -> Option<Failure> {
        // What was admitted once stays, whatever the node looks like now.
        if pod::start_time(pod).is_some() || pod::deleting(pod) {
            return None;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let views: Vec<_> = workers
            .iter()
            .filter(|(other, _)| other.as_str() != uid)
            .map(|(_, entry)| Arc::clone(&entry.handle.view.borrow()))
            .filter(|view| !view.over)
            .collect();
        let others: Vec<&Pod> = views.iter().map(|view| view.pod.as_ref()).collect();
        admission::admit(pod, &others, &self.offer()).err()
    }

    async fn dispatch(&self, event: RuntimeEvent, swept: &mut bool) {
        let (id, message) = match event {
            RuntimeEvent::Exit { container_id, .. } => (container_id.clone(), Message::Exited(container_id)),
            RuntimeEvent::Oom { container_id } => (container_id.clone(), Message::Oom(container_id)),
            RuntimeEvent::Resync => {
                for handle in self.handles() {
                    let _ = handle.inbox.send(Message::Resync).await;
                }
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
