//! Writes the slices of a Service, for each controller that has some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use informer::kinds::service_of;
use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Informer, Meta, ObjectKey};
use serde_json::{Value, json};

use super::compute::{Changes, Common, MANAGED_BY};
use crate::framework::{Doing, Env, Result, SERVICE};
use crate::objects::EndpointSlice;

/// How long the informer may take to bring what was written; after that someone deleted it.
const STALE: Duration = Duration::from_secs(4);
/// The event of what is awaited brings its key back; the timer is for those that never come.
pub(super) const LOOK_AGAIN: Action = Action::RequeueAfter(Duration::from_secs(1));

pub(super) struct Writer {
    rest: Rest,
    slices: Informer<EndpointSlice>,
    manager: &'static str,
    ledger: Ledger,
}

/// The revision of each object as written last, by Service: computing on older ones would write everything twice.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<ObjectKey, Written>>);

struct Written {
    at: Instant,
    revisions: HashMap<String, u64>,
}

impl Writer {
    /// Writes as `controller` the slices that `manager` labels; a change of one wakes its Service in `queue`.
    pub(super) fn new(env: &Env, controller: &str, manager: &'static str, queue: &Queue<ObjectKey>) -> Self {
        let slices = env.informers.endpoint_slices.clone();
        let changed = queue.clone();
        slices.on_event(move |event| {
            let slice = event.object().as_ref();
            if slice.metadata.label(MANAGED_BY) == Some(manager) {
                service_of(slice).into_iter().for_each(|key| changed.add(key));
            }
        });
        Self { rest: env.rest(controller), slices, manager, ledger: Ledger::default() }
    }

    /// The Service's slices, or that those that were written have to be waited for.
    pub(super) fn existing(&self, key: &ObjectKey) -> std::result::Result<Vec<Arc<EndpointSlice>>, Action> {
        let mut existing = self.slices.by_index(SERVICE, &key.to_string());
        existing
            .retain(|slice| slice.metadata.label(MANAGED_BY) == Some(self.manager) && !slice.metadata.is_deleting());
        let known = existing.iter().map(|slice| &slice.metadata);
        if self.ledger.is_stale(key, known) { Err(LOOK_AGAIN) } else { Ok(existing) }
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.ledger.forget(key);
    }

    pub(super) async fn write(
        &self,
        key: &ObjectKey,
        common: &Common,
        owner: &Value,
        changes: Changes,
        existing: &[Arc<EndpointSlice>],
    ) -> Result<()> {
        let doing = || format!("write the endpoint slices of service {key}");
        let whole = |mut content: Value, mut metadata: Value| {
            metadata["namespace"] = Value::from(key.namespace.as_str());
            metadata["generateName"] = Value::from(format!("{}-", key.name));
            metadata["labels"] = json!(common.labels);
            metadata["ownerReferences"] = json!([owner]);
            if let Some(annotations) = &common.annotations {
                metadata["annotations"] = json!(annotations);
            }
            content["apiVersion"] = Value::from("discovery.k8s.io/v1");
            content["kind"] = Value::from("EndpointSlice");
            content["metadata"] = metadata;
            content
        };
        for content in changes.create {
            match self.rest.create(&collection(key), &whole(content, json!({}))).await {
                Err(error) if rest::is_namespace_terminating(&error) => return Ok(()),
                answer => self.ledger.note(key, &answer.doing(doing)?),
            }
        }
        for (name, content) in changes.update {
            let Some(known) = existing.iter().find(|slice| slice.metadata.name == name) else { continue };
            let meta = &known.metadata;
            let identity = json!({
                "name": name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "annotations": meta.annotations,
            });
            let answer = self.rest.update(&collection(key).child(&name), &whole(content, identity)).await;
            self.ledger.note(key, &answer.doing(doing)?);
        }
        self.delete(key, changes.delete.iter().map(String::as_str)).await
    }

    pub(super) async fn delete_all(&self, key: &ObjectKey, existing: &[Arc<EndpointSlice>]) -> Result<()> {
        self.delete(key, existing.iter().map(|slice| slice.metadata.name.as_str())).await
    }

    async fn delete(&self, key: &ObjectKey, names: impl Iterator<Item = &str>) -> Result<()> {
        for name in names {
            let deleted = self.rest.delete(&collection(key).child(name), &DeleteOptions::default()).await;
            rest::absent_is_none(deleted).doing(|| format!("delete endpoint slice {name} of service {key}"))?;
        }
        Ok(())
    }
}

impl Ledger {
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.written().remove(key);
    }

    /// Whether something is awaited.
    pub(super) fn awaits(&self, key: &ObjectKey) -> bool {
        self.written().contains_key(key)
    }

    fn written(&self) -> MutexGuard<'_, HashMap<ObjectKey, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the informer, which has `known`, does not have yet what was written last.
    pub(super) fn is_stale<'a>(&self, key: &ObjectKey, known: impl Iterator<Item = &'a Meta>) -> bool {
        let mut written = self.written();
        let Some(Written { at, revisions }) = written.get_mut(key) else { return false };
        for meta in known {
            let seen = meta.resource_version.parse().unwrap_or(u64::MAX);
            if revisions.get(&meta.name).is_some_and(|revision| *revision <= seen) {
                revisions.remove(&meta.name);
            }
        }
        if revisions.is_empty() || at.elapsed() > STALE {
            written.remove(key);
            return false;
        }
        true
    }

    pub(super) fn note(&self, key: &ObjectKey, answer: &Value) {
        let meta = &answer["metadata"];
        let revision = meta["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        if let (Some(name), Some(revision)) = (meta["name"].as_str(), revision) {
            let mut written = self.written();
            let fresh = || Written { at: Instant::now(), revisions: HashMap::new() };
            let written = written.entry(key.clone()).or_insert_with(fresh);
            written.at = Instant::now();
            written.revisions.insert(name.to_owned(), revision);
        }
    }
}

fn collection(key: &ObjectKey) -> Path {
    Path::collection("discovery.k8s.io", "v1", "endpointslices", &key.namespace)
}
