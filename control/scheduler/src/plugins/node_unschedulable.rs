//! A node that is closed takes only pods that tolerate this.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::objects::{Node, Taint};

/// The plugin.
pub(super) struct NodeUnschedulable;

fn takes(node: &Node, pod: &PodInfo) -> bool {
    let taint = Taint::new("node.kubernetes.io/unschedulable", "NoSchedule");
    !node.spec.unschedulable || pod.pod.spec.tolerations.iter().any(|toleration| toleration.tolerates(&taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if takes(&node.node, pod) { Ok(()) } else { Err(Rejection::unresolvable("node(s) were unschedulable")) }
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
    fn closed_nodes_take_the_tolerant() {
        let mut node = Node::default();
        node.spec.unschedulable = true;
        let mut pod = Pod::default();
        assert!(!takes(&node, &pod.clone().into()));
        pod.spec.tolerations = vec![Toleration { operator: "Exists".into(), ..Toleration::default() }];
        assert!(takes(&node, &pod.into()));
    }
}
