//! One scheduling cycle: from a pod and the nodes at one moment to the node that suits it best.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, FitError, Plugin, PreFilter, Rejection};

/// With fewer nodes all are looked at.
const MIN_FEASIBLE: usize = 100;
const MIN_PERCENT: usize = 5;

/// How many nodes that would do are enough: looking at all nodes of a large cluster finds hardly better ones.
pub fn feasible_nodes_to_find(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Chooses a node. `start` is where looking begins, and is moved on so that all nodes get their turn; `pick` chooses among
/// so many equally good nodes.
pub fn schedule(
    plugins: &[Box<dyn Plugin>],
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &Snapshot,
    start: &mut usize,
    pick: impl FnOnce(usize) -> usize,
) -> Result<String, FitError> {
    let feasible = find_feasible(plugins, state, pod, nodes, start)?;
    if let [only] = feasible.as_slice() {
        return Ok(only.name().to_owned());
    }
    let scores = score(plugins, state, pod, &feasible);
    let best = scores.iter().copied().max().unwrap_or_default();
    let bests: Vec<&NodeInfo> =
        feasible.iter().zip(&scores).filter(|(_, score)| **score == best).map(|(node, _)| *node).collect();
    let at = pick(bests.len()).min(bests.len() - 1);
    Ok(bests[at].name().to_owned())
}

fn find_feasible<'a>(
    plugins: &[Box<dyn Plugin>],
    state: &mut CycleState,
    pod: &PodInfo,
    nodes: &'a Snapshot,
    start: &mut usize,
) -> Result<Vec<&'a NodeInfo>, FitError> {
    let never_preempts = pod.pod.spec.preemption_policy == "Never";
    let mut error = FitError { nodes: nodes.len(), never_preempts, ..FitError::default() };
    let mut asked: Vec<&dyn Plugin> = Vec::new();
    let mut candidates: Option<(&'static str, std::collections::BTreeSet<String>)> = None;
    for plugin in plugins {
        match plugin.pre_filter(state, pod) {
            PreFilter::Skip => {}
            PreFilter::Continue => asked.push(plugin.as_ref()),
            PreFilter::Only(names) => {
                asked.push(plugin.as_ref());
                candidates = Some(match candidates {
                    Some((by, known)) => (by, known.intersection(&names).cloned().collect()),
                    None => (plugin.name(), names),
                });
            }
        }
    }
    let enough = if candidates.is_some() { nodes.len() } else { feasible_nodes_to_find(nodes.len()) };
    let (mut feasible, mut looked_at) = (Vec::new(), 0);
    for at in 0..nodes.len() {
        let node: &NodeInfo = &nodes[(*start + at) % nodes.len()];
        looked_at += 1;
        if let Some((by, _)) = candidates.as_ref().filter(|(_, names)| !names.contains(node.name())) {
            error.record(by, Rejection::unresolvable(format!("node(s) didn't satisfy plugin(s) [{by}]")), 1);
            continue;
        }
        let verdict = asked
            .iter()
            .try_for_each(|plugin| plugin.filter(state, pod, node).map_err(|rejection| (plugin.name(), rejection)));
        match verdict {
            Ok(()) => feasible.push(node),
            Err((plugin, rejection)) => error.record(plugin, rejection, 1),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    *start = (*start + looked_at) % nodes.len().max(1);
    if feasible.is_empty() { Err(error) } else { Ok(feasible) }
}

fn score(plugins: &[Box<dyn Plugin>], state: &mut CycleState, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for plugin in plugins {
        if !plugin.pre_score(state, pod) {
            continue;
        }
        let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(state, pod, node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::objects::{Node, Pod};
    use crate::plugins;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn cluster(nodes: &[Value]) -> Cache {
        let mut cache = Cache::default();
        for node in nodes {
            cache.set_node(Arc::new(serde_json::from_value::<Node>(node.clone()).unwrap()));
        }
        cache
    }

    fn node(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"name": name}},
               "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}})
    }

    fn run(cache: &Cache, pod: Value) -> Result<String, String> {
        let pod = PodInfo::from(serde_json::from_value::<Pod>(pod).unwrap());
        schedule(&plugins::defaults(), &mut CycleState::default(), &pod, &cache.snapshot(), &mut 0, |_| 0)
            .map_err(|error| error.message())
    }

    fn asking(cpu: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn sampling_is_upstreams() {
        for (nodes, want) in [(10, 10), (99, 99), (100, 100), (1000, 420), (5000, 500), (6000, 300), (10_000, 500)] {
            assert_eq!(feasible_nodes_to_find(nodes), want, "{nodes}");
        }
    }

    #[test]
    fn the_least_allocated_node_wins() {
        let mut cache = cluster(&[node("a", "4"), node("b", "4")]);
        let busy = serde_json::from_value::<Pod>(asking("2")).unwrap();
        cache.assume(Arc::new(busy.into()), "a");
        assert_eq!(run(&cache, asking("1")), Ok("b".into()));
    }

    #[test]
    fn says_why_nothing_fits() {
        let mut closed = node("c", "64");
        closed["spec"] = json!({"unschedulable": true});
        let mut tainted = node("t", "64");
        tainted["spec"] = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let cache = cluster(&[node("a", "1"), closed, tainted]);
        let want = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
                    1 node(s) were unschedulable. preemption: 0/3 nodes are available: \
                    3 Preemption is not helpful for scheduling.";
        assert_eq!(run(&cache, asking("2")), Err(want.into()));
        let mut modest = asking("2");
        modest["spec"]["preemptionPolicy"] = json!("Never");
        let want = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
                    1 node(s) were unschedulable. preemption: not eligible due to preemptionPolicy=Never.";
        assert_eq!(run(&cache, modest), Err(want.into()));
        assert_eq!(run(&cluster(&[]), asking("2")), Err("no nodes available to schedule pods".into()));
    }

    #[test]
    fn fields_restrict_the_candidates() {
        let mut pod = asking("1");
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}});
        let nodes = [node("a", "4"), node("b", "4"), node("c", "4")];
        assert_eq!(run(&cluster(&nodes), pod.clone()), Ok("b".into()));
        let want = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
                    preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("5");
        assert_eq!(run(&cluster(&nodes), pod), Err(want.into()));
    }

    #[test]
    fn a_cycle_over_many_nodes_is_cheap() {
        let nodes: Vec<Value> = (0..5000).map(|number| node(&format!("n{number}"), "4")).collect();
        let cache = cluster(&nodes);
        let (plugins, pod) = (plugins::defaults(), PodInfo::from(serde_json::from_value::<Pod>(asking("1")).unwrap()));
        let (mut start, begun) = (0, std::time::Instant::now());
        for _ in 0..20 {
            let snapshot = cache.snapshot();
            schedule(&plugins, &mut CycleState::default(), &pod, &snapshot, &mut start, |_| 0).unwrap();
        }
        assert_eq!(start, 20 * 500 % 5000);
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
