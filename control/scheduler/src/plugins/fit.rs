//! A node must have what the pod asks for; the node that keeps most of its CPU and memory free is best.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, MAX_SCORE, Plugin, Rejection};
use crate::resources::Resources;

/// The plugin.
pub(super) struct NodeResourcesFit;

/// Each resource that is short: its reason, and whether even the empty node has too little.
fn shortages(asked: &Resources, used: &Resources, offered: &Resources) -> Vec<(String, bool)> {
    let mut short = Vec::new();
    if used.pods + asked.pods > offered.pods {
        short.push(("Too many pods".to_owned(), asked.pods > offered.pods));
    }
    let mut check = |name: &str, asked: i64, used: i64, offered: i64| {
        if asked > 0 && asked > offered.saturating_sub(used) {
            short.push((format!("Insufficient {name}"), asked > offered));
        }
    };
    check("cpu", asked.milli_cpu, used.milli_cpu, offered.milli_cpu);
    check("memory", asked.memory, used.memory, offered.memory);
    check("ephemeral-storage", asked.ephemeral_storage, used.ephemeral_storage, offered.ephemeral_storage);
    for (name, amount) in &asked.extended {
        let of = |resources: &Resources| resources.extended.get(name).copied().unwrap_or_default();
        check(name, *amount, of(used), of(offered));
    }
    short
}

fn least_allocated(asked: i64, offered: i64) -> i64 {
    if offered <= 0 || asked > offered { 0 } else { (offered - asked) * MAX_SCORE / offered }
}

/// Whether the removal of one set of requests gives something that the other asks for.
fn frees(removed: &Resources, asked: &Resources) -> bool {
    let both = |removed: i64, asked: i64| removed > 0 && asked > 0;
    both(removed.pods, asked.pods)
        || both(removed.milli_cpu, asked.milli_cpu)
        || both(removed.memory, asked.memory)
        || both(removed.ephemeral_storage, asked.ephemeral_storage)
        || asked.extended.iter().any(|(name, amount)| both(removed.extended.get(name).copied().unwrap_or(0), *amount))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let short = shortages(&pod.requests, &node.requested, &node.node.status.allocatable);
        if short.is_empty() {
            return Ok(());
        }
        let resolvable = !short.iter().any(|(_, hopeless)| *hopeless);
        Err(Rejection { reasons: short.into_iter().map(|(reason, _)| reason).collect(), resolvable })
    }

    fn pre_score(&self, _: &mut CycleState, _: &PodInfo) -> bool {
        true
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let offered = &node.node.status.allocatable;
        let cpu = least_allocated(node.rated_milli_cpu + pod.rated_milli_cpu, offered.milli_cpu);
        let memory = least_allocated(node.rated_memory + pod.rated_memory, offered.memory);
        cpu.midpoint(memory)
    }

    fn helps(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        let fits = |offered| shortages(&pod.requests, &Resources::default(), offered).is_empty();
        match event {
            ClusterEvent::NodeAdded(node) => fits(&node.status.allocatable),
            ClusterEvent::NodeUpdated { old, new } => {
                old.status.allocatable != new.status.allocatable && fits(&new.status.allocatable)
            }
            ClusterEvent::PodRemoved(held) | ClusterEvent::PodShrunk(held) => frees(&held.requests, &pod.requests),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(milli_cpu: i64, memory: i64, pods: i64, gpus: i64) -> Resources {
        let extended = [("example.com/gpu".to_owned(), gpus)].into_iter().filter(|(_, gpus)| *gpus > 0).collect();
        Resources { milli_cpu, memory, pods, extended, ..Resources::default() }
    }

    #[test]
    fn what_is_short() {
        let offered = resources(1000, 100, 2, 1);
        let cases = [
            (resources(500, 50, 1, 0), resources(500, 50, 1, 0), ""),
            (resources(501, 0, 1, 0), resources(500, 0, 1, 0), "Insufficient cpu/false"),
            (resources(1001, 0, 1, 0), resources(0, 0, 1, 0), "Insufficient cpu/true"),
            (resources(0, 0, 1, 0), resources(2000, 0, 1, 0), ""),
            (resources(0, 0, 1, 0), resources(0, 0, 2, 0), "Too many pods/false"),
            (
                resources(0, 101, 1, 2),
                resources(0, 0, 0, 0),
                "Insufficient memory/true Insufficient example.com/gpu/true",
            ),
        ];
        for (asked, used, want) in cases {
            let got = shortages(&asked, &used, &offered);
            let got: Vec<_> = got.iter().map(|(reason, hopeless)| format!("{reason}/{hopeless}")).collect();
            assert_eq!(got.join(" "), want);
        }
    }

    #[test]
    fn free_nodes_are_better() {
        for (asked, offered, want) in [(0, 100, 100), (50, 100, 50), (100, 100, 0), (101, 100, 0), (1, 0, 0)] {
            assert_eq!(least_allocated(asked, offered), want);
        }
    }

    #[test]
    fn removals_that_help() {
        assert!(frees(&resources(1, 0, 0, 0), &resources(1, 0, 0, 0)));
        assert!(!frees(&resources(1, 0, 0, 0), &resources(0, 1, 0, 0)));
        assert!(frees(&resources(0, 0, 0, 1), &resources(0, 0, 0, 1)));
    }
}
