//! Which pod is next.
//!
//! Active pods are ordered by priority, then by time. A pod that could not be placed waits in the unschedulable set for a
//! change of the cluster that may help it, then for the end of its back-off. Synchronous: time comes in with each call.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use informer::ObjectKey;

use crate::cache::PodInfo;
use crate::framework::{ClusterEvent, Plugin};
use crate::objects::Pod;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Unschedulable pods are looked at again after this time even if no known change helps: hints may err.
const LEFTOVER: Duration = Duration::from_secs(300);

/// The pods that wait for a node.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<ObjectKey, Waiting>,
    active: BTreeSet<(Reverse<i32>, u64, ObjectKey)>,
    backing_off: BTreeSet<(Instant, ObjectKey)>,
    /// By the time since when they wait.
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    /// Counts additions, for the order among equal priorities.
    additions: u64,
    /// Counts changes of the cluster, to notice those that happen during a pod's cycle.
    changes: u64,
}

struct Waiting {
    info: Arc<PodInfo>,
    place: Place,
    attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// With its turn.
    Active(u64),
    /// Until then.
    BackingOff(Instant),
    /// Since then, because of these plugins.
    Unschedulable(Instant, Vec<&'static str>),
    /// Until its gates are removed.
    Gated,
    /// Handed out; how many changes there had been.
    InFlight(u64),
}

// === impl Waiting ===

impl Waiting {
    /// Itself and how many changes there had been, if it is this pod (not another of its name) and is handed out.
    fn in_flight(&mut self, pod: &PodInfo) -> Option<(&mut Self, u64)> {
        let Place::InFlight(changes) = self.place else { return None };
        (self.info.pod.metadata.uid == pod.pod.metadata.uid).then_some((self, changes))
    }
}

// === impl Queue ===

impl Queue {
    /// A pending pod came or changed.
    pub fn set(&mut self, pod: Arc<Pod>, now: Instant) {
        let (key, gated) = (pod.metadata.key(), !pod.spec.scheduling_gates.is_empty());
        let info = Arc::new(PodInfo::new(pod));
        let Some(waiting) = self.pods.get_mut(&key) else {
            self.pods.insert(key.clone(), Waiting { info, place: Place::Gated, attempts: 0 });
            if !gated {
                self.activate(&key);
            }
            return;
        };
        let changed = waiting.info.pod.spec != info.pod.spec;
        waiting.info = info;
        match (&waiting.place, gated) {
            (Place::Gated, false) => self.activate(&key),
            (Place::Unschedulable(..), false) if changed => self.release(&key, now),
            // Its cycle looks at what it was.
            (Place::InFlight(_), _) if changed => self.changes += 1,
            _ => {}
        }
    }

    /// A pod is gone or has a node.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(waiting) = self.pods.remove(key) {
            self.leave(key, waiting.info.pod.spec.priority, &waiting.place);
        }
    }

    /// The next pod; it stays known until it is removed or given back.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.fire(now);
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InFlight(self.changes);
        waiting.attempts += 1;
        Some(Arc::clone(&waiting.info))
    }

    /// Whether this very pod, not another of its name, was handed out and is still wanted.
    pub fn is_in_flight(&mut self, pod: &PodInfo) -> bool {
        self.pods.get_mut(&pod.key()).is_some_and(|waiting| waiting.in_flight(pod).is_some())
    }

    /// When [`Queue::pop`] may have something new without any call in between.
    pub fn next_deadline(&self) -> Option<Instant> {
        let leftover = self.unschedulable.first().map(|(since, _)| *since + LEFTOVER);
        let backoff = self.backing_off.first().map(|(until, _)| *until);
        leftover.into_iter().chain(backoff).min()
    }

    /// A popped pod could not be placed because of `plugins`; none are to blame where there was no node at all, and then
    /// it was no attempt. If the cluster changed meanwhile the pod is tried again, because the change may have been the one
    /// that helps.
    pub fn unschedulable(&mut self, pod: &PodInfo, plugins: impl IntoIterator<Item = &'static str>, now: Instant) {
        let key = &pod.key();
        let Some((waiting, seen)) = self.pods.get_mut(key).and_then(|waiting| waiting.in_flight(pod)) else { return };
        let blamed: Vec<_> = plugins.into_iter().collect();
        if blamed.is_empty() {
            waiting.attempts -= 1;
        }
        waiting.place = Place::Unschedulable(now, blamed);
        self.unschedulable.insert((now, key.clone()));
        if seen != self.changes {
            self.release(key, now);
        }
    }

    /// A popped pod met an error that has nothing to do with the cluster's state.
    pub fn failed(&mut self, pod: &PodInfo, now: Instant) {
        let key = &pod.key();
        let Some((waiting, _)) = self.pods.get_mut(key).and_then(|waiting| waiting.in_flight(pod)) else { return };
        let until = now + backoff(waiting.attempts);
        self.delay(key, until);
    }

    /// The cluster changed: pods that it may help are looked at again. Returns whether there are any.
    pub fn wake(&mut self, plugins: &[Box<dyn Plugin>], event: &ClusterEvent<'_>, now: Instant) -> bool {
        self.changes += 1;
        let may_help = |waiting: &Waiting, name: &str| {
            plugins.iter().find(|plugin| plugin.name() == name).is_none_or(|plugin| plugin.helps(&waiting.info, event))
        };
        let helped = |key: &ObjectKey| match self.pods.get(key) {
            // No plugin to blame: there were no nodes at all.
            Some(Waiting { place: Place::Unschedulable(_, blamed), .. }) if blamed.is_empty() => true,
            Some(waiting @ Waiting { place: Place::Unschedulable(_, blamed), .. }) => {
                blamed.iter().any(|name| may_help(waiting, name))
            }
            _ => false,
        };
        let helped: Vec<ObjectKey> =
            self.unschedulable.iter().filter(|(_, key)| helped(key)).map(|(_, key)| key.clone()).collect();
        helped.iter().for_each(|key| self.release(key, now));
        !helped.is_empty()
    }

    /// How many pods wait, in whatever state.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// To the active pods, or to those backing off if that is not over. The first failure costs nothing once there is news:
    /// a node that comes up cures its first pods' failures, and back-off is for pods that fail again and again.
    fn release(&mut self, key: &ObjectKey, now: Instant) {
        let Some(Waiting { place: Place::Unschedulable(since, _), attempts, .. }) = self.pods.get(key) else { return };
        let until = *since + backoff(attempts.saturating_sub(1));
        if until > now { self.delay(key, until) } else { self.activate(key) }
    }

    fn delay(&mut self, key: &ObjectKey, until: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let (place, priority) =
            (std::mem::replace(&mut waiting.place, Place::BackingOff(until)), waiting.info.pod.spec.priority);
        self.leave(key, priority, &place);
        self.backing_off.insert((until, key.clone()));
    }

    fn activate(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        self.additions += 1;
        let (turn, priority) = (self.additions, waiting.info.pod.spec.priority);
        let place = std::mem::replace(&mut waiting.place, Place::Active(turn));
        self.leave(key, priority, &place);
        self.active.insert((Reverse(priority), turn, key.clone()));
    }

    fn leave(&mut self, key: &ObjectKey, priority: i32, place: &Place) {
        match place {
            // Priorities never change, so the entry is found.
            Place::Active(turn) => drop(self.active.remove(&(Reverse(priority), *turn, key.clone()))),
            Place::BackingOff(until) => drop(self.backing_off.remove(&(*until, key.clone()))),
            Place::Unschedulable(since, _) => drop(self.unschedulable.remove(&(*since, key.clone()))),
            Place::Gated | Place::InFlight(_) => {}
        }
    }

    fn fire(&mut self, now: Instant) {
        while let Some((until, key)) = self.backing_off.first().cloned() {
            if until > now {
                break;
            }
            self.activate(&key);
        }
        while let Some((since, key)) = self.unschedulable.first().cloned() {
            if since + LEFTOVER > now {
                break;
            }
            self.activate(&key);
        }
    }
}

/// 1 s for the first attempt that counts, doubled for each, at most 10 s.
fn backoff(attempts: u32) -> Duration {
    let Some(doublings) = attempts.checked_sub(1) else { return Duration::ZERO };
    BACKOFF_MIN.saturating_mul(1 << doublings.min(8)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Named, Node, PodSpec, Toleration};
    use crate::plugins;
    use informer::Meta;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let metadata = Meta { name: name.into(), uid: name.into(), ..Meta::default() };
        Arc::new(Pod { metadata, spec: PodSpec { priority, ..PodSpec::default() }, ..Pod::default() })
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|info| info.pod.metadata.name.clone())
    }

    fn info(name: &str) -> PodInfo {
        PodInfo::new(pod(name, 0))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::cluster(name)
    }

    #[test]
    fn by_priority_then_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.set(pod(name, priority), now);
        }
        queue.remove(&key("d"));
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn waits_for_a_change_that_helps_and_for_its_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (plugins, at) = (plugins::defaults(), |seconds| now + Duration::from_secs(seconds));
        queue.set(pod("a", 0), now);
        assert!(pop(&mut queue, now).is_some());
        queue.unschedulable(&info("a"), ["NodeUnschedulable"], now);
        assert_eq!(pop(&mut queue, at(100)), None);
        let mut node = Node::default();
        node.spec.unschedulable = true;
        assert!(!queue.wake(&plugins, &ClusterEvent::NodeAdded(&node), now));
        node.spec.unschedulable = false;
        assert!(queue.wake(&plugins, &ClusterEvent::NodeAdded(&node), now));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"), "the first failure is cured");
        queue.unschedulable(&info("a"), ["NodeUnschedulable"], now);
        assert_eq!(queue.next_deadline(), Some(now + LEFTOVER));
        assert!(queue.wake(&plugins, &ClusterEvent::NodeAdded(&node), now));
        assert_eq!(pop(&mut queue, now), None, "backs off first");
        assert_eq!(queue.next_deadline(), Some(at(1)));
        assert_eq!(pop(&mut queue, at(1)).as_deref(), Some("a"));
    }

    #[test]
    fn without_nodes_there_is_no_attempt() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        for _ in 0..5 {
            assert!(pop(&mut queue, now).is_some());
            queue.unschedulable(&info("a"), [], now);
            assert_eq!(pop(&mut queue, now), None);
            queue.wake(&plugins::defaults(), &ClusterEvent::NodeAdded(&Node::default()), now);
        }
        assert!(pop(&mut queue, now).is_some());
        queue.failed(&info("a"), now);
        assert_eq!(queue.next_deadline(), Some(now + BACKOFF_MIN), "a refused binding is an attempt");
    }

    #[test]
    fn a_change_during_the_cycle_is_not_missed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        assert!(pop(&mut queue, now).is_some());
        queue.wake(&plugins::defaults(), &ClusterEvent::NodeAdded(&Node::default()), now);
        queue.unschedulable(&info("a"), ["NodeUnschedulable"], now);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
    }

    #[test]
    fn its_own_change_during_the_cycle_is_not_missed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        let old = queue.pop(now).unwrap();
        let mut tolerant = pod("a", 0);
        Arc::make_mut(&mut tolerant).spec.tolerations = vec![Toleration::default()];
        queue.set(tolerant, now);
        queue.unschedulable(&old, ["TaintToleration"], now);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
    }

    #[test]
    fn what_happens_to_a_pod_is_no_matter_of_another_of_its_name() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        let old = queue.pop(now).unwrap();
        queue.remove(&key("a"));
        assert!(!queue.is_in_flight(&old));
        let mut again = pod("a", 0);
        Arc::make_mut(&mut again).metadata.uid = "again".into();
        queue.set(again, now);
        let new = queue.pop(now).unwrap();
        queue.failed(&old, now);
        queue.unschedulable(&old, ["NodeAffinity"], now);
        assert!(queue.is_in_flight(&new) && !queue.is_in_flight(&old));
    }

    #[test]
    fn gates_changes_and_leftovers() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut gated = pod("a", 0);
        Arc::make_mut(&mut gated).spec.scheduling_gates = vec![Named { name: "wait".into() }];
        queue.set(gated, now);
        assert_eq!(pop(&mut queue, now), None);
        queue.set(pod("a", 0), now);
        assert!(pop(&mut queue, now).is_some());
        queue.unschedulable(&info("a"), ["TaintToleration"], now);
        assert_eq!(pop(&mut queue, now + LEFTOVER).as_deref(), Some("a"), "leftover");
        queue.unschedulable(&info("a"), ["TaintToleration"], now);
        queue.set(pod("a", 0), now + LEFTOVER / 2);
        assert_eq!(pop(&mut queue, now + LEFTOVER / 2), None, "no news");
        let mut tolerant = pod("a", 0);
        Arc::make_mut(&mut tolerant).spec.tolerations = vec![Toleration::default()];
        queue.set(tolerant, now + LEFTOVER / 2);
        assert!(pop(&mut queue, now + LEFTOVER / 2).is_some(), "its spec changed");
    }

    #[test]
    fn many_that_fit_nowhere_do_not_slow_down_the_others() {
        let (mut queue, now, begun) = (Queue::default(), Instant::now(), Instant::now());
        for number in 0..20_000 {
            queue.set(pod(&format!("p{number}"), 0), now);
            let waiting = queue.pop(now).unwrap();
            queue.unschedulable(&waiting, ["NodeAffinity"], now);
            assert_eq!(queue.next_deadline(), Some(now + LEFTOVER));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn backoff_is_bounded() {
        let seconds: Vec<_> = (0..7).map(|attempts| backoff(attempts).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 10, 10]);
    }
}
