//! PodDisruptionBudgets: how many of their pods are healthy, how many must be, and so how many may be evicted. The API
//! server's eviction handler spends what is counted here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::disruption;
use apimachinery::gvk::parse_api_version;
use apimachinery::resources;
use apimachinery::selector::LabelSelector;
use apimachinery::time::{self, format_time};
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{Path, Rest};
use informer::{Event, Informer, Meta, ObjectKey, OwnerReference, Projection};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::deployment::number_or_percent;
use crate::framework::{Doing, Env, Error, NAMESPACE, Result, collecting, path_of, synced, update};
use crate::objects::{Budget, Deployment, Pod, ReplicaSet, ReplicationController};

/// An evicted pod that is still there after this will stay, and counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(2 * 60);
/// A pod that was to be disrupted and still runs after this is not any more.
const STALE: SignedDuration = SignedDuration::from_secs(2 * 60);
/// How long changes that follow a first one are collected, for each pod that there is.
const A_MOMENT: Duration = Duration::from_micros(200);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Budget(ObjectKey),
    /// A pod that was marked for disruption.
    Marked(ObjectKey),
}

struct Controller {
    rest: Rest,
    recorder: Recorder,
    budgets: Informer<Budget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    replication_controllers: Informer<ReplicationController>,
}

/// What a budget asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    expected: i64,
    healthy: i64,
}

/// Starts the controller.
pub(crate) fn start(env: &Env) {
    let informers = &env.informers;
    let (budgets, pods) = (informers.budgets.clone(), informers.pods.clone());
    let queue = Queue::new("disruption");
    let changed = queue.clone();
    budgets.on_event(move |event| {
        if let Event::Upsert { new, .. } = event {
            changed.add(Key::Budget(new.key()));
        }
    });
    let (changed, all, size) = (queue.clone(), budgets.clone(), pods.clone());
    pods.on_event(move |event| {
        let (old, new) = match event {
            Event::Upsert { old, new } => (old.as_deref(), new.as_ref()),
            Event::Delete(old) => (Some(old.as_ref()), old.as_ref()),
        };
        if matches!(event, Event::Upsert { .. }) && marked_since(new).is_some() {
            changed.add(Key::Marked(new.key()));
        }
        let gone = matches!(event, Event::Delete(_));
        if !gone && old.is_some_and(|old| counts_alike(old, new)) {
            return;
        }
        for budget in all.by_index(NAMESPACE, &new.metadata.namespace) {
            let Ok(selector) = LabelSelector::from_object(&budget.spec.selector) else { continue };
            if [old, Some(new)].into_iter().flatten().any(|pod| selects(&selector, pod)) {
                changed.add_spaced(Key::Budget(budget.key()), collecting(size.len(), A_MOMENT));
            }
        }
    });
    let (deployments, replica_sets) = (informers.deployments.clone(), informers.replica_sets.clone());
    let replication_controllers = informers.replication_controllers.clone();
    let known = synced!(budgets, pods, deployments, replica_sets, replication_controllers);
    let (rest, recorder) = (env.rest("disruption-controller"), env.recorder("disruption-controller"));
    let controller =
        Arc::new(Controller { rest, recorder, budgets, pods, deployments, replica_sets, replication_controllers });
    env.run(queue, 2, known, controller, |this, key| async move { this.reconcile(key).await });
}

/// Whether a change of a pod is none to a budget.
fn counts_alike(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.is_ready() == new.is_ready()
        && old.metadata.is_deleting() == new.metadata.is_deleting()
        && old.metadata.controller() == new.metadata.controller()
}

fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    selector.matches(|key| pod.metadata.label(key))
}

/// Since when a pod that goes on running is marked for disruption. Kubelets know what they do: their marks stay.
fn marked_since(pod: &Pod) -> Option<Timestamp> {
    let mark = pod.condition("DisruptionTarget").filter(|mark| mark.status == "True")?;
    if !pod.is_active() || mark.reason == "TerminationByKubelet" {
        return None;
    }
    Some(mark.last_transition_time.as_deref().and_then(time::parse).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// How many healthy pods a budget asks for; `scale` is what its pods' controllers want together.
fn wanted(budget: &Budget, pods: usize, scale: i64) -> Wanted {
    let pods = i64::try_from(pods).unwrap_or(i64::MAX);
    match (&budget.spec.max_unavailable, &budget.spec.min_available) {
        (Some(most), _) => Wanted { expected: scale, healthy: (scale - number_or_percent(most, scale, true)).max(0) },
        (None, Some(least)) if least.is_string() => {
            Wanted { expected: scale, healthy: number_or_percent(least, scale, true) }
        }
        (None, Some(least)) => Wanted { expected: pods, healthy: least.as_i64().unwrap_or(0) },
        (None, None) => Wanted { expected: 0, healthy: 0 },
    }
}

/// The evictions that are still on their way, and when to look at them again.
fn under_way(evicted: &Value, pods: &[Arc<Pod>], now: Timestamp) -> (Map<String, Value>, Option<Duration>) {
    let (mut still, mut again) = (Map::new(), None::<Duration>);
    for (name, at) in evicted.as_object().into_iter().flatten() {
        let there = pods.iter().any(|pod| pod.metadata.name == *name && !pod.metadata.is_deleting());
        let left = at.as_str().and_then(time::parse).map(|at| DELETION_TIMEOUT - now.duration_since(at));
        if let Some(left) = left.filter(|left| there && left.is_positive()) {
            let left = Duration::try_from(left).unwrap_or_default();
            again = Some(again.map_or(left, |known| known.min(left)));
            still.insert(name.clone(), at.clone());
        }
    }
    (still, again)
}

/// A budget's status. Nothing may be evicted where no pods are expected: the first ones may just not have been counted.
fn status(
    old: &Value,
    generation: i64,
    wanted: &Wanted,
    healthy: i64,
    evicted: Map<String, Value>,
    now: &str,
) -> Value {
    let allowed = if wanted.expected > 0 { (healthy - wanted.healthy).max(0) } else { 0 };
    let mut status = json!({
        "currentHealthy": healthy,
        "desiredHealthy": wanted.healthy,
        "expectedPods": wanted.expected,
        "disruptionsAllowed": allowed,
        "observedGeneration": generation,
    });
    if let Some(conditions) = old.get("conditions") {
        status["conditions"] = conditions.clone();
    }
    if !evicted.is_empty() {
        status["disruptedPods"] = evicted.into();
    }
    disruption::set_allowed_condition(&mut status, now);
    status
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Action> {
        match key {
            Key::Budget(key) => match self.budgets.get(&key) {
                Some(budget) => self.count(&budget).await,
                None => Ok(Action::Done),
            },
            Key::Marked(key) => self.unmark(&key).await,
        }
    }

    async fn count(&self, budget: &Budget) -> Result<Action> {
        let (pods, wanted) = match self.look(budget).await {
            Ok(seen) => seen,
            Err(error @ Error::Request { .. }) => return Err(error),
            Err(error) => {
                // Another try would find the same, until a pod or the budget changes.
                self.refuse_all(budget, &error.cause()).await?;
                return Ok(Action::Done);
            }
        };
        let now = Timestamp::now();
        let mut again = None;
        let write = |object: &mut Value| {
            let (evicted, look) = under_way(&object["status"]["disruptedPods"], &pods, now);
            again = look;
            let healthy = |pod: &&Arc<Pod>| {
                pod.is_ready() && !pod.metadata.is_deleting() && !evicted.contains_key(&pod.metadata.name)
            };
            let healthy = i64::try_from(pods.iter().filter(healthy).count()).unwrap_or(i64::MAX);
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
            // A change that came since would be told of later.
            let generation = generation.min(budget.metadata.generation);
            object["status"] = status(&object["status"], generation, &wanted, healthy, evicted, &format_time(now));
        };
        update(&self.rest, &path_of(budget), Some("status"), &budget.metadata.uid, write).await?;
        Ok(again.map_or(Action::Done, Action::RequeueAfter))
    }

    /// The budget's pods, and what it asks of them.
    async fn look(&self, budget: &Budget) -> Result<(Vec<Arc<Pod>>, Wanted)> {
        let invalid = |why| Error::Invalid { object: format!("disruption budget {}", budget.key()), why };
        let selector = LabelSelector::from_object(&budget.spec.selector).map_err(invalid)?;
        let mut pods = self.pods.by_index(NAMESPACE, &budget.metadata.namespace);
        pods.retain(|pod| selects(&selector, pod));
        if pods.is_empty() {
            self.tell(budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let by_scale =
            budget.spec.max_unavailable.is_some() || budget.spec.min_available.as_ref().is_some_and(Value::is_string);
        let scale = if by_scale { self.scale(budget, &pods).await? } else { 0 };
        let wanted = wanted(budget, pods.len(), scale);
        Ok((pods, wanted))
    }

    /// What the controllers of these pods want together.
    async fn scale(&self, budget: &Budget, pods: &[Arc<Pod>]) -> Result<i64> {
        let mut sizes = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged = true;
                continue;
            };
            if sizes.contains_key(&owner.uid) {
                continue;
            }
            let Some((uid, size)) = self.size(&pod.metadata, owner).await? else {
                let why = format!("found no controllers for pod \"{}\"", pod.metadata.name);
                self.tell(
                    budget,
                    EventType::Warning,
                    "CalculateExpectedPodCountFailed",
                    &format!("Failed to calculate the number of expected pods: {why}"),
                );
                return Err(Error::Invalid { object: format!("disruption budget {}", budget.key()), why });
            };
            sizes.insert(uid, size);
        }
        if unmanaged {
            let selector = &budget.spec.selector;
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.tell(budget, EventType::Warning, "UnmanagedPods", &message);
        }
        Ok(sizes.values().sum())
    }

    /// The topmost controller of a pod, and how many pods it wants.
    async fn size(&self, pod: &Meta, owner: &OwnerReference) -> Result<Option<(String, i64)>> {
        let key = ObjectKey::new(&*pod.namespace, &*owner.name);
        let (group, version) = parse_api_version(&owner.api_version).unwrap_or_default();
        match (group, &*owner.kind) {
            ("apps", "ReplicaSet") => {
                let Some(set) = self.replica_sets.get(&key).filter(|set| set.metadata.uid == owner.uid) else {
                    return Ok(None);
                };
                let above = set.metadata.controller().filter(|above| above.kind == "Deployment");
                let above = above.and_then(|above| {
                    let key = ObjectKey::new(&*pod.namespace, &*above.name);
                    self.deployments.get(&key).filter(|deployment| deployment.metadata.uid == above.uid)
                });
                Ok(Some(match above {
                    Some(above) => (above.metadata.uid.clone(), above.spec.replicas.unwrap_or(1)),
                    None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
                }))
            }
            ("", "ReplicationController") => {
                let found = self.replication_controllers.get(&key).filter(|one| one.metadata.uid == owner.uid);
                Ok(found.map(|one| (owner.uid.clone(), one.spec.replicas.unwrap_or(1))))
            }
            _ => {
                let resource = resources::find_kind(group, version, &owner.kind);
                let Some(resource) = resource.filter(|resource| resource.subresource("scale").is_some()) else {
                    return Ok(None);
                };
                let path = Path::object(group, version, &resource.resource, &pod.namespace, &owner.name);
                let scale = self.rest.get_opt(&path.child("scale")).await;
                let scale = scale.doing(|| format!("read the scale of {} {key}", owner.kind))?;
                let scale = scale.filter(|scale| scale["metadata"]["uid"] == *owner.uid);
                Ok(scale.map(|scale| (owner.uid.clone(), scale["spec"]["replicas"].as_i64().unwrap_or(0))))
            }
        }
    }

    /// What cannot be counted is not spent.
    async fn refuse_all(&self, budget: &Budget, why: &str) -> Result<()> {
        let now = time::now_rfc3339();
        let write = |object: &mut Value| {
            let status = &mut object["status"];
            for field in ["currentHealthy", "desiredHealthy", "expectedPods"] {
                if status[field].is_null() {
                    status[field] = 0.into();
                }
            }
            status["disruptionsAllowed"] = 0.into();
            disruption::set_failed_condition(status, why, &now);
        };
        update(&self.rest, &path_of(budget), Some("status"), &budget.metadata.uid, write).await.map(drop)
    }

    /// Takes the mark off a pod that was not disrupted after all.
    async fn unmark(&self, key: &ObjectKey) -> Result<Action> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        let Some(since) = marked_since(&pod) else { return Ok(Action::Done) };
        let left = STALE - Timestamp::now().duration_since(since);
        if left.is_positive() {
            return Ok(Action::RequeueAfter(Duration::try_from(left).unwrap_or_default()));
        }
        let patch = json!({
            "metadata": { "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version },
            "status": { "conditions": [{
                "type": "DisruptionTarget",
                "status": "False",
                "reason": null,
                "message": null,
                "lastTransitionTime": time::now_rfc3339(),
            }] },
        });
        let patched = self.rest.strategic_merge(&path_of(pod.as_ref()).child("status"), &patch).await;
        informer::rest::absent_is_none(patched).doing(|| format!("take the disruption mark off pod {key}"))?;
        Ok(Action::Done)
    }

    fn tell(&self, budget: &Budget, kind: EventType, reason: &str, message: &str) {
        let object = ObjectRef::of("policy/v1", "PodDisruptionBudget", &budget.metadata);
        self.recorder.event(&object, kind, reason, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(spec: &Value) -> Budget {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn pod(name: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).unwrap())
    }

    #[test]
    fn what_budgets_ask_for() {
        for (spec, pods, scale, expected, healthy) in [
            (json!({"minAvailable": 2}), 3, 0, 3, 2),
            (json!({"minAvailable": "50%"}), 9, 3, 3, 2),
            (json!({"maxUnavailable": 1}), 9, 3, 3, 2),
            (json!({"maxUnavailable": "10%"}), 9, 3, 3, 2),
            (json!({"maxUnavailable": 5}), 9, 3, 3, 0),
            (json!({}), 3, 3, 0, 0),
        ] {
            assert_eq!(wanted(&budget(&spec), pods, scale), Wanted { expected, healthy }, "{spec}");
        }
    }

    #[test]
    fn statuses() {
        let made = |expected, wanted, healthy| {
            let wanted = Wanted { expected, healthy: wanted };
            status(&Value::Null, 4, &wanted, healthy, Map::new(), "now")["disruptionsAllowed"].clone()
        };
        assert_eq!([made(3, 2, 3), made(3, 2, 1), made(0, 0, 1)], [json!(1), json!(0), json!(0)]);
        let wanted = Wanted { expected: 3, healthy: 2 };
        let first = status(&Value::Null, 4, &wanted, 3, Map::new(), "then");
        assert_eq!(status(&first, 4, &wanted, 3, Map::new(), "now"), first, "an unchanged status is not written");
    }

    #[test]
    fn evictions_are_forgotten_in_time() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let evicted =
            json!({"a": "2026-01-01T00:09:00Z", "old": "2026-01-01T00:07:00Z", "gone": "2026-01-01T00:09:50Z"});
        let (still, again) = under_way(&evicted, &[pod("a"), pod("old")], now);
        assert_eq!(Value::Object(still), json!({"a": "2026-01-01T00:09:00Z"}));
        assert_eq!(again, Some(Duration::from_secs(60)));
    }

    #[test]
    fn marks() {
        let pod = |reason: &str, phase: &str| -> Pod {
            let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": reason,
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({"status": {"phase": phase, "conditions": [mark]}})).unwrap()
        };
        assert!(marked_since(&pod("EvictionByEvictionAPI", "Running")).is_some());
        assert!(marked_since(&pod("TerminationByKubelet", "Running")).is_none());
        assert!(marked_since(&pod("EvictionByEvictionAPI", "Failed")).is_none());
    }
}
