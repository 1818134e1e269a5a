//! The garbage collector: deletes what no owner holds any more, and carries out foreground and orphaning deletions.
//!
//! One metadata-only watch a resource feeds the [`graph`]; what it points at is looked at afresh before anything is deleted.

mod graph;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apimachinery::gvk::parse_api_version;
use apimachinery::meta;
use apimachinery::resources::{self, Resource};
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, DeleteOptions, Path, Propagation, Rest};
use informer::source::{self, Sink, Target};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::framework::{Doing, Env, Result};
use graph::{Entry, FOREGROUND, Graph, ORPHAN, OwnerState, Partial, Task, Uid, Verdict, judge, parse_uid};

const CONTROLLER: &str = "generic-garbage-collector";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

struct Collector {
    rest: Rest,
    recorder: Recorder,
    resources: Vec<&'static Resource>,
    graph: Mutex<Graph>,
    queue: Queue<Task>,
    /// Resources whose first state has not arrived.
    missing: AtomicUsize,
    settled: watch::Sender<bool>,
}

/// One resource's watch.
struct Feed {
    collector: Arc<Collector>,
    resource: u16,
    /// While a full state arrives: what it held.
    seen: Option<HashSet<Uid>>,
    synced: bool,
}

/// One version of each resource whose objects can own or be owned. Events are many, live an hour and have no owners.
fn watched() -> Vec<&'static Resource> {
    resources::all()
        .iter()
        .filter(|resource| resource.group == resource.storage_group && resource.version == resource.storage_version)
        .filter(|resource| ["list", "watch", "delete"].iter().all(|verb| resource.has_verb(verb)))
        .filter(|resource| resource.resource != "events")
        .collect()
}

/// Starts the collector.
pub(crate) fn start(env: &Env) {
    let resources = watched();
    let collector = Arc::new(Collector {
        rest: env.rest(CONTROLLER),
        recorder: env.recorder(CONTROLLER),
        graph: Mutex::default(),
        queue: Queue::new("garbage-collector"),
        missing: AtomicUsize::new(resources.len()),
        settled: watch::Sender::new(false),
        resources,
    });
    let client = (env.client_for)(CONTROLLER);
    for (resource, number) in collector.resources.iter().zip(0u16..) {
        let target = Target::new(&resource.group, &resource.version, &resource.resource, None);
        let target = Target { accept: METADATA_ONLY, ..target };
        let feed = Feed { collector: Arc::clone(&collector), resource: number, seen: None, synced: false };
        source::start(client.clone(), target, feed, &env.tasks, env.shutdown.clone());
    }
    let mut settled = collector.settled.subscribe();
    let known = async move { drop(settled.wait_for(|settled| *settled).await) };
    env.run(collector.queue.clone(), 20, known, collector, |this, task| async move { this.work(task).await });
}

impl Sink<Partial> for Feed {
    fn begin(&mut self) {
        self.seen = Some(HashSet::new());
    }

    fn upsert(&mut self, object: Partial) {
        if let Some(seen) = &mut self.seen {
            seen.insert(parse_uid(&object.metadata.uid));
        }
        let resource = self.collector.resources[usize::from(self.resource)];
        self.collector.change(|graph, settled| graph.upsert(self.resource, resource, object, settled));
    }

    fn delete(&mut self, last: Partial) {
        self.collector.change(|graph, _| graph.delete(&last.metadata.uid));
    }

    fn synced(&mut self) {
        let seen = self.seen.take().unwrap_or_default();
        self.collector.change(|graph, _| {
            let vanished: Vec<Uid> = graph.of_resource(self.resource).filter(|uid| !seen.contains(uid)).collect();
            vanished.into_iter().flat_map(|uid| graph.delete_uid(uid)).collect()
        });
        if !std::mem::replace(&mut self.synced, true) && self.collector.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.collector.settled.send_replace(true);
            self.collector.change(|graph, _| graph.settle());
        }
    }
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Graph, bool) -> Vec<Task>) {
        let tasks = {
            let mut graph = self.graph();
            // Asked under the lock, or what comes while the graph settles would be looked at neither then nor now.
            let settled = *self.settled.borrow();
            change(&mut graph, settled)
        };
        tasks.into_iter().for_each(|task| self.queue.add(task));
    }

    async fn work(&self, task: Task) -> Result<Action> {
        match task {
            Task::Check(uid) => self.check(uid).await?,
            Task::Orphan(uid) => self.orphan(uid).await?,
        }
        Ok(Action::Done)
    }

    fn path(&self, entry: &Entry) -> Path {
        let resource = self.resources[usize::from(entry.resource)];
        Path::object(&resource.group, &resource.version, &resource.resource, &entry.namespace, &entry.name)
    }

    /// The object as it is now, if it is still the one that is meant.
    async fn live(&self, entry: &Entry, uid: Uid) -> Result<Option<Value>> {
        let path = self.path(entry);
        let live = rest::absent_is_none(self.rest.get_metadata(&path).await);
        let live = live.doing(|| format!("read {}", path.as_str()))?;
        Ok(live.filter(|live| parse_uid(meta::uid(live)) == uid))
    }

    async fn check(&self, uid: Uid) -> Result<()> {
        let Some(entry) = self.graph().get(uid).cloned() else { return Ok(()) };
        if entry.deleting && !entry.foreground {
            return Ok(());
        }
        let Some(live) = self.live(&entry, uid).await? else { return Ok(()) };
        if meta::deletion_timestamp(&live).is_some() {
            return if meta::has_finalizer(&live, FOREGROUND) {
                self.finish_foreground(uid, &entry, &live).await
            } else {
                Ok(())
            };
        }
        let owners = meta::owner_references(&live);
        let mut states = Vec::with_capacity(owners.len());
        for owner in owners {
            let state = self.owner_state(owner, &entry).await?;
            if state == OwnerState::Dangling {
                self.tell_if_elsewhere(owner, &entry, &live);
            }
            states.push(state);
        }
        let has_dependents = self.graph().dependents_of(uid).next().is_some();
        match judge(&states, has_dependents) {
            Verdict::Keep => Ok(()),
            Verdict::Release(gone) => {
                let kept =
                    owners.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, owner)| owner.clone());
                self.set_owners(&entry, &live, kept.collect()).await
            }
            Verdict::Delete { foreground: true } if blocks(owners) && self.waits_in_a_circle(uid) => {
                // Its change comes back as an event; then it is deleted, and its owner does not wait for it.
                let free = |owner: &Value| {
                    let mut owner = owner.clone();
                    owner["blockOwnerDeletion"] = Value::from(false);
                    owner
                };
                self.set_owners(&entry, &live, owners.iter().map(free).collect()).await
            }
            Verdict::Delete { foreground } => {
                let propagation = if foreground || meta::has_finalizer(&live, FOREGROUND) {
                    Propagation::Foreground
                } else if meta::has_finalizer(&live, ORPHAN) {
                    Propagation::Orphan
                } else {
                    Propagation::Background
                };
                let options = DeleteOptions {
                    resource_version: Some(meta::resource_version(&live).to_owned()),
                    propagation: Some(propagation),
                    ..DeleteOptions::of_uid(meta::uid(&live))
                };
                let path = self.path(&entry);
                tracing::debug!(object = path.as_str(), ?propagation, "deleting what has no owner left");
                rest::absent_is_none(self.rest.delete(&path, &options).await)
                    .map(drop)
                    .doing(|| format!("delete {}", path.as_str()))
            }
        }
    }

    /// Whether a dependent of this object waits for its own dependents already: this object may be among them.
    fn waits_in_a_circle(&self, uid: Uid) -> bool {
        let graph = self.graph();
        graph.dependents_of(uid).any(|(dependent, _)| graph.get(dependent).is_some_and(|entry| entry.foreground))
    }

    /// A fresh look at an owner.
    async fn owner_state(&self, owner: &Value, dependent: &Entry) -> Result<OwnerState> {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let resource = parse_api_version(text("apiVersion"))
            .and_then(|(group, version)| resources::find_kind(group, version, text("kind")));
        // What is not known cannot be known to be gone; an owner in a namespace cannot own what is in none.
        let Some(resource) = resource.filter(|it| !it.namespaced || !dependent.namespace.is_empty()) else {
            return Ok(OwnerState::Solid);
        };
        let namespace = if resource.namespaced { &*dependent.namespace } else { "" };
        let path = Path::object(&resource.group, &resource.version, &resource.resource, namespace, text("name"));
        let live = rest::absent_is_none(self.rest.get_metadata(&path).await);
        let live = live.doing(|| format!("read {}", path.as_str()))?;
        Ok(match live.filter(|live| meta::uid(live) == text("uid")) {
            None => OwnerState::Dangling,
            Some(live) if meta::deletion_timestamp(&live).is_some() && meta::has_finalizer(&live, FOREGROUND) => {
                OwnerState::Waiting
            }
            Some(_) => OwnerState::Solid,
        })
    }

    /// Says so if an owner that is not there is in another namespace: somebody meant it to own this object.
    fn tell_if_elsewhere(&self, owner: &Value, dependent: &Entry, live: &Value) {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let namespace = self.graph().get(parse_uid(text("uid"))).map(|owner| owner.namespace.clone());
        if namespace.is_none_or(|namespace| namespace.is_empty() || namespace == dependent.namespace) {
            return;
        }
        let resource = self.resources[usize::from(dependent.resource)];
        let object = ObjectRef {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: dependent.namespace.to_string(),
            name: dependent.name.to_string(),
            uid: meta::uid(live).to_owned(),
            ..ObjectRef::default()
        };
        let [api_version, kind, name, uid] = ["apiVersion", "kind", "name", "uid"].map(text);
        let namespace = &dependent.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace \"{namespace}\""
        );
        self.recorder.event(&object, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Lets go an object whose blocking dependents are gone, and sees to those that are not.
    async fn finish_foreground(&self, uid: Uid, entry: &Entry, live: &Value) -> Result<()> {
        let blocking: Vec<(Uid, bool)> = {
            let graph = self.graph();
            let blocking = graph.dependents_of(uid).filter(|(_, blocks)| *blocks);
            blocking
                .map(|(dependent, _)| (dependent, graph.get(dependent).is_some_and(|entry| entry.deleting)))
                .collect()
        };
        if blocking.is_empty() {
            return self.remove_finalizer(entry, live, FOREGROUND).await;
        }
        for (dependent, _) in blocking.into_iter().filter(|(_, deleting)| !deleting) {
            self.queue.add(Task::Check(dependent));
        }
        Ok(())
    }

    /// Takes an object's references from its dependents, then lets it go.
    async fn orphan(&self, uid: Uid) -> Result<()> {
        let Some(entry) = self.graph().get(uid).cloned().filter(|entry| entry.orphaning) else { return Ok(()) };
        let dependents: Vec<(Uid, Entry)> = {
            let graph = self.graph();
            graph.dependents_of(uid).filter_map(|(it, _)| Some((it, graph.get(it)?.clone()))).collect()
        };
        for (dependent, dependent_entry) in dependents {
            let Some(live) = self.live(&dependent_entry, dependent).await? else { continue };
            let kept = meta::owner_references(&live)
                .iter()
                .filter(|owner| parse_uid(owner["uid"].as_str().unwrap_or_default()) != uid);
            let kept = kept.cloned().collect();
            self.set_owners(&dependent_entry, &live, kept).await?;
        }
        match self.live(&entry, uid).await? {
            Some(live) if meta::has_finalizer(&live, ORPHAN) => self.remove_finalizer(&entry, &live, ORPHAN).await,
            _ => Ok(()),
        }
    }

    async fn remove_finalizer(&self, entry: &Entry, live: &Value, finalizer: &str) -> Result<()> {
        let kept: Vec<&str> = meta::finalizers(live).filter(|known| *known != finalizer).collect();
        self.patch(entry, live, json!({ "finalizers": kept })).await
    }

    async fn set_owners(&self, entry: &Entry, live: &Value, owners: Vec<Value>) -> Result<()> {
        self.patch(entry, live, json!({ "ownerReferences": owners })).await
    }

    /// Bound to the state that was looked at.
    async fn patch(&self, entry: &Entry, live: &Value, mut metadata: Value) -> Result<()> {
        metadata["uid"] = Value::from(meta::uid(live));
        metadata["resourceVersion"] = Value::from(meta::resource_version(live));
        let path = self.path(entry);
        let patched = self.rest.merge(&path, &json!({ "metadata": metadata })).await;
        rest::absent_is_none(patched).map(drop).doing(|| format!("patch {}", path.as_str()))
    }
}

fn blocks(owners: &[Value]) -> bool {
    owners.iter().any(|owner| owner["blockOwnerDeletion"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_each_resource_once() {
        let all: Vec<_> =
            watched().iter().map(|resource| format!("{}.{}", resource.resource, resource.group)).collect();
        for want in ["pods.", "replicasets.apps", "namespaces.", "nodes.", "endpointslices.discovery.k8s.io"] {
            assert_eq!(all.iter().filter(|name| *name == want).count(), 1, "{want} in {all:?}");
        }
        assert!(!all.iter().any(|name| name.starts_with("events.") || name.starts_with("tokenreviews")));
    }
}
