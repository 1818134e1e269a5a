//! Deployments: rolls from one template to the next by sizing ReplicaSets.

mod plan;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::names::template_hash;
use apimachinery::selector::LabelSelector;
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, Meta, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Error, ORPHAN, OWNER, Result, path_of, synced, update};
use crate::objects::{Deployment, Pod, ReplicaSet};
use crate::replicas::{controller_reference, ownership_patch};
pub(crate) use plan::number_or_percent;
use status::NewSet;

const HASH_LABEL: &str = "pod-template-hash";
const CONTROLLER: &str = "deployment-controller";
/// Deployment's annotations that say nothing about its ReplicaSets.
const OWN_ANNOTATIONS: [&str; 5] = [
    plan::REVISION,
    plan::DESIRED,
    plan::MAX,
    "deployment.kubernetes.io/revision-history",
    "deprecated.deployment.rollback.to",
];

struct Controller {
    rest: Rest,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

/// A Deployment's sets, the old ones sorted by age.
struct Sets {
    old: Vec<Arc<ReplicaSet>>,
    new: Option<Arc<ReplicaSet>>,
}

/// Starts the controller.
pub(crate) fn start(env: &Env) {
    let (deployments, sets, pods) =
        (env.informers.deployments.clone(), env.informers.replica_sets.clone(), env.informers.pods.clone());
    let queue = Queue::new("deployment");
    let controller = Arc::new(Controller {
        rest: env.rest(CONTROLLER),
        recorder: env.recorder(CONTROLLER),
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    });
    let changed = queue.clone();
    deployments.on_event(move |event| changed.add(event.object().key()));
    let (this, triggered) = (Arc::clone(&controller), queue.clone());
    sets.on_event(move |event| this.set_changed(event, &triggered));
    let (this, triggered) = (Arc::clone(&controller), queue.clone());
    pods.on_event(move |event| {
        // Recreate waits for the last old pod to go.
        if let Event::Delete(pod) = event
            && let Some(key) = this.deployment_of(pod)
        {
            triggered.add(key);
        }
    });
    let known = synced!(deployments, sets, pods);
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });
}

fn owner_key(meta: &Meta) -> Option<ObjectKey> {
    let owner = meta.controller().filter(|owner| owner.kind == "Deployment" && owner.api_version == "apps/v1")?;
    Some(ObjectKey::new(meta.namespace.clone(), owner.name.clone()))
}

impl Sets {
    fn all(&self) -> Vec<&ReplicaSet> {
        self.old.iter().chain(&self.new).map(Arc::as_ref).collect()
    }
}

impl Controller {
    fn set_changed(&self, event: &Event<ReplicaSet>, queue: &Queue<ObjectKey>) {
        let set = event.object();
        if let Event::Upsert { old: Some(old), .. } = event
            && let Some(key) = owner_key(&old.metadata)
        {
            queue.add(key);
        }
        if let Some(key) = owner_key(&set.metadata) {
            queue.add(key);
        } else if set.metadata.controller().is_none() && matches!(event, Event::Upsert { .. }) {
            let namespace = &set.metadata.namespace;
            for deployment in self.deployments.list().iter().filter(|it| it.metadata.namespace == *namespace) {
                if selector(deployment).is_ok_and(|selector| selector.matches(|key| set.metadata.label(key))) {
                    queue.add(deployment.key());
                }
            }
        }
    }

    fn deployment_of(&self, pod: &Pod) -> Option<ObjectKey> {
        let owner = pod.metadata.controller().filter(|owner| owner.kind == "ReplicaSet")?;
        let set = self.sets.get(&ObjectKey::new(pod.metadata.namespace.clone(), owner.name.clone()))?;
        let key = owner_key(&set.metadata)?;
        self.deployments.get(&key).filter(|deployment| status::is_recreate(deployment)).map(|_| key)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::Done) };
        let selector = selector(&deployment)?;
        if selector.is_everything() {
            return Ok(Action::Done);
        }
        let mut all = self.claim(&deployment, &selector).await?;
        all.sort_by(|a, b| {
            let order = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
            order(a).cmp(&order(b))
        });
        let at = all.iter().position(|set| plan::same_template(&deployment.spec.template, &set.spec.template));
        let new = at.map(|at| all.remove(at));
        let mut sets = Sets { old: all, new };
        let mut event = sets.new.as_ref().map_or(NewSet::Absent, |set| NewSet::Found(set.metadata.name.clone()));
        let mut collisions = deployment.status.collision_count;
        let result = if deployment.metadata.is_deleting() {
            Ok(())
        } else {
            self.roll(&deployment, &mut sets, &mut event, &mut collisions).await
        };
        self.write_status(&deployment, &sets, &event, collisions).await?;
        result?;
        let now = jiff::Timestamp::now();
        let left = status::time_left(&deployment, &deployment.status, now).filter(|left| !left.is_zero());
        Ok(left.map_or(Action::Done, |left| Action::RequeueAfter(left + std::time::Duration::from_secs(1))))
    }

    async fn roll(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        event: &mut NewSet,
        collisions: &mut Option<u32>,
    ) -> Result<()> {
        self.sync_revision(deployment, sets).await?;
        if deployment.spec.paused || plan::is_scaling(deployment, &sets.all()) {
            let all = sets.all();
            let new = sets.new.as_ref().map(|_| all.len() - 1);
            for (at, size) in plan::scale(deployment, &all, new) {
                self.resize(deployment, all[at], size).await?;
            }
            return if deployment.spec.paused { self.clean_up(deployment, sets).await } else { Ok(()) };
        }
        if status::is_recreate(deployment) {
            let mut shrunk = false;
            for set in &sets.old {
                shrunk |= self.resize(deployment, set, 0).await?;
            }
            if shrunk || self.old_pods_run(sets) {
                return Ok(());
            }
        }
        let Some(new) = sets.new.clone() else {
            return self.create_set(deployment, sets, event, collisions).await;
        };
        let size = plan::new_size(deployment, plan::size(&new), plan::total(sets.all()));
        if self.resize(deployment, &new, size).await? {
            return Ok(());
        }
        if plan::is_rolling(deployment) {
            let old: Vec<&ReplicaSet> = sets.old.iter().map(Arc::as_ref).collect();
            let sizes = plan::old_sizes(deployment, &new, &old);
            for (at, size) in &sizes {
                self.resize(deployment, old[*at], *size).await?;
            }
            if !sizes.is_empty() {
                return Ok(());
            }
        }
        if status::is_complete(deployment, &deployment.status) {
            self.clean_up(deployment, sets).await?;
        }
        Ok(())
    }

    /// Its own sets, and orphans that match.
    async fn claim(&self, deployment: &Deployment, selector: &LabelSelector) -> Result<Vec<Arc<ReplicaSet>>> {
        let (meta, matches) =
            (&deployment.metadata, |set: &ReplicaSet| selector.matches(|key| set.metadata.label(key)));
        let (mut mine, stray): (Vec<_>, Vec<_>) =
            self.sets.by_index(OWNER, &meta.uid).into_iter().partition(|set| matches(set));
        if meta.is_deleting() {
            mine.extend(stray);
            return Ok(mine);
        }
        let orphans = self.sets.by_index(ORPHAN, &meta.namespace).into_iter();
        let orphans: Vec<_> = orphans.filter(|set| !set.metadata.is_deleting() && matches(set)).collect();
        for set in stray {
            self.patch_set(&set, &ownership_patch(&set.metadata, &meta.uid, None)).await?;
        }
        if orphans.is_empty() {
            return Ok(mine);
        }
        let live = self.rest.get_opt(&path_of(deployment)).await.doing(|| format!("read deployment {}", meta.key()))?;
        let there = |live: &Value| {
            live["metadata"]["uid"] == meta.uid.as_str() && live["metadata"]["deletionTimestamp"].is_null()
        };
        if live.is_some_and(|live| there(&live)) {
            for set in orphans {
                let reference = controller_reference("apps/v1", "Deployment", meta);
                self.patch_set(&set, &ownership_patch(&set.metadata, &meta.uid, Some(reference))).await?;
                mine.push(set);
            }
        }
        Ok(mine)
    }

    /// Changed or gone meanwhile: its next event brings it back.
    async fn patch_set(&self, set: &ReplicaSet, patch: &Value) -> Result<bool> {
        match self.rest.merge(&path_of(set), patch).await {
            Ok(_) => Ok(true),
            Err(error) if rest::is_not_found(&error) => Ok(false),
            Err(error) => Err(error).doing(|| format!("patch replica set {}", set.key())),
        }
    }

    /// Sets the new set's revision to one above all others and copies the Deployment's annotations to it.
    async fn sync_revision(&self, deployment: &Deployment, sets: &Sets) -> Result<()> {
        let Some(new) = &sets.new else { return Ok(()) };
        let highest_old = sets.old.iter().map(|set| plan::revision(set)).max().unwrap_or_default();
        let revision = plan::revision(new).max(highest_old + 1);
        let mut wanted = inherited_annotations(&deployment.metadata);
        wanted.insert(plan::REVISION.into(), revision.to_string());
        let before = plan::revision(new);
        if before > 0 && before < revision {
            let known = new.metadata.annotation("deployment.kubernetes.io/revision-history").unwrap_or_default();
            let history = if known.is_empty() { before.to_string() } else { format!("{known},{before}") };
            wanted.insert("deployment.kubernetes.io/revision-history".into(), history);
        }
        let stale = wanted.iter().any(|(key, value)| new.metadata.annotation(key) != Some(value));
        if stale || new.spec.min_ready_seconds != deployment.spec.min_ready_seconds {
            let patch = json!({
                "metadata": { "uid": new.metadata.uid, "annotations": wanted },
                "spec": { "minReadySeconds": deployment.spec.min_ready_seconds },
            });
            self.patch_set(new, &patch).await?;
        }
        self.write_revision(deployment, revision).await
    }

    async fn write_revision(&self, deployment: &Deployment, revision: i64) -> Result<()> {
        let revision = revision.to_string();
        if deployment.metadata.annotation(plan::REVISION) == Some(&revision) {
            return Ok(());
        }
        let change = |object: &mut Value| {
            if !object["metadata"]["annotations"].is_object() {
                object["metadata"]["annotations"] = json!({});
            }
            object["metadata"]["annotations"][plan::REVISION] = Value::from(revision);
        };
        // With the status, as upstream: no user asked for this, so it is no new generation.
        update(&self.rest, &path_of(deployment), Some("status"), &deployment.metadata.uid, change).await.map(drop)
    }

    async fn create_set(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        event: &mut NewSet,
        collisions: &mut Option<u32>,
    ) -> Result<()> {
        let revision = sets.old.iter().map(|set| plan::revision(set)).max().unwrap_or_default() + 1;
        let size = plan::new_size(deployment, 0, plan::total(sets.all()));
        let set = new_set(deployment, size, revision);
        let (name, namespace) = (set["metadata"]["name"].as_str().unwrap_or_default(), &deployment.metadata.namespace);
        let path = Path::collection("apps", "v1", "replicasets", namespace);
        match self.rest.create(&path, &set).await {
            Ok(_) => {
                if size > 0 {
                    self.tell(deployment, format!("Scaled up replica set {name} from 0 to {size}"));
                }
                *event = NewSet::Created(name.to_owned());
                self.write_revision(deployment, revision).await
            }
            Err(error) if rest::is_already_exists(&error) => {
                let live = self.rest.get_opt(&path.child(name)).await.doing(|| format!("read replica set {name}"))?;
                let ours = live.is_some_and(|live| {
                    let owner = apimachinery::meta::controller_of(&live);
                    owner.is_some_and(|owner| owner["uid"] == deployment.metadata.uid.as_str())
                        && plan::same_template(&deployment.spec.template, &live["spec"]["template"])
                });
                if !ours {
                    // Someone else has this name: another hash for the next try.
                    *collisions = Some(collisions.unwrap_or_default() + 1);
                }
                Ok(())
            }
            Err(error) if rest::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {}", rest::message(&error));
                self.recorder.event(
                    &reference(deployment),
                    EventType::Warning,
                    "ReplicaSetCreateError",
                    message.as_str(),
                );
                *event = NewSet::Failed(message);
                Err(error).doing(|| format!("create replica set {name}"))
            }
        }
    }

    /// False if nothing was to change.
    async fn resize(&self, deployment: &Deployment, set: &ReplicaSet, size: i64) -> Result<bool> {
        let wanted = plan::wanted(deployment);
        let max = (wanted + plan::fenceposts(deployment).0).to_string();
        let (before, wanted) = (plan::size(set), wanted.to_string());
        let noted =
            set.metadata.annotation(plan::DESIRED) == Some(&wanted) && set.metadata.annotation(plan::MAX) == Some(&max);
        // An empty set's notes do not matter, and writing them would wake everyone for nothing.
        if before == size && (noted || size == 0) {
            return Ok(false);
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": { plan::DESIRED: wanted, plan::MAX: max },
            },
            "spec": { "replicas": size },
        });
        self.patch_set(set, &patch).await?;
        if before != size {
            let direction = if before < size { "up" } else { "down" };
            let name = &set.metadata.name;
            self.tell(deployment, format!("Scaled {direction} replica set {name} from {before} to {size}"));
        }
        Ok(before != size)
    }

    fn tell(&self, deployment: &Deployment, message: String) {
        self.recorder.event(&reference(deployment), EventType::Normal, "ScalingReplicaSet", message);
    }

    fn old_pods_run(&self, sets: &Sets) -> bool {
        sets.old.iter().any(|set| self.pods.by_index(OWNER, &set.metadata.uid).iter().any(|pod| !pod.is_terminal()))
    }

    /// Deletes the oldest sets that hold nothing, beyond the history that is to be kept.
    async fn clean_up(&self, deployment: &Deployment, sets: &Sets) -> Result<()> {
        let Some(limit) = deployment.spec.revision_history_limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return Ok(());
        };
        let mut old: Vec<_> = sets.old.iter().filter(|set| !set.metadata.is_deleting()).collect();
        old.sort_by_key(|set| plan::revision(set));
        for set in old.iter().take(old.len().saturating_sub(limit)) {
            let empty = set.status.replicas == 0 && plan::size(set) == 0;
            if empty && set.metadata.generation <= set.status.observed_generation {
                let options = DeleteOptions::of_uid(&set.metadata.uid);
                let deleted = rest::absent_is_none(self.rest.delete(&path_of(set.as_ref()), &options).await);
                deleted.doing(|| format!("delete replica set {}", set.key()))?;
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        sets: &Sets,
        event: &NewSet,
        collisions: Option<u32>,
    ) -> Result<()> {
        let (all, now) = (sets.all(), jiff::Timestamp::now());
        let computed = status::compute(deployment, &all, sets.new.as_deref(), event, collisions, now);
        if computed == deployment.status {
            return Ok(());
        }
        let change = |object: &mut Value| {
            // Conditions tell a story, so it goes on from what is written: this controller's own last word may not have come
            // back to its informer yet.
            let written = serde_json::from_value(object["status"].clone()).unwrap_or_default();
            let present = Deployment { status: written, ..deployment.clone() };
            let computed = status::compute(&present, &all, sets.new.as_deref(), event, collisions, now);
            object["status"] = status::to_value(&computed);
        };
        update(&self.rest, &path_of(deployment), Some("status"), &deployment.metadata.uid, change).await.map(drop)
    }
}

fn selector(deployment: &Deployment) -> Result<LabelSelector> {
    LabelSelector::from_object(&deployment.spec.selector)
        .map_err(|why| Error::Invalid { object: format!("deployment {}", deployment.key()), why })
}

fn reference(deployment: &Deployment) -> ObjectRef {
    ObjectRef::of("apps/v1", "Deployment", &deployment.metadata)
}

fn inherited_annotations(meta: &Meta) -> BTreeMap<String, String> {
    let inherited = |(key, _): &(&String, &String)| !OWN_ANNOTATIONS.contains(&key.as_str());
    meta.annotations.iter().filter(inherited).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn new_set(deployment: &Deployment, size: i64, revision: i64) -> Value {
    let (meta, spec) = (&deployment.metadata, &deployment.spec);
    let hash = template_hash(&spec.template, deployment.status.collision_count);
    let mut template = spec.template.clone();
    template["metadata"]["labels"][HASH_LABEL] = Value::from(hash.as_str());
    let mut selector = spec.selector.clone();
    selector["matchLabels"][HASH_LABEL] = Value::from(hash.as_str());
    let mut annotations = inherited_annotations(meta);
    annotations.insert(plan::REVISION.into(), revision.to_string());
    annotations.insert(plan::DESIRED.into(), plan::wanted(deployment).to_string());
    annotations.insert(plan::MAX.into(), (plan::wanted(deployment) + plan::fenceposts(deployment).0).to_string());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", meta.name),
            "namespace": meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [controller_reference("apps/v1", "Deployment", meta)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_set_is_marked_by_the_hash() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u",
                         "annotations": {"a": "b", "deployment.kubernetes.io/revision": "7"}},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
                     "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
                     "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}}}}))
        .unwrap();
        let set = new_set(&deployment, 2, 3);
        let hash = set["metadata"]["labels"][HASH_LABEL].as_str().unwrap();
        assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
        assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
        assert_eq!(set["spec"]["template"]["metadata"]["labels"][HASH_LABEL], hash);
        let annotations = json!({"a": "b", plan::REVISION: "3", plan::DESIRED: "4", plan::MAX: "5"});
        assert_eq!(set["metadata"]["annotations"], annotations);
        assert!(plan::same_template(&deployment.spec.template, &set["spec"]["template"]));
    }
}
