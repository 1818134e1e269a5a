//! Pods that do not tolerate a NoExecute taint of their node are deleted, at once or when their toleration ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apimachinery::time::now_rfc3339;
use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, DeleteOptions, Rest};
use informer::{Event, Informer, ObjectKey, Projection};
use jiff::Timestamp;
use serde_json::json;

use crate::framework::{Doing, Env, Result, path_of, synced};
use crate::objects::{Node, Pod, Taint, Toleration};
use crate::replicas::pods_on;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Since when pods (with their uids) are known to have to leave; for taints that do not say since when they are there.
    noticed: Mutex<HashMap<ObjectKey, (String, Timestamp)>>,
}

/// What is to become of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    GoesIn(Duration),
}

pub(super) fn start(env: &Env) {
    let (nodes, pods) = (env.informers.nodes.clone(), env.informers.pods.clone());
    let queue = Queue::new("taint-eviction");
    let (changed, all) = (queue.clone(), pods.clone());
    nodes.on_event(move |event| {
        if let Event::Upsert { old, new } = event
            && (old.as_ref().is_none_or(|old| old.spec.taints != new.spec.taints))
            && new.spec.taints.iter().any(|taint| taint.effect == "NoExecute")
        {
            pods_on(&all, &new.metadata.name).iter().for_each(|pod| changed.add(pod.key()));
        }
    });
    let (changed, known_nodes) = (queue.clone(), nodes.clone());
    pods.on_event(move |event| {
        let Event::Upsert { old, new } = event else { return };
        let same = |old: &Arc<Pod>| {
            (&old.spec.node_name, &old.spec.tolerations) == (&new.spec.node_name, &new.spec.tolerations)
        };
        if old.as_ref().is_some_and(same) {
            return;
        }
        let node = known_nodes.get(&ObjectKey::cluster(new.spec.node_name.clone()));
        if node.is_some_and(|node| node.spec.taints.iter().any(|taint| taint.effect == "NoExecute")) {
            changed.add(new.metadata.key());
        }
    });
    let known = synced!(nodes, pods);
    let (rest, recorder) = (env.rest(super::CONTROLLER), env.recorder("taint-eviction-controller"));
    let controller = Arc::new(Controller { rest, recorder, nodes, pods, noticed: Mutex::default() });
    env.run(queue, 8, known, controller, |this, key| async move { this.reconcile(&key).await });
}

/// A toleration's time counts from when the taint met the pod, so that it does not begin anew with this process: from the
/// later of the taint's and the pod's coming, or from when it was `noticed` if the taint does not say.
fn fate(
    taints: &[Taint],
    tolerations: &[Toleration],
    created: Option<Timestamp>,
    noticed: Timestamp,
    now: Timestamp,
) -> Fate {
    let mut earliest: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        // As upstream, the first one counts.
        let Some(borne) = tolerations.iter().find(|toleration| toleration.tolerates(taint)) else {
            return Fate::GoesIn(Duration::ZERO);
        };
        let Some(seconds) = borne.toleration_seconds else { continue };
        let added = taint.time_added.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        let met = added.map_or(noticed, |added| created.map_or(added, |created| added.max(created)));
        let passed = Duration::try_from(now.duration_since(met)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).saturating_sub(passed);
        earliest = Some(earliest.map_or(left, |known| known.min(left)));
    }
    earliest.map_or(Fate::Stays, Fate::GoesIn)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(pod) = self.pods.get(key) else {
            self.noticed().remove(key);
            return Ok(Action::Done);
        };
        let node = self.nodes.get(&ObjectKey::cluster(pod.spec.node_name.clone()));
        let taints = node.as_ref().filter(|_| !pod.metadata.is_deleting()).map(|node| node.spec.taints.as_slice());
        let (uid, now) = (&pod.metadata.uid, Timestamp::now());
        let noticed = self.noticed().get(key).filter(|(known, _)| known == uid).map_or(now, |(_, since)| *since);
        let created = pod.metadata.creation_timestamp.as_deref().and_then(|text| text.parse().ok());
        match fate(taints.unwrap_or_default(), &pod.spec.tolerations, created, noticed, now) {
            Fate::Stays => {
                let was_to_go = self.noticed().remove(key).is_some_and(|(known, _)| known == *uid);
                if was_to_go && !pod.metadata.is_deleting() {
                    self.tell(&pod, format!("Cancelling deletion of Pod {key}"));
                }
            }
            Fate::GoesIn(left) if !left.is_zero() => {
                self.noticed().insert(key.clone(), (uid.clone(), noticed));
                return Ok(Action::RequeueAfter(left));
            }
            Fate::GoesIn(_) => {
                self.evict(&pod).await?;
                self.noticed().remove(key);
            }
        }
        Ok(Action::Done)
    }

    fn noticed(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, (String, Timestamp)>> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, pod: &Pod, message: String) {
        let about = ObjectRef::of("v1", "Pod", &pod.metadata);
        self.recorder.event(&about, EventType::Normal, "TaintManagerEviction", message);
    }

    async fn evict(&self, pod: &Pod) -> Result<()> {
        let (path, key) = (path_of(pod), pod.key());
        let doing = || format!("evict pod {key}");
        self.tell(pod, format!("Marking for deletion Pod {key}"));
        let patch = json!({
            "metadata": { "uid": pod.metadata.uid },
            "status": {
                "conditions": [{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByTaintManager",
                    "message": "Taint manager: deleting due to NoExecute taint",
                    "lastTransitionTime": now_rfc3339(),
                }],
            },
        });
        rest::absent_is_none(self.rest.strategic_merge(&path.clone().child("status"), &patch).await).doing(doing)?;
        match self.rest.delete(&path, &DeleteOptions::of_uid(&pod.metadata.uid)).await {
            Err(error) if rest::is_conflict(&error) => Ok(()),
            other => rest::absent_is_none(other).map(drop).doing(doing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let added = Some("2026-01-01T00:00:00Z".to_owned());
        let taint = |key: &str, effect: &str| Taint { time_added: added.clone(), ..Taint::new(key, effect) };
        let bear = |key: &str, seconds: Option<i64>| Toleration {
            key: key.into(),
            operator: "Exists".into(),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        let goes = |seconds| Fate::GoesIn(Duration::from_secs(seconds));
        let undated = |key: &str| Taint::new(key, "NoExecute");
        let (created, noticed) = ("2025-12-31T00:00:00Z".parse().ok(), "2026-01-01T00:00:40Z".parse().unwrap());
        let cases = [
            (vec![undated("a")], vec![bear("a", Some(300))], goes(280)),
            (vec![undated("a")], vec![bear("a", Some(20))], goes(0)),
            (vec![], vec![], Fate::Stays),
            (vec![taint("a", "NoSchedule")], vec![], Fate::Stays),
            (vec![taint("a", "NoExecute")], vec![], goes(0)),
            (vec![taint("a", "NoExecute")], vec![bear("a", None)], Fate::Stays),
            (vec![taint("a", "NoExecute")], vec![bear("a", Some(300))], goes(240)),
            (vec![taint("a", "NoExecute")], vec![bear("a", Some(30))], goes(0)),
            (vec![taint("a", "NoExecute"), taint("b", "NoExecute")], vec![bear("a", None)], goes(0)),
            (
                vec![taint("a", "NoExecute"), taint("b", "NoExecute")],
                vec![bear("a", Some(100)), bear("b", Some(90))],
                goes(30),
            ),
            (vec![taint("a", "NoExecute")], vec![bear("", None), bear("a", Some(300))], Fate::Stays),
            (vec![taint("a", "NoExecute")], vec![bear("a", Some(-1))], goes(0)),
        ];
        for (taints, tolerations, want) in cases {
            assert_eq!(fate(&taints, &tolerations, created, noticed, now), want, "{taints:?} {tolerations:?}");
        }
        let (taints, tolerations) = ([taint("a", "NoExecute")], [bear("a", Some(30))]);
        assert_eq!(fate(&taints, &tolerations, Some(noticed), noticed, now), goes(10), "the pod came after the taint");
    }
}
