//! What a plugin is: a set of pure functions at the extension points of a scheduling cycle.
//!
//! Pre-filter looks at the pod alone, filter rejects nodes, score (with pre-score and normalisation) ranks those that are left,
//! reserve follows the choice. Binding is I/O and done by `run`. A plugin also says which changes of the cluster
//! may help a pod that it rejected.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cache::{NodeInfo, PodInfo};
use crate::objects::{Node, Pod};

/// The best score a node can have.
pub const MAX_SCORE: i64 = 100;

/// Why a plugin refuses a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// In the words that users see.
    pub reasons: Vec<String>,
    /// Whether making room by preemption could help.
    pub resolvable: bool,
}

/// What a plugin knows of a pod before any node is looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// Filter has to be asked.
    Continue,
    /// The plugin has nothing to say of this pod.
    Skip,
    /// Only these nodes can do.
    Only(BTreeSet<String>),
}

/// A change of the cluster that may make a pod schedulable.
#[derive(Clone, Copy, Debug)]
pub enum ClusterEvent<'a> {
    /// A node came.
    NodeAdded(&'a Node),
    /// A node changed in what matters to scheduling.
    NodeUpdated {
        /// Before.
        old: &'a Node,
        /// Now.
        new: &'a Node,
    },
    /// A placed pod has gone or ended.
    PodRemoved(&'a PodInfo),
    /// A placed pod holds less than this, which it held before.
    PodShrunk(&'a PodInfo),
}

/// What plugins remember during one cycle.
#[derive(Default)]
pub struct CycleState(HashMap<TypeId, Box<dyn Any + Send>>);

/// A plugin.
pub trait Plugin: Send + Sync {
    /// Its name, as upstream's.
    fn name(&self) -> &'static str;

    /// Looks at the pod.
    fn pre_filter(&self, _state: &mut CycleState, _pod: &PodInfo) -> PreFilter {
        PreFilter::Continue
    }

    /// Judges a node.
    fn filter(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }

    /// Whether scores are wanted for this pod; what they need is computed once here.
    fn pre_score(&self, _state: &mut CycleState, _pod: &PodInfo) -> bool {
        false
    }

    /// Rates a node.
    fn score(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings all nodes' scores into 0 to [`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}

    /// How much the score counts.
    fn weight(&self) -> i64 {
        1
    }

    /// A node was chosen; the cache has the pod on it already.
    fn reserve(&self, _state: &mut CycleState, _pod: &PodInfo, _node: &str) -> Result<(), Rejection> {
        Ok(())
    }

    /// The choice came to nothing.
    fn unreserve(&self, _pod: &PodInfo, _node: &str) {}

    /// Whether `event` may help a pod that this plugin rejected.
    fn helps(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool;
}

/// Why no node can take a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes have each reason.
    pub reasons: BTreeMap<String, usize>,
    /// The plugins that rejected.
    pub plugins: BTreeSet<&'static str>,
    /// How many nodes preemption might free, and how many it cannot.
    pub resolvable: usize,
    /// See `resolvable`.
    pub unresolvable: usize,
    /// The pod does not want others removed for it.
    pub never_preempts: bool,
}

// === impl Rejection ===

impl Rejection {
    /// Removing other pods might help.
    pub fn resolvable(reasons: Vec<String>) -> Self {
        Self { reasons, resolvable: true }
    }

    /// The node will not do whatever runs on it.
    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }
}

// === impl CycleState ===

impl CycleState {
    /// Remembers a value, one a type.
    pub fn put<T: Send + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// What was remembered.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

// === impl FitError ===

impl FitError {
    /// Counts a node's rejection.
    pub fn record(&mut self, plugin: &'static str, rejection: Rejection, nodes: usize) {
        self.plugins.insert(plugin);
        *(if rejection.resolvable { &mut self.resolvable } else { &mut self.unresolvable }) += nodes;
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += nodes;
        }
    }

    /// What users read, in upstream's words.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let reasons = histogram(self.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)));
        let available = format!("0/{} nodes are available", self.nodes);
        if self.never_preempts {
            return format!("{available}: {reasons}. preemption: not eligible due to preemptionPolicy=Never.");
        }
        let preemption = histogram([
            ("Preemption is not helpful for scheduling", self.unresolvable),
            ("No preemption victims found for incoming pod", self.resolvable),
        ]);
        format!("{available}: {reasons}. preemption: {available}: {preemption}.")
    }
}

fn histogram<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let mut texts: Vec<String> =
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort_unstable();
    texts.join(", ")
}

/// Scales scores so that the highest becomes [`MAX_SCORE`], or 0 where high is bad.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if highest == 0 { 0 } else { MAX_SCORE * *score / highest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// A pod by itself, for plugins' tests and first looks.
impl From<Pod> for PodInfo {
    fn from(pod: Pod) -> Self {
        PodInfo::new(std::sync::Arc::new(pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let mut error = FitError { nodes: 4, ..FitError::default() };
        error.record("NodeResourcesFit", Rejection::resolvable(vec!["Insufficient cpu".into()]), 1);
        error.record(
            "NodeResourcesFit",
            Rejection::resolvable(vec!["Insufficient memory".into(), "Insufficient cpu".into()]),
            1,
        );
        error.record("TaintToleration", Rejection::unresolvable("node(s) had untolerated taint(s)"), 2);
        assert_eq!(
            error.message(),
            "0/4 nodes are available: 1 Insufficient memory, 2 Insufficient cpu, 2 node(s) had untolerated taint(s). \
             preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
        assert_eq!(FitError::default().message(), "no nodes available to schedule pods");
    }

    #[test]
    fn normalisation() {
        for (scores, reverse, want) in [
            (vec![1, 2, 4], false, vec![25, 50, 100]),
            (vec![0, 2], true, vec![100, 0]),
            (vec![0, 0], false, vec![0, 0]),
            (vec![0, 0], true, vec![100, 100]),
        ] {
            let mut got = scores;
            default_normalize(&mut got, reverse);
            assert_eq!(got, want);
        }
    }
}
