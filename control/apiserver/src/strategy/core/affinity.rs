//! Affinity, tolerations, topology spread.

use crate::strategy::tools::{Problems, empty, indexed, int, items, label_selector, named, one_of, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

/// A pod's affinity.
pub(super) fn affinity(path: &Path, affinity: &Value, problems: &mut Problems) {
    if let Some(node) = some(affinity, "nodeAffinity") {
        node_affinity(&path.child("nodeAffinity"), node, problems);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let Some(terms) = some(affinity, field) else { continue };
        let path = path.child(field);
        for (path, term) in indexed(terms, "requiredDuringSchedulingIgnoredDuringExecution", &path) {
            pod_term(&path, term, problems);
        }
        for (path, weighted) in indexed(terms, "preferredDuringSchedulingIgnoredDuringExecution", &path) {
            weight(&path, weighted, problems);
            pod_term(&path.child("podAffinityTerm"), &weighted["podAffinityTerm"], problems);
        }
    }
}

fn weight(path: &Path, weighted: &Value, problems: &mut Problems) {
    let weight = int(weighted, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        problems.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_affinity(path: &Path, affinity: &Value, problems: &mut Problems) {
    if let Some(required) = some(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        if empty(required, "nodeSelectorTerms") {
            let detail = "must have at least one node selector term";
            problems.push(FieldError::required(&path.child("nodeSelectorTerms"), detail));
        }
        for (path, term) in indexed(required, "nodeSelectorTerms", &path) {
            node_term(&path, term, problems);
        }
    }
    for (path, preferred) in indexed(affinity, "preferredDuringSchedulingIgnoredDuringExecution", path) {
        weight(&path, preferred, problems);
        node_term(&path.child("preference"), &preferred["preference"], problems);
    }
}

fn node_term(path: &Path, term: &Value, problems: &mut Problems) {
    for (path, requirement) in indexed(term, "matchExpressions", path) {
        node_requirement(&path, requirement, problems);
        let key = text(requirement, "key");
        problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
    }
    for (path, requirement) in indexed(term, "matchFields", path) {
        let key = text(requirement, "key");
        if key != "metadata.name" {
            problems.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
        }
        one_of(&path.child("operator"), text(requirement, "operator"), &["In", "NotIn"], true, problems);
        if items(requirement, "values").len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            problems.push(FieldError::required(&path.child("values"), detail));
        }
    }
}

fn node_requirement(path: &Path, requirement: &Value, problems: &mut Problems) {
    let values = items(requirement, "values").len();
    match text(requirement, "operator") {
        "In" | "NotIn" if values == 0 => problems
            .push(FieldError::required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")),
        "Exists" | "DoesNotExist" if values > 0 => problems.push(FieldError::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values != 1 => problems.push(FieldError::required(
            &path.child("values"),
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => problems.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
}

fn pod_term(path: &Path, term: &Value, problems: &mut Problems) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = some(term, field) {
            label_selector(&path.child(field), selector, problems);
        }
    }
    for (path, namespace) in indexed(term, "namespaces", path) {
        let name = namespace.as_str().unwrap_or_default();
        problems.extend(named(&path, name, names::is_dns1123_label(name)));
    }
    topology_key(path, term, "can not be empty", problems);
}

fn topology_key(path: &Path, holder: &Value, detail: &str, problems: &mut Problems) {
    let key = text(holder, "topologyKey");
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("topologyKey"), detail));
    } else {
        problems.extend(named(&path.child("topologyKey"), key, names::is_qualified_name(key)));
    }
}

/// A pod's tolerations.
pub(super) fn tolerations(path: &Path, spec: &Value, problems: &mut Problems) {
    for (path, toleration) in indexed(spec, "tolerations", path) {
        let (key, operator, value) = (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
        if !key.is_empty() {
            problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            problems.push(FieldError::invalid(&path.child("operator"), operator, detail));
        }
        let effect = text(toleration, "effect");
        if some(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            problems.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => problems.extend(named(&path.child("operator"), value, names::is_label_value(value))),
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                problems.push(FieldError::invalid(&path.child("operator"), toleration.clone(), detail));
            }
            "Exists" => {}
            other => problems.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        one_of(&path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], false, problems);
    }
}

/// A pod's topology spread constraints.
pub(super) fn topology_spread(path: &Path, spec: &Value, problems: &mut Problems) {
    let mut seen = Vec::new();
    for (path, constraint) in indexed(spec, "topologySpreadConstraints", path) {
        let key = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if seen.contains(&key) {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            problems.push(FieldError::duplicate(&at, format!("{{{}, {}}}", key.0, key.1)));
        }
        seen.push(key);
        if int(constraint, "maxSkew").unwrap_or(0) <= 0 {
            let value = int(constraint, "maxSkew").unwrap_or(0);
            problems.push(FieldError::invalid(&path.child("maxSkew"), value, "must be greater than zero"));
        }
        topology_key(&path, constraint, "can not be empty", problems);
        let when = text(constraint, "whenUnsatisfiable");
        one_of(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"], true, problems);
        if let Some(domains) = int(constraint, "minDomains") {
            if domains <= 0 {
                problems.push(FieldError::invalid(&path.child("minDomains"), domains, "must be greater than zero"));
            }
            if when != "DoNotSchedule" {
                let detail = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ".to_owned() + when;
                problems.push(FieldError::invalid(&path.child("minDomains"), domains, detail));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(&path.child(field), text(constraint, field), &["Honor", "Ignore"], false, problems);
        }
        if let Some(selector) = some(constraint, "labelSelector") {
            label_selector(&path.child("labelSelector"), selector, problems);
        }
    }
}
