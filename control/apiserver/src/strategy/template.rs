//! What workloads have in common: a selector, a template of pods, and counts of replicas in their status.

use super::core::{default_pod_spec, validate_template, warnings};
use super::tools::{Problems, always, empty, int, label_selector, non_negative, selects, some};
use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use apimachinery::selector::LabelSelector;
use serde_json::Value;

/// Fills in the pod template of a workload's spec.
pub(super) fn template_defaults(spec: &mut Value) {
    always(spec, "template", |template| always(template, "spec", default_pod_spec));
}

/// What every workload with a selector and a template shares. `kind` is the one that messages name.
pub(super) fn selector_and_template(spec: &Value, kind: &str, problems: &mut Problems) {
    let path = Path::new("spec");
    for field in ["replicas", "minReadySeconds"] {
        if let Some(number) = int(spec, field) {
            non_negative(&path.child(field), number, problems);
        }
    }
    let Some(selector) = some(spec, "selector") else {
        problems.push(FieldError::required(&path.child("selector"), ""));
        return template(spec, None, "ReplicaSet", problems);
    };
    label_selector(&path.child("selector"), selector, problems);
    if empty(selector, "matchLabels") && empty(selector, "matchExpressions") {
        let detail = format!("empty selector is invalid for {kind}");
        problems.push(FieldError::invalid(&path.child("selector"), selector.clone(), detail));
    } else if LabelSelector::from_object(selector).is_err() {
        problems.push(FieldError::invalid(&path.child("selector"), selector.clone(), "invalid label selector"));
        return;
    }
    template(spec, Some(selector), "ReplicaSet", problems);
}

/// A workload's template, which `selector` has to match and whose pods run on. `kind` is the one that messages name.
pub(super) fn template(spec: &Value, selector: Option<&Value>, kind: &str, problems: &mut Problems) {
    let path = Path::new("spec").child("template");
    let Some(found) = some(spec, "template") else {
        problems.push(FieldError::required(&path, ""));
        return;
    };
    let labels = found.pointer("/metadata/labels");
    let chosen = selector.filter(|one| !(empty(one, "matchLabels") && empty(one, "matchExpressions")));
    // A selector that is not there matches nothing.
    if selector.is_none() || chosen.is_some_and(|selector| !selects(selector, labels)) {
        let value = labels.cloned().unwrap_or(Value::Null);
        let at = path.child("metadata").child("labels");
        problems.push(FieldError::invalid(&at, value, "`selector` does not match template `labels`"));
    }
    validate_template(&path, found, problems);
    let policy = found.pointer("/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default();
    if policy != "Always" && !policy.is_empty() {
        let at = path.child("spec").child("restartPolicy");
        problems.push(FieldError::not_supported(&at, policy, &["Always"]));
    }
    if found.pointer("/spec/activeDeadlineSeconds").is_some_and(|value| !value.is_null()) {
        let at = path.child("spec").child("activeDeadlineSeconds");
        problems.push(FieldError::forbidden(&at, format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

/// What to say of a workload's template, as far as this write may have changed it.
pub(super) fn template_warnings(path: &Path, template: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    match old {
        Some(old) if meta::generation(new) == meta::generation(old) => Vec::new(),
        _ => warnings::pod(path, template),
    }
}

/// The same of a workload after which its pods are named.
pub(super) fn pods_warnings(path: &Path, template: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let name = warnings::name(meta::name(new), "this is used in Pod names and hostnames");
    let mut all: Vec<String> = name.filter(|_| old.is_none()).into_iter().collect();
    all.extend(template_warnings(path, template, new, old));
    all
}

/// Where the template of most workloads stands.
pub(super) fn template_path() -> Path {
    Path::new("spec").child("template")
}

/// Numbers of replicas in a status: none is negative, no part is larger than the whole.
pub(super) fn replicas(status: &Value, parts: &[&'static str], problems: &mut Problems) {
    let (path, number) = (Path::new("status"), |field: &str| int(status, field).unwrap_or(0));
    for field in ["replicas"].iter().chain(parts).chain(&["observedGeneration"]) {
        non_negative(&path.child(*field), number(field), problems);
    }
    for field in parts.iter().filter(|field| number(field) > number("replicas")) {
        let detail = "cannot be greater than status.replicas";
        problems.push(FieldError::invalid(&path.child(*field), number(field), detail));
    }
    let available = number("availableReplicas");
    if available > number("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        problems.push(FieldError::invalid(&path.child("availableReplicas"), available, detail));
    }
}
