//! A node whose CPU and memory are used in like parts is better: what is left of it can still be used.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, MAX_SCORE, Plugin};

/// The plugin.
pub(super) struct NodeResourcesBalancedAllocation;

/// From 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "a share, not an amount")]
fn share(asked: i64, offered: i64) -> f64 {
    if offered <= 0 { 1.0 } else { (asked as f64 / offered as f64).min(1.0) }
}

/// Of two shares the standard deviation is half their distance.
#[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
fn balance(cpu: f64, memory: f64) -> i64 {
    ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64 * MAX_SCORE / 100
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// Pods that ask for nothing unbalance nothing.
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo) -> bool {
        pod.requests.milli_cpu > 0 || pod.requests.memory > 0
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (offered, used) = (&node.node.status.allocatable, &node.requested);
        let cpu = share(used.milli_cpu + pod.requests.milli_cpu, offered.milli_cpu);
        let memory = share(used.memory + pod.requests.memory, offered.memory);
        balance(cpu, memory)
    }

    fn helps(&self, _: &PodInfo, _: &ClusterEvent<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_shares_are_better() {
        for (cpu, memory, want) in
            [((1, 4), (1, 4), 100), ((3, 4), (1, 4), 75), ((1, 1), (0, 1), 50), ((0, 0), (9, 4), 100)]
        {
            assert_eq!(balance(share(cpu.0, cpu.1), share(memory.0, memory.1)), want, "{cpu:?} {memory:?}");
        }
    }
}
