//! Nodes.

use super::resources;
use crate::strategy::Strategy;
use crate::strategy::networking::{NOT_A_CIDR, network};
use crate::strategy::tools::{Problems, empty, indexed, map, named, one_of, strings, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;
use std::collections::BTreeSet;

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

/// The strategy of Nodes.
#[derive(Debug)]
pub(in crate::strategy) struct Node;

impl Strategy for Node {
    fn validate(&self, node: &Value) -> Problems {
        let mut problems = Vec::new();
        let spec = &node["spec"];
        taints(&Path::new("spec").child("taints"), spec, &mut problems);
        let path = Path::new("spec").child("podCIDRs");
        for (at, cidr) in strings(spec, "podCIDRs").enumerate() {
            if network(cidr).is_none() {
                problems.push(FieldError::invalid(&path.index(at), cidr, NOT_A_CIDR));
            }
        }
        amounts(node, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let (new, old) = (&new["spec"], &old["spec"]);
        for field in ["podCIDRs", "providerID"] {
            if !empty(old, field) && new.get(field) != old.get(field) {
                let detail = format!("node updates may not change {field} except from \"\" to valid");
                problems.push(FieldError::forbidden(&Path::new("spec").child(field), detail));
            }
        }
        problems
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        amounts(new, &mut problems);
        problems
    }
}

fn amounts(node: &Value, problems: &mut Problems) {
    for list in ["capacity", "allocatable"] {
        let path = Path::new("status").child(list);
        for (name, value) in node.get("status").and_then(|status| map(status, list)).into_iter().flatten() {
            let path = path.key(name.as_str());
            problems.extend(named(&path, name, names::is_qualified_name(name)));
            resources::quantity(&path, name, value, problems);
        }
    }
}

fn taints(path: &Path, spec: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (at, taint) in indexed(spec, "taints", &Path::new("spec")) {
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        problems.extend(named(&at.child("key"), key, names::is_qualified_name(key)));
        problems.extend(named(&at.child("value"), value, names::is_label_value(value)));
        one_of(&at.child("effect"), effect, &EFFECTS, true, problems);
        if !seen.insert((key, effect)) {
            problems.push(FieldError::duplicate(path, taint.clone()));
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
        assert_eq!(Node.validate(&twice).len(), 1);
    }

    #[test]
    fn a_pod_cidr_stays() {
        let node = |cidrs: Value| json!({ "spec": { "podCIDRs": cidrs } });
        assert!(Node.validate_update(&node(json!(["10.0.0.0/24"])), &node(json!([]))).is_empty());
        assert_eq!(Node.validate_update(&node(json!(["10.0.1.0/24"])), &node(json!(["10.0.0.0/24"]))).len(), 1);
    }
}
