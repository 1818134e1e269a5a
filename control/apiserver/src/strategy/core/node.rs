//! Nodes.

use super::affinity::EFFECTS;
use super::resources;
use crate::strategy::Strategy;
use crate::strategy::networking::{NOT_A_CIDR, network};
use crate::strategy::tools::{
    Problems, always, default_to, empty, in_step, indexed, items, map, named, one_of, some, text, within,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::schema::Schema;
use serde_json::Value;
use std::collections::BTreeSet;

/// The strategy of Nodes.
#[derive(Debug)]
pub(in crate::strategy) struct Node;

impl Strategy for Node {
    fn defaults(&self, node: &mut Value) {
        within(node, "spec", |spec| {
            in_step(spec, "podCIDR", "podCIDRs", Value::clone, |cidr| cidr);
        });
        within(node, "status", |status| {
            if some(status, "allocatable").is_none()
                && let Some(capacity) = some(status, "capacity").cloned()
            {
                status["allocatable"] = capacity;
            }
        });
    }

    fn prepare_create(&self, node: &mut Value) {
        always(node, "status", |status| {
            always(status, "daemonEndpoints", |endpoints| {
                always(endpoints, "kubeletEndpoint", |endpoint| default_to(endpoint, "Port", 0));
            });
            if let Some(info) = Schema::named("io.k8s.api.core.v1.NodeSystemInfo") {
                default_to(status, "nodeInfo", info.zero());
            }
        });
    }

    fn validate(&self, node: &Value) -> Problems {
        let mut problems = Vec::new();
        taints(node, &mut problems);
        amounts(node, &mut problems);
        let (path, cidrs) = (Path::new("spec").child("podCIDRs"), items(&node["spec"], "podCIDRs"));
        let mut seen = BTreeSet::new();
        let mut of_v6 = 0;
        for (index, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
            match network(cidr) {
                Some((address, _)) => of_v6 += usize::from(address.is_ipv6()),
                None => problems.push(FieldError::invalid(&path.index(index), cidr, NOT_A_CIDR)),
            }
            if !seen.insert(cidr) {
                problems.push(FieldError::duplicate(&path.index(index), cidr));
            }
        }
        if cidrs.len() > 2 || (cidrs.len() == 2 && of_v6 != 1) {
            let detail = "may specify no more than one CIDR for each IP family";
            problems.push(FieldError::invalid(&path, cidrs.to_vec(), detail));
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        amounts(new, &mut problems);
        let (path, after, before) = (Path::new("spec"), &new["spec"], &old["spec"]);
        for (field, said) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            if !empty(before, field) && after.get(field) != before.get(field) {
                let detail = format!("node updates may not change {said} except from \"\" to valid");
                problems.push(FieldError::forbidden(&path.child(field), detail));
            }
        }
        if empty(before, "podCIDRs") && !empty(after, "podCIDRs") {
            problems.extend(self.validate(new));
        } else {
            taints(new, &mut problems);
        }
        problems
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        amounts(new, &mut problems);
        let mut seen = Vec::new();
        for (path, address) in indexed(&new["status"], "addresses", &Path::new("status")) {
            if seen.contains(&address) {
                problems.push(FieldError::duplicate(&path, address.clone()));
            }
            seen.push(address);
        }
        problems
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let told = [
            ("configSource", "spec.configSource: the feature is removed"),
            ("externalID", "spec.externalID: this field is deprecated, and is unused by Kubernetes"),
        ];
        let there = told.into_iter().filter(|(field, _)| !empty(&new["spec"], field));
        there.map(|(_, said)| said.to_owned()).collect()
    }
}

fn amounts(node: &Value, problems: &mut Problems) {
    for list in ["capacity", "allocatable"] {
        let path = Path::new("status").child(list);
        for (name, value) in map(&node["status"], list).into_iter().flatten() {
            resources::quantity(&path.child(name.clone()), name, value, problems);
        }
    }
}

// Upstream tells of taints as if they stood in the metadata, and clients have learned it.
fn taints(node: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (path, taint) in indexed(&node["spec"], "taints", &Path::new("metadata")) {
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
        let wrong = names::is_label_value(value);
        if !wrong.is_empty() {
            problems.push(FieldError::invalid(&path.child("value"), value, wrong.join(";")));
        }
        one_of(&path.child("effect"), effect, &EFFECTS, true, problems);
        if !seen.insert((key, effect)) {
            let mut twice = FieldError::duplicate(&path, taint.clone());
            twice.detail = "taints must be unique by key and effect pair".to_owned();
            problems.push(twice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn taints_are_unique_by_key_and_effect() {
        let node = |taints: Value| json!({ "spec": { "taints": taints } });
        assert!(
            Node.validate(&node(json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}])))
                .is_empty()
        );
        let twice =
            node(json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]));
        assert_eq!(
            Node.validate(&twice)[0].to_string(),
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\",\"value\":\"b\"}: taints must be unique by key and effect pair"
        );
    }

    #[test]
    fn the_first_pod_cidr_stands_twice() {
        for spec in [json!({"podCIDR": "10.0.0.0/24"}), json!({"podCIDRs": ["10.0.0.0/24"]})] {
            let mut node = json!({ "spec": spec });
            Node.defaults(&mut node);
            assert_eq!(node["spec"], json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
            assert!(Node.validate(&node).is_empty());
        }
        let two = json!({ "spec": { "podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"] } });
        assert!(Node.validate(&two)[0].to_string().ends_with("may specify no more than one CIDR for each IP family"));
    }

    #[test]
    fn a_pod_cidr_stays() {
        let node = |cidrs: Value| json!({ "spec": { "podCIDRs": cidrs } });
        assert!(Node.validate_update(&node(json!(["10.0.0.0/24"])), &node(json!([]))).is_empty());
        assert_eq!(Node.validate_update(&node(json!(["10.0.1.0/24"])), &node(json!(["10.0.0.0/24"]))).len(), 1);
    }
}
