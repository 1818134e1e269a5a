//! Taints keep off pods that do not tolerate them; of the other nodes, those with fewer soft taints are better.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection, default_normalize};
use crate::objects::{Node, Taint};

/// The plugin.
pub(super) struct TaintToleration;

fn untolerated<'a>(node: &'a Node, pod: &'a PodInfo, effects: &'a [&str]) -> impl Iterator<Item = &'a Taint> {
    node.spec
        .taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .filter(|taint| !pod.pod.spec.tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}

fn takes(node: &Node, pod: &PodInfo) -> bool {
    untolerated(node, pod, &["NoSchedule", "NoExecute"]).next().is_none()
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if takes(&node.node, pod) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had untolerated taint(s)")) }
    }

    fn pre_score(&self, _: &mut CycleState, _: &PodInfo) -> bool {
        true
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        i64::try_from(untolerated(&node.node, pod, &["PreferNoSchedule"]).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, true);
    }

    fn weight(&self) -> i64 {
        3
    }

    fn helps(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => takes(node, pod),
            ClusterEvent::NodeUpdated { old, new } => !takes(old, pod) && takes(new, pod),
            ClusterEvent::PodRemoved(_) | ClusterEvent::PodShrunk(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Pod, Toleration};

    #[test]
    fn hard_taints_keep_pods_off() {
        for (effect, tolerated, want) in [
            ("NoSchedule", false, false),
            ("NoExecute", false, false),
            ("NoExecute", true, true),
            ("PreferNoSchedule", false, true),
        ] {
            let mut node = Node::default();
            node.spec.taints = vec![Taint { key: "k".into(), effect: effect.into(), ..Taint::default() }];
            let mut pod = Pod::default();
            if tolerated {
                pod.spec.tolerations = vec![Toleration { operator: "Exists".into(), ..Toleration::default() }];
            }
            assert_eq!(takes(&node, &pod.into()), want, "{effect}");
        }
    }

    #[test]
    fn soft_taints_only_count() {
        let mut node = Node::default();
        node.spec.taints = vec![Taint { effect: "PreferNoSchedule".into(), ..Taint::default() }];
        let pod = PodInfo::from(Pod::default());
        assert!(takes(&node, &pod));
        let info = NodeInfo::new(std::sync::Arc::new(node));
        assert_eq!(TaintToleration.score(&CycleState::default(), &pod, &info), 1);
    }
}
