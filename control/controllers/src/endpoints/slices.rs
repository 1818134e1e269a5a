//! Writes the slices of a Service, for each controller that has some.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use informer::kinds::service_of;
use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, Meta, ObjectKey, Projection};
use serde_json::{Value, json};

use super::compute::{Changes, Common, MANAGED_BY};
use crate::framework::{Doing, Env, Result, SERVICE};
use crate::objects::EndpointSlice;

/// How long the informer may take to bring what was written; after that someone deleted it.
const STALE: Duration = Duration::from_secs(4);
/// The event of what is awaited brings its key back; the timer is for those that never come.
const LOOK_AGAIN: Action = Action::RequeueAfter(Duration::from_secs(1));

pub(super) struct Writer {
    rest: Rest,
    slices: Informer<EndpointSlice>,
    manager: &'static str,
    ledger: Arc<Ledger>,
}

/// The revision of each object as written last, by Service: computing on older ones would write everything twice.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<ObjectKey, Written>>);

struct Written {
    at: Instant,
    revisions: HashMap<String, u64>,
    /// A reconciliation was put off until they come.
    awaited: bool,
}

/// Who wrote what an event tells of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Author {
    Other,
    /// This controller, which knows it already.
    Itself,
    /// This controller, and a reconciliation waits for just that.
    Awaited,
}

impl Writer {
    /// Writes as `controller` the slices that `manager` labels; a change of one wakes its Service in `queue`.
    pub(super) fn new(env: &Env, controller: &str, manager: &'static str, queue: &Queue<ObjectKey>) -> Self {
        let slices = env.informers.endpoint_slices.clone();
        let ledger = Arc::new(Ledger::default());
        let (changed, own) = (queue.clone(), Arc::clone(&ledger));
        slices.on_event(move |event| {
            let of = |slice: &EndpointSlice| {
                let own = slice.metadata.label(MANAGED_BY) == Some(manager);
                own.then(|| service_of(slice)).flatten()
            };
            let slice = event.object().as_ref();
            let now = of(slice);
            // Labels may be changed by anyone: a slice that is taken from a Service is missed there.
            if let Event::Upsert { old: Some(old), .. } = event
                && let Some(key) = of(old).filter(|key| Some(key) != now.as_ref())
            {
                changed.add(key);
            }
            if let Some(key) = now
                && own.came(&key, &slice.metadata) != Author::Itself
            {
                changed.add(key);
            }
        });
        Self { rest: env.rest(controller), slices, manager, ledger }
    }

    /// The Service's slices, or that those that were written have to be waited for.
    pub(super) fn existing(&self, key: &ObjectKey) -> std::result::Result<Vec<Arc<EndpointSlice>>, Action> {
        self.ledger.current(key, || {
            let mut existing = self.slices.by_index(SERVICE, &key.to_string());
            existing.retain(|slice| {
                slice.metadata.label(MANAGED_BY) == Some(self.manager) && !slice.metadata.is_deleting()
            });
            existing
        })
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

    /// An object came by its watch.
    pub(super) fn came(&self, key: &ObjectKey, meta: &Meta) -> Author {
        let written = self.written();
        let Some(entry) = written.get(key) else { return Author::Other };
        let Some(own) = entry.revisions.get(&meta.name) else { return Author::Other };
        match meta.resource_version.parse().unwrap_or(u64::MAX).cmp(own) {
            Ordering::Less => Author::Itself,
            Ordering::Equal if entry.awaited => Author::Awaited,
            Ordering::Equal => Author::Itself,
            Ordering::Greater => Author::Other,
        }
    }

    /// What the informer has, unless that is older than what was written. Looks twice: what came while it looked first
    /// wakes nobody.
    pub(super) fn current<T: Projection>(
        &self,
        key: &ObjectKey,
        look: impl Fn() -> Vec<Arc<T>>,
    ) -> std::result::Result<Vec<Arc<T>>, Action> {
        for _ in 0..2 {
            let known = look();
            if !self.is_stale(key, known.iter().map(|known| known.meta())) {
                return Ok(known);
            }
        }
        Err(LOOK_AGAIN)
    }

    fn written(&self) -> MutexGuard<'_, HashMap<ObjectKey, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the informer, which has `known`, does not have yet what was written last.
    fn is_stale<'a>(&self, key: &ObjectKey, known: impl Iterator<Item = &'a Meta>) -> bool {
        let mut written = self.written();
        let Some(Written { at, revisions, awaited }) = written.get_mut(key) else { return false };
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
        *awaited = true;
        true
    }

    pub(super) fn note(&self, key: &ObjectKey, answer: &Value) {
        let meta = &answer["metadata"];
        let revision = meta["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        if let (Some(name), Some(revision)) = (meta["name"].as_str(), revision) {
            let mut written = self.written();
            let fresh = || Written { at: Instant::now(), revisions: HashMap::new(), awaited: false };
            let written = written.entry(key.clone()).or_insert_with(fresh);
            written.at = Instant::now();
            written.revisions.insert(name.to_owned(), revision);
        }
    }
}

fn collection(key: &ObjectKey) -> Path {
    Path::collection("discovery.k8s.io", "v1", "endpointslices", &key.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_writes_wake_only_who_waits_for_them() {
        let (ledger, key) = (Ledger::default(), ObjectKey::new("ns", "web"));
        let meta = |name: &str, revision: u64| Meta {
            name: name.into(),
            resource_version: revision.to_string(),
            ..Meta::default()
        };
        let wrote = |name: &str, revision: u64| {
            ledger.note(&key, &json!({"metadata": {"name": name, "resourceVersion": revision.to_string()}}));
        };
        assert_eq!(ledger.came(&key, &meta("a", 1)), Author::Other);
        wrote("a", 5);
        assert_eq!(ledger.came(&key, &meta("a", 4)), Author::Itself, "what it wrote over");
        assert_eq!(ledger.came(&key, &meta("b", 4)), Author::Other);
        assert_eq!(ledger.came(&key, &meta("a", 5)), Author::Itself);
        assert_eq!(ledger.came(&key, &meta("a", 6)), Author::Other);
        assert!(!ledger.is_stale(&key, [meta("a", 6)].iter()));
        wrote("a", 7);
        wrote("b", 8);
        assert!(ledger.is_stale(&key, [meta("a", 6), meta("b", 4)].iter()));
        assert_eq!(ledger.came(&key, &meta("a", 7)), Author::Awaited);
        assert!(ledger.is_stale(&key, [meta("a", 7), meta("b", 4)].iter()));
        assert_eq!(ledger.came(&key, &meta("b", 9)), Author::Other, "someone wrote it since");
        assert!(!ledger.is_stale(&key, [meta("a", 7), meta("b", 9)].iter()));
    }
}
