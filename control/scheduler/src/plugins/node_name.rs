//! A pod that names its node gets no other.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, PreFilter, Rejection};

/// The plugin.
pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo) -> PreFilter {
        if pod.pod.spec.node_name.is_empty() { PreFilter::Skip } else { PreFilter::Continue }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.pod.spec.node_name == node.name() {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) didn't match the requested node name"))
    }

    fn helps(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        matches!(event, ClusterEvent::NodeAdded(node) if node.metadata.name == pod.pod.spec.node_name)
    }
}
