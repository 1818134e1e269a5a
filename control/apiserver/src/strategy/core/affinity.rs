//! Affinity, tolerations, topology spread.

use std::collections::BTreeSet;

use crate::strategy::tools::{
    Problems, empty, indexed, int, items, label_selector, map, named, one_of, some, strings, supported, text,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

/// What a taint does to pods.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

const NO_OPERATOR: &str = "not a valid selector operator";

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
            node_term(&path, term, true, problems);
        }
    }
    for (path, preferred) in indexed(affinity, "preferredDuringSchedulingIgnoredDuringExecution", path) {
        weight(&path, preferred, problems);
        // Values that no node can have were once allowed here, and are told in warnings.
        node_term(&path.child("preference"), &preferred["preference"], false, problems);
    }
}

fn node_term(path: &Path, term: &Value, checks_values: bool, problems: &mut Problems) {
    for (path, requirement) in indexed(term, "matchExpressions", path) {
        node_requirement(&path, requirement, problems);
        let key = text(requirement, "key");
        problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
        for (path, value) in indexed(requirement, "values", &path).filter(|_| checks_values) {
            let value = value.as_str().unwrap_or_default();
            problems.extend(named(&path, value, names::is_label_value(value)));
        }
    }
    for (path, requirement) in indexed(term, "matchFields", path) {
        match text(requirement, "operator") {
            "In" | "NotIn" if items(requirement, "values").len() != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                problems.push(FieldError::required(&path.child("values"), detail));
            }
            "In" | "NotIn" => {}
            other => problems.push(FieldError::invalid(&path.child("operator"), other, NO_OPERATOR)),
        }
        let key = text(requirement, "key");
        if key != "metadata.name" {
            problems.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
            continue;
        }
        for (path, value) in indexed(requirement, "values", &path) {
            let value = value.as_str().unwrap_or_default();
            problems.extend(named(&path, value, names::is_dns1123_subdomain(value)));
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
        other => problems.push(FieldError::invalid(&path.child("operator"), other, NO_OPERATOR)),
    }
}

fn pod_term(path: &Path, term: &Value, problems: &mut Problems) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = some(term, field) {
            label_selector(&path.child(field), selector, problems);
        }
    }
    for name in strings(term, "namespaces") {
        problems.extend(named(&path.child("namespace"), name, names::is_dns1123_label(name)));
    }
    label_keys(path, term, problems);
    let (at, key) = (path.child("topologyKey"), text(term, "topologyKey"));
    if key.is_empty() {
        problems.push(FieldError::required(&at, "can not be empty"));
    }
    problems.extend(named(&at, key, names::is_qualified_name(key)));
}

/// The keys whose values of the pod's own labels join a selector.
fn label_keys(path: &Path, term: &Value, problems: &mut Problems) {
    let Some(selector) = some(term, "labelSelector") else {
        for list in ["matchLabelKeys", "mismatchLabelKeys"].into_iter().filter(|list| !empty(term, list)) {
            let detail = "must not be specified when labelSelector is not set";
            problems.push(FieldError::forbidden(&path.child(list), detail));
        }
        return;
    };
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        for (path, key) in indexed(term, list, path) {
            let key = key.as_str().unwrap_or_default();
            problems.extend(named(&path, key, names::is_qualified_name(key)));
        }
    }
    // The pod's own value has joined the expressions already: a key that stands there once more was the user's.
    let mut seen: BTreeSet<&str> = map(selector, "matchLabels").into_iter().flatten().map(|(key, _)| &**key).collect();
    for key in items(selector, "matchExpressions").iter().map(|expression| text(expression, "key")) {
        let at = strings(term, "matchLabelKeys").position(|one| one == key);
        if let Some(at) = at.filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            problems.push(FieldError::invalid(&path.index(at), key, detail));
        }
        seen.insert(key);
    }
    for (path, key) in indexed(term, "matchLabelKeys", path) {
        if items(term, "mismatchLabelKeys").contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            problems.push(FieldError::invalid(&path, key.clone(), detail));
        }
    }
}

/// A pod's tolerations.
pub(super) fn tolerations(path: &Path, spec: &Value, problems: &mut Problems) {
    for (path, toleration) in indexed(spec, "tolerations", path) {
        let (key, operator, value) = (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
        let at = path.child("operator");
        if !key.is_empty() {
            problems.extend(named(&path.child("key"), key, names::is_qualified_name(key)));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            problems.push(FieldError::invalid(&at, operator, detail));
        }
        let effect = text(toleration, "effect");
        if some(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            problems.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        let wrong = names::is_label_value(value);
        match operator {
            "" | "Equal" if !wrong.is_empty() => problems.push(FieldError::invalid(&at, value, wrong.join(";"))),
            "Exists" if !value.is_empty() => {
                problems.push(FieldError::invalid(&at, value, "value must be empty when `operator` is 'Exists'"));
            }
            "" | "Equal" | "Exists" => {}
            other => problems.push(FieldError::not_supported(&at, other, &["Equal", "Exists"])),
        }
        one_of(&path.child("effect"), effect, &EFFECTS, false, problems);
    }
}

/// A pod's topology spread constraints.
pub(super) fn topology_spread(path: &Path, spec: &Value, problems: &mut Problems) {
    let all = items(spec, "topologySpreadConstraints");
    let pair = |one| (text(one, "topologyKey"), text(one, "whenUnsatisfiable"));
    for (index, (path, constraint)) in indexed(spec, "topologySpreadConstraints", path).enumerate() {
        let skew = int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            problems.push(FieldError::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, when) = pair(constraint);
        if key.is_empty() {
            problems.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        supported(&path.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"], problems);
        if all[index + 1..].iter().any(|other| pair(other) == (key, when)) {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            problems.push(FieldError::duplicate(&at, format!("{{{key}, {when}}}")));
        }
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
        spread_keys(&path, constraint, problems);
        if let Some(selector) = some(constraint, "labelSelector") {
            label_selector(&path.child("labelSelector"), selector, problems);
        }
    }
}

fn spread_keys(path: &Path, constraint: &Value, problems: &mut Problems) {
    let selector = some(constraint, "labelSelector");
    if selector.is_none() && !empty(constraint, "matchLabelKeys") {
        let detail = "must not be specified when labelSelector is not set";
        problems.push(FieldError::forbidden(&path.child("matchLabelKeys"), detail));
    }
    for (path, key) in indexed(constraint, "matchLabelKeys", path) {
        let key = key.as_str().unwrap_or_default();
        problems.extend(named(&path, key, names::is_qualified_name(key)));
        let selected = selector.is_some_and(|selector| {
            map(selector, "matchLabels").is_some_and(|labels| labels.contains_key(key))
                || items(selector, "matchExpressions").iter().any(|expression| text(expression, "key") == key)
        });
        if selected {
            problems.push(FieldError::invalid(&path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}
