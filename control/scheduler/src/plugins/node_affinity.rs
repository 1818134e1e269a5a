//! Node selectors and node affinity, required and preferred.

use std::collections::BTreeSet;

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, PreFilter, Rejection, default_normalize};
use crate::objects::{self, Node, NodeRequirement, NodeTerm};

/// The plugin.
pub(super) struct NodeAffinity;

fn affinity(pod: &PodInfo) -> Option<&objects::NodeAffinity> {
    pod.pod.spec.affinity.as_ref()?.node_affinity.as_ref()
}

fn takes(node: &Node, pod: &PodInfo) -> bool {
    let labels = &node.metadata.labels;
    let selected = pod.pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = affinity(pod).and_then(|affinity| affinity.required.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches_term(node, term)))
}

fn matches_term(node: &Node, term: &NodeTerm) -> bool {
    let some = !term.match_expressions.is_empty() || !term.match_fields.is_empty();
    let label = |key: &str| node.metadata.labels.get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_str());
    some && term.match_expressions.iter().all(|requirement| meets(requirement, label(&requirement.key)))
        && term.match_fields.iter().all(|requirement| meets(requirement, field(&requirement.key)))
}

fn meets(requirement: &NodeRequirement, value: Option<&str>) -> bool {
    let listed = || requirement.values.iter().any(|wanted| Some(wanted.as_str()) == value);
    let numbers = || {
        let [bound] = requirement.values.as_slice() else { return None };
        Some((value?.parse::<i64>().ok()?, bound.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// The nodes that all alternatives name, if each of them names some.
fn named_nodes(pod: &PodInfo) -> Option<BTreeSet<String>> {
    let required = affinity(pod)?.required.as_ref()?;
    let mut names = BTreeSet::new();
    for term in &required.node_selector_terms {
        let named = |requirement: &&NodeRequirement| requirement.key == "metadata.name" && requirement.operator == "In";
        names.extend(term.match_fields.iter().find(named)?.values.iter().cloned());
    }
    (!names.is_empty()).then_some(names)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo) -> PreFilter {
        let required = affinity(pod).is_some_and(|affinity| affinity.required.is_some());
        if !required && pod.pod.spec.node_selector.is_empty() {
            return PreFilter::Skip;
        }
        named_nodes(pod).map_or(PreFilter::Continue, PreFilter::Only)
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if takes(&node.node, pod) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
    }

    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo) -> bool {
        affinity(pod).is_some_and(|affinity| !affinity.preferred.is_empty())
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let preferred = affinity(pod).map(|affinity| affinity.preferred.as_slice()).unwrap_or_default();
        preferred.iter().filter(|term| matches_term(&node.node, &term.preference)).map(|term| term.weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }

    fn weight(&self) -> i64 {
        2
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
    use crate::objects::Pod;
    use serde_json::{Value, json};

    fn check(spec: &Value) -> bool {
        let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}});
        let node: Node = serde_json::from_value(node).unwrap();
        takes(&node, &PodInfo::from(serde_json::from_value::<Pod>(json!({"spec": spec})).unwrap()))
    }

    fn required(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn requirements() {
        let cases = [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("rack", "NotIn", json!(["b"]), true),
            ("rack", "Exists", json!([]), false),
            ("rack", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["4"]), true),
            ("cores", "Lt", json!(["4"]), false),
            ("zone", "Gt", json!(["4"]), false),
            ("rack", "Lt", json!(["4"]), false),
        ];
        for (key, operator, values, want) in cases {
            let term = json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
            assert_eq!(check(&required(&term)), want, "{key} {operator}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_empty_ones_match_nothing() {
        let zone = |value| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
        let name = |value| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]});
        for (spec, want) in [
            (required(&json!([zone("b"), zone("a")])), true),
            (required(&json!([{}])), false),
            (required(&json!([])), false),
            (required(&json!([name("n1")])), true),
            (required(&json!([name("n2")])), false),
            (json!({"nodeSelector": {"zone": "a"}}), true),
            (json!({"nodeSelector": {"zone": "b"}}), false),
            (json!({"nodeSelector": {}}), true),
        ] {
            assert_eq!(check(&spec), want, "{spec}");
        }
    }
}
