//! ReplicaSets and ReplicationControllers: as many pods of a template as wanted, by the same code.

mod rank;
mod status;

pub(crate) use status::condition_value;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::selector::LabelSelector;
use futures::future::join_all;
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, Meta, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::expectations::Expectations;
use crate::framework::{Doing, Env, Error, NODE, ORPHAN, OWNER, Result, collecting, path_of, synced, update};
use crate::objects::{Pod, ReplicaSet, ReplicaSetSpec, ReplicaStatus, ReplicationController};

/// Pods created or deleted in one go.
const BURST: usize = 500;
/// How long changes that follow a first one are collected, for each pod of a set.
const A_MOMENT: Duration = Duration::from_micros(50);
/// The first batch; each that succeeds doubles it, so that a quota that forbids all is asked once, not 500 times.
const FIRST_BATCH: usize = 1;

/// One of the two kinds.
trait Replicated: Projection {
    const API_VERSION: &'static str;
    const KIND: &'static str;
    const CONTROLLER: &'static str;
    fn spec(&self) -> &ReplicaSetSpec;
    fn status(&self) -> &ReplicaStatus;
    fn selector(&self) -> std::result::Result<LabelSelector, String>;
}

impl Replicated for ReplicaSet {
    const API_VERSION: &'static str = "apps/v1";
    const KIND: &'static str = "ReplicaSet";
    const CONTROLLER: &'static str = "replicaset-controller";
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaStatus {
        &self.status
    }
    fn selector(&self) -> std::result::Result<LabelSelector, String> {
        LabelSelector::from_object(&self.spec.selector)
    }
}

impl Replicated for ReplicationController {
    const API_VERSION: &'static str = "v1";
    const KIND: &'static str = "ReplicationController";
    const CONTROLLER: &'static str = "replication-controller";
    fn spec(&self) -> &ReplicaSetSpec {
        &self.spec
    }
    fn status(&self) -> &ReplicaStatus {
        &self.status
    }
    fn selector(&self) -> std::result::Result<LabelSelector, String> {
        Ok(LabelSelector::from_map(self.spec.selector.as_object()))
    }
}

struct Controller<T> {
    rest: Rest,
    recorder: Recorder,
    sets: Informer<T>,
    pods: Informer<Pod>,
    expectations: Expectations,
}

/// Starts the controllers of both kinds.
pub(crate) fn start(env: &Env) {
    start_kind(env, &env.informers.replica_sets);
    start_kind(env, &env.informers.replication_controllers);
}

fn start_kind<T: Replicated>(env: &Env, sets: &Informer<T>) {
    let pods = env.informers.pods.clone();
    let controller = Arc::new(Controller {
        rest: env.rest(T::CONTROLLER),
        recorder: env.recorder(T::CONTROLLER),
        sets: sets.clone(),
        pods: pods.clone(),
        expectations: Expectations::default(),
    });
    let queue = Queue::new(T::RESOURCE);
    let (this, changed) = (Arc::clone(&controller), queue.clone());
    sets.on_event(move |event| {
        if let Event::Delete(last) = event {
            this.expectations.forget(&last.meta().uid);
        }
        changed.add(event.object().key());
    });
    let (this, triggered) = (Arc::clone(&controller), queue.clone());
    pods.on_event(move |event| this.pod_changed(event, &triggered));
    // Without it no pod is admitted; in a new namespace it comes a moment after the first sets.
    let (changed, all) = (queue.clone(), sets.clone());
    env.informers.service_accounts.on_event(move |event| {
        let Event::Upsert { old: None, new } = event else { return };
        let lacks = |set: &Arc<T>| set.status().replicas < set.spec().replicas.unwrap_or(1);
        let mut sets = all.list();
        sets.retain(|set| set.meta().namespace == new.metadata.namespace && lacks(set));
        sets.iter().for_each(|set| changed.add(set.key()));
    });
    let known = synced!(sets, pods);
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });
}

/// A reference that makes `owner` the managing controller.
pub(crate) fn controller_reference(api_version: &str, kind: &str, owner: &Meta) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The merge patch that makes an object `owner`'s (adoption), or no longer (release); bound to the state that was looked at.
pub(crate) fn ownership_patch(meta: &Meta, owner_uid: &str, adopt: Option<Value>) -> Value {
    let mut owners: Vec<Value> =
        meta.owner_references.iter().filter(|owner| owner.uid != owner_uid).map(|owner| json!(owner)).collect();
    owners.extend(adopt);
    json!({
        "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners }
    })
}

impl<T: Replicated> Controller<T> {
    fn pod_changed(&self, event: &Event<Pod>, queue: &Queue<ObjectKey>) {
        let (old, new) = match event {
            Event::Upsert { old, new } => (old.as_deref(), new.as_ref()),
            Event::Delete(last) => (None, last.as_ref()),
        };
        let deleted = matches!(event, Event::Delete(_)) || new.metadata.is_deleting();
        // A changed owner concerns the former one too.
        if let Some((key, _)) = old.and_then(|old| owner::<T>(&old.metadata))
            && Some(&key) != owner::<T>(&new.metadata).map(|(key, _)| key).as_ref()
        {
            queue.add(key);
        }
        if let Some((key, uid)) = owner::<T>(&new.metadata) {
            let last_expected = if deleted {
                self.expectations.deleted(uid, &new.metadata.uid)
            } else {
                old.is_none() && self.expectations.created(uid, 1)
            };
            let known = self.sets.get(&key).and_then(|set| usize::try_from(set.status().replicas).ok());
            let gap = if last_expected { Duration::ZERO } else { collecting(known.unwrap_or_default(), A_MOMENT) };
            queue.add_spaced(key, gap);
        } else if new.metadata.controller().is_none() && !deleted {
            let relabelled =
                old.is_none_or(|old| old.metadata.labels != new.metadata.labels || old.metadata.controller().is_some());
            if relabelled {
                self.matching_sets(new).for_each(|key| queue.add(key));
            }
        }
    }

    fn matching_sets(&self, pod: &Pod) -> impl Iterator<Item = ObjectKey> {
        let (namespace, labels) = (pod.metadata.namespace.clone(), pod.metadata.labels.clone());
        self.sets.list().into_iter().filter(move |set| set.meta().namespace == namespace).filter_map(move |set| {
            let selector = set.selector().ok()?;
            let matches = selector.matches(|key| labels.get(key).map(String::as_str));
            matches.then(|| set.key())
        })
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(set) = self.sets.get(key) else { return Ok(Action::Done) };
        let needs_sync = self.expectations.satisfied(&set.meta().uid);
        let selector = set.selector().map_err(|why| Error::Invalid { object: format!("{} {key}", T::KIND), why })?;
        let pods = self.claim(&set, &selector).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let managed = if needs_sync && !set.meta().is_deleting() { self.manage(&set, &active).await } else { Ok(()) };
        let now = jiff::Timestamp::now();
        let status = status::compute(set.meta(), set.spec(), set.status(), &pods, managed.as_ref().err(), now);
        if status.to_value() != status::current(set.status()) {
            let value = status.to_value();
            update(&self.rest, &path_of(set.as_ref()), Some("status"), &set.meta().uid, |object| {
                object["status"] = value;
            })
            .await?;
        }
        managed?;
        Ok(status.look_again.map_or(Action::Done, Action::RequeueAfter))
    }

    /// The set's pods: those it owns, without those that stopped to match, and orphans that match.
    async fn claim(&self, set: &T, selector: &LabelSelector) -> Result<Vec<Arc<Pod>>> {
        let matches = |pod: &Pod| selector.matches(|key| pod.metadata.label(key));
        let (mut mine, stray): (Vec<_>, Vec<_>) =
            self.pods.by_index(OWNER, &set.meta().uid).into_iter().partition(|pod| matches(pod));
        if set.meta().is_deleting() {
            mine.extend(stray);
            return Ok(mine);
        }
        for pod in stray {
            let patch = ownership_patch(&pod.metadata, &set.meta().uid, None);
            self.patch_pod(&pod, &patch, "release").await?;
        }
        let orphans = self.pods.by_index(ORPHAN, &set.meta().namespace);
        let adoptable: Vec<_> = orphans.into_iter().filter(|pod| pod.is_active() && matches(pod)).collect();
        if adoptable.is_empty() || !self.still_there(set).await? {
            return Ok(mine);
        }
        for pod in adoptable {
            let reference = controller_reference(T::API_VERSION, T::KIND, set.meta());
            let patch = ownership_patch(&pod.metadata, &set.meta().uid, Some(reference));
            if self.patch_pod(&pod, &patch, "adopt").await? {
                mine.push(pod);
            }
        }
        Ok(mine)
    }

    /// False if the pod changed or went meanwhile: its next event brings it back.
    async fn patch_pod(&self, pod: &Pod, patch: &Value, what: &str) -> Result<bool> {
        match self.rest.merge(&path_of(pod), patch).await {
            Ok(_) => Ok(true),
            Err(error) if rest::is_not_found(&error) || rest::is_conflict(&error) => Ok(false),
            Err(error) => Err(error).doing(|| format!("{what} pod {}", pod.key())),
        }
    }

    /// Adopting for a set that is gone would make pods that the garbage collector deletes.
    async fn still_there(&self, set: &T) -> Result<bool> {
        let live = self.rest.get_opt(&path_of(set)).await.doing(|| format!("read {} {}", T::KIND, set.key()))?;
        Ok(live.is_some_and(|live| {
            live["metadata"]["uid"] == set.meta().uid.as_str() && live["metadata"]["deletionTimestamp"].is_null()
        }))
    }

    async fn manage(&self, set: &T, active: &[Arc<Pod>]) -> Result<()> {
        let wanted = usize::try_from(set.spec().replicas.unwrap_or(1)).unwrap_or_default();
        if active.len() < wanted {
            self.create(set, (wanted - active.len()).min(BURST)).await
        } else if active.len() > wanted {
            self.delete(set, active, (active.len() - wanted).min(BURST)).await
        } else {
            Ok(())
        }
    }

    async fn create(&self, set: &T, count: usize) -> Result<()> {
        let (key, uid, pod) = (set.key(), &set.meta().uid, new_pod::<T>(set));
        let path = Path::collection("", "v1", "pods", &key.namespace);
        self.expectations.expect(uid, count, []);
        let about = ObjectRef::of(T::API_VERSION, T::KIND, set.meta());
        let create = || async {
            match self.rest.create(&path, &pod).await {
                Ok(created) => {
                    let name = created["metadata"]["name"].as_str().unwrap_or_default();
                    self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    Ok(())
                }
                Err(error) => {
                    self.expectations.created(uid, 1);
                    if rest::is_namespace_terminating(&error) {
                        return Ok(());
                    }
                    let message = format!("Error creating: {}", rest::message(&error));
                    self.recorder.event(&about, EventType::Warning, "FailedCreate", message);
                    Err(error).doing(|| format!("create a pod of {} {key}", T::KIND))
                }
            }
        };
        let (asked, failed) = slow_start(count, create).await;
        self.expectations.created(uid, count - asked);
        failed.map_or(Ok(()), Err)
    }

    async fn delete(&self, set: &T, active: &[Arc<Pod>], count: usize) -> Result<()> {
        let owner = &set.meta().uid;
        let mut per_node: HashMap<String, i64> = HashMap::new();
        for pod in self.related(set) {
            *per_node.entry(pod.spec.node_name.clone()).or_default() += 1;
        }
        let crowd = |pod: &Pod| per_node.get(&pod.spec.node_name).copied().unwrap_or_default();
        let victims = rank::first_to_go(active, crowd, count, jiff::Timestamp::now());
        self.expectations.expect(owner, 0, victims.iter().map(|pod| pod.metadata.uid.clone()));
        let about = ObjectRef::of(T::API_VERSION, T::KIND, set.meta());
        let delete = |pod: Arc<Pod>| {
            let about = &about;
            async move {
                let (name, uid) = (&pod.metadata.name, &pod.metadata.uid);
                match self.rest.delete(&path_of(pod.as_ref()), &DeleteOptions::of_uid(uid)).await {
                    Ok(_) => {
                        self.recorder.event(
                            about,
                            EventType::Normal,
                            "SuccessfulDelete",
                            format!("Deleted pod: {name}"),
                        );
                        Ok(())
                    }
                    Err(error) => {
                        self.expectations.deleted(owner, uid);
                        if rest::is_not_found(&error) || rest::is_conflict(&error) {
                            return Ok(());
                        }
                        let message = format!("Error deleting: {}", rest::message(&error));
                        self.recorder.event(about, EventType::Warning, "FailedDelete", message);
                        Err(error).doing(|| format!("delete pod {}", pod.key()))
                    }
                }
            }
        };
        join_all(victims.into_iter().map(delete)).await.into_iter().collect()
    }

    /// The active pods of this set and of those that its owner has beside it: all versions of one workload.
    fn related(&self, set: &T) -> impl Iterator<Item = Arc<Pod>> {
        let sets = match set.meta().controller() {
            Some(owner) => self.sets.by_index(OWNER, &owner.uid).iter().map(|set| set.meta().uid.clone()).collect(),
            None => vec![set.meta().uid.clone()],
        };
        sets.into_iter().flat_map(|uid| self.pods.by_index(OWNER, &uid)).filter(|pod| pod.is_active())
    }
}

/// The set that manages an object, and its uid.
fn owner<T: Replicated>(meta: &Meta) -> Option<(ObjectKey, &str)> {
    let owner = meta.controller().filter(|owner| owner.kind == T::KIND && owner.api_version == T::API_VERSION)?;
    Some((ObjectKey::new(meta.namespace.clone(), owner.name.clone()), &owner.uid))
}

fn new_pod<T: Replicated>(set: &T) -> Value {
    let (template, meta) = (&set.spec().template, set.meta());
    let mut metadata = json!({
        "generateName": format!("{}-", meta.name),
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(T::API_VERSION, T::KIND, meta)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        let value = &template["metadata"][field];
        if !value.is_null() {
            metadata[field] = value.clone();
        }
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

/// Calls `work` `count` times in batches of 1, 2, 4, …; stops after a batch with a failure. Returns how many were asked for.
async fn slow_start<W: Future<Output = Result<()>>>(count: usize, work: impl Fn() -> W) -> (usize, Option<Error>) {
    let (mut asked, mut batch) = (0, FIRST_BATCH);
    while asked < count {
        let size = batch.min(count - asked);
        asked += size;
        let failed = join_all((0..size).map(|_| work())).await.into_iter().find_map(Result::err);
        if failed.is_some() {
            return (asked, failed);
        }
        batch *= 2;
    }
    (asked, None)
}

/// Pods on a node, for other controllers.
pub(crate) fn pods_on(pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(NODE, node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn slow_start_stops_at_the_first_bad_batch() {
        // (count, call that fails, want asked)
        for (count, bad, want) in [(10, usize::MAX, 10), (10, 0, 1), (10, 2, 3), (10, 3, 7), (0, 0, 0)] {
            let calls = AtomicUsize::new(0);
            let work = || async {
                let ok = calls.fetch_add(1, Ordering::Relaxed) != bad;
                if ok { Ok(()) } else { Err(Error::Invalid { object: String::new(), why: String::new() }) }
            };
            let (asked, failed) = slow_start(count, work).await;
            assert_eq!((asked, failed.is_some()), (want, bad < count));
        }
    }

    #[test]
    fn pods_come_from_the_template() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"template": {"metadata": {"labels": {"a": "b"}, "name": "ignored"}, "spec": {"containers": []}}},
        }))
        .unwrap();
        let pod = new_pod(&set);
        assert_eq!(pod["metadata"]["generateName"], "web-");
        assert_eq!(pod["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(pod["metadata"].get("name"), None);
        assert_eq!(pod["spec"], json!({"containers": []}));
    }

    #[test]
    fn ownership_changes_keep_other_owners() {
        let owners = json!([{"uid": "a", "name": "x", "kind": "K", "apiVersion": "v1"}, {"uid": "b"}]);
        let meta: Meta = serde_json::from_value(json!({"uid": "p", "ownerReferences": owners})).unwrap();
        let uids = |patch: &Value| -> Vec<String> {
            let owners = patch["metadata"]["ownerReferences"].as_array().unwrap();
            owners.iter().map(|owner| owner["uid"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(uids(&ownership_patch(&meta, "a", None)), ["b"]);
        assert_eq!(uids(&ownership_patch(&meta, "c", Some(json!({"uid": "c"})))), ["a", "b", "c"]);
    }
}
