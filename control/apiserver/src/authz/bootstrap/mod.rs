//! The default roles and bindings, and how they are brought up to date at start: what is missing is created, what an
//! administrator added stays, rules and subjects that upstream has are put back. An object with the annotation
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

mod parse;
pub(crate) mod write;

use serde_json::{Value, json};

use super::rbac::Kind;
use super::rules::{Rule, uncovered};
use serde::Deserialize;

const POLICY: &str = include_str!("policy.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One default object.
#[derive(Debug, Clone, PartialEq)]
pub struct Default {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty at cluster scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

/// All default objects, roles before the bindings that refer to them.
pub fn defaults() -> Vec<Default> {
    let mut objects = parse::parse(POLICY).expect("the policy file is checked by a test");
    fill_aggregated(&mut objects);
    objects.sort_by_key(|object| Kind::ALL.iter().position(|kind| *kind == object.kind));
    objects
}

/// The rules of the ClusterRole `system:node`, which the Node authorizer applies without any binding.
pub(super) fn node_rules() -> Vec<Rule> {
    let objects = parse::parse(POLICY).expect("the policy file is checked by a test");
    let role = objects.iter().find(|object| object.kind == Kind::ClusterRole && object.name == "system:node");
    role.map(|role| read_rules(&role.object)).unwrap_or_default()
}

/// What has to be written so that `existing` has everything `desired` has; `None` if nothing.
pub fn reconcile(existing: &Value, desired: &Default) -> Option<Value> {
    if existing.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE)).is_some_and(|v| v == "false") {
        return None;
    }
    let mut merged = existing.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in desired.object["metadata"][field].as_object().into_iter().flatten() {
            if existing["metadata"][field].get(key).is_none() {
                merged["metadata"][field][key] = value.clone();
            }
        }
    }
    match desired.kind {
        Kind::ClusterRole | Kind::Role => {
            if desired.object["aggregationRule"].is_null() || !existing["aggregationRule"].is_null() {
                let missing = uncovered(&read_rules(existing), &read_rules(&desired.object));
                append(&mut merged, "rules", missing.iter().map(rule_value));
            } else {
                merged["aggregationRule"] = desired.object["aggregationRule"].clone();
            }
        }
        // A changed roleRef cannot be updated in place; it is the administrator's choice and stays.
        Kind::ClusterRoleBinding | Kind::RoleBinding
            if existing["roleRef"]["name"] == desired.object["roleRef"]["name"] =>
        {
            let known = existing["subjects"].as_array().cloned().unwrap_or_default();
            let wanted = desired.object["subjects"].as_array().cloned().unwrap_or_default();
            append(&mut merged, "subjects", wanted.into_iter().filter(|subject| !known.contains(subject)));
        }
        Kind::ClusterRoleBinding | Kind::RoleBinding => return None,
    }
    (merged != *existing).then_some(merged)
}

fn append(object: &mut Value, field: &str, more: impl Iterator<Item = Value>) {
    let more: Vec<Value> = more.collect();
    if more.is_empty() {
        return;
    }
    if let Value::Array(list) = &mut object[field] {
        list.extend(more);
    } else {
        object[field] = Value::Array(more);
    }
}

fn read_rules(object: &Value) -> Vec<Rule> {
    Vec::<Rule>::deserialize(&object["rules"]).unwrap_or_default()
}

/// A rule as it stands in a role object.
pub(super) fn rule_value(rule: &Rule) -> Value {
    let mut value = json!({ "verbs": rule.verbs });
    let lists = [
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ];
    for (field, list) in lists {
        if !list.is_empty() {
            value[field] = json!(list);
        }
    }
    value
}

/// Gives `admin`, `edit` and `view` the rules that the aggregation controller would copy into them.
fn fill_aggregated(objects: &mut [Default]) {
    let roles: Vec<(Value, Value, Value)> = objects
        .iter()
        .map(|o| {
            (o.object["metadata"]["labels"].clone(), o.object["rules"].clone(), o.object["aggregationRule"].clone())
        })
        .collect();
    for object in objects.iter_mut() {
        let mut wanted = aggregate_labels(&object.object["aggregationRule"]);
        let mut rules: Vec<Value> = Vec::new();
        let mut next = 0;
        while let Some(label) = wanted.get(next).cloned() {
            next += 1;
            for (labels, own, aggregation) in &roles {
                if labels.get(&label).is_some_and(|value| value == "true") {
                    rules.extend(own.as_array().into_iter().flatten().cloned());
                    wanted.extend(
                        aggregate_labels(aggregation).into_iter().filter(|l| !wanted.contains(l)).collect::<Vec<_>>(),
                    );
                }
            }
        }
        if !wanted.is_empty() {
            object.object["rules"] = Value::Array(rules);
        }
    }
}

fn aggregate_labels(aggregation: &Value) -> Vec<String> {
    let selectors = aggregation["clusterRoleSelectors"].as_array();
    let labels = selectors.into_iter().flatten().filter_map(|selector| selector["matchLabels"].as_object());
    labels.flat_map(|labels| labels.keys().cloned()).collect()
}
