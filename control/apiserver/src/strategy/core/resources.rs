//! Resource requirements: names, quantities, requests within limits.

use crate::strategy::tools::{Problems, map, named};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::quantity::Quantity;
use serde_json::Value;

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Resources that nodes and quotas count.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// A container's `resources`.
pub(super) fn requirements(path: &Path, resources: &Value, problems: &mut Problems) {
    let limits_path = path.child("limits");
    let requests_path = path.child("requests");
    for (path, list) in [(&limits_path, "limits"), (&requests_path, "requests")] {
        for (name, value) in map(resources, list).into_iter().flatten() {
            let path = path.key(name.as_str());
            container_resource_name(&path, name, problems);
            quantity(&path, name, value, problems);
        }
    }
    for (name, request) in map(resources, "requests").into_iter().flatten() {
        let limit = map(resources, "limits").and_then(|limits| limits.get(name));
        within_limit((&requests_path, &limits_path), name, request, limit, problems);
    }
    let names =
        || ["limits", "requests"].into_iter().filter_map(|list| map(resources, list)).flat_map(|list| list.keys());
    if names().any(|name| name.starts_with("hugepages-")) && !names().any(|name| name == "cpu" || name == "memory") {
        problems.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    for (name, _) in map(resources, "limits").into_iter().flatten() {
        let requested = map(resources, "requests").is_some_and(|requests| requests.contains_key(name));
        if name.starts_with("hugepages-") && !requested {
            problems.push(FieldError::required(
                &requests_path.key(name.as_str()),
                format!("{name} request must be specified when limit is set"),
            ));
        }
    }
}

fn within_limit(
    (path, limits): (&Path, &Path),
    name: &str,
    request: &Value,
    limit: Option<&Value>,
    problems: &mut Problems,
) {
    let Some(requested) = parse(request) else { return };
    let Some(limit) = limit.and_then(parse) else {
        if !overcommit(name) {
            problems.push(FieldError::required(limits, "Limit must be set for non overcommitable resources"));
        }
        return;
    };
    if !overcommit(name) && requested != limit {
        problems.push(FieldError::invalid(
            path,
            requested.to_string(),
            format!("must be equal to {name} limit of {limit}"),
        ));
    } else if requested > limit {
        problems.push(FieldError::invalid(
            path,
            requested.to_string(),
            format!("must be less than or equal to {name} limit of {limit}"),
        ));
    }
}

/// Only what the kernel can take back may be promised twice.
fn overcommit(name: &str) -> bool {
    STANDARD.contains(&name)
}

fn container_resource_name(path: &Path, name: &str, problems: &mut Problems) {
    problems.extend(named(path, name, names::is_qualified_name(name)));
    let known = STANDARD.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !known {
        problems.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    } else if name.contains("kubernetes.io/") && !known || name.starts_with("requests.") {
        problems.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// A quantity of a resource list: readable, not negative, whole where the resource cannot be split.
pub(in crate::strategy) fn quantity(path: &Path, name: &str, value: &Value, problems: &mut Problems) {
    let Some(quantity) = parse(value) else {
        problems.push(FieldError::invalid(
            path,
            value.clone(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ));
        return;
    };
    if quantity.is_negative() {
        problems.push(FieldError::invalid(path, quantity.to_string(), "must be greater than or equal to 0"));
    }
    let whole = COUNTED.contains(&name)
        || name.starts_with("count/")
        || (name.contains('/') && !name.contains("kubernetes.io/"));
    if whole && quantity.as_milli() % 1000 != 0 {
        problems.push(FieldError::invalid(path, quantity.to_string(), "must be an integer"));
    }
}

/// A quantity as JSON writes it: a string or a number.
pub(in crate::strategy) fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}
