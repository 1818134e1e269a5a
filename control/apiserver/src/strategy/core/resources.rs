//! Resource requirements: names, quantities, requests within limits.

use super::pod_defaults::containers_request;
use crate::strategy::tools::{Problems, empty, indexed, items, map, named, some};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

/// What a container can be given.
const OF_CONTAINERS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

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

/// What the downward API tells of a container, huge pages aside.
pub(super) const TOLD: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The other names without a domain that mean something somewhere.
const OTHERS: [&str; 2] = ["requests.storage", "storage"];

/// Checks the name of a resource where it stands.
pub(super) type NameRule = fn(&Path, &str, &mut Problems);

/// `resources` of a container or of a pod as a whole.
pub(super) fn requirements(path: &Path, resources: &Value, name_rule: NameRule, problems: &mut Problems) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (limits, requests) = (map(resources, "limits"), map(resources, "requests"));
    for (name, value) in limits.into_iter().flatten() {
        one(&limits_path.key(name.as_str()), name, value, name_rule, problems);
    }
    for (name, value) in requests.into_iter().flatten() {
        let at = requests_path.key(name.as_str());
        name_rule(&at, name, problems);
        quantity(&at, name, value, problems);
        let limit = limits.and_then(|limits| limits.get(name));
        within_limit((&requests_path, &limits_path), name, value, limit, problems);
        whole_pages(&at, name, value, problems);
    }
    let names: BTreeSet<&String> = limits.into_iter().chain(requests).flat_map(|list| list.keys()).collect();
    if names.iter().any(|name| is_huge(name)) && !names.iter().any(|name| *name == "cpu" || *name == "memory") {
        problems.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn one(path: &Path, name: &str, value: &Value, name_rule: NameRule, problems: &mut Problems) {
    name_rule(path, name, problems);
    quantity(path, name, value, problems);
    whole_pages(path, name, value, problems);
}

fn whole_pages(path: &Path, name: &str, value: &Value, problems: &mut Problems) {
    let Some((size, asked)) = name.strip_prefix("hugepages-").zip(parse(value)) else { return };
    let size = Quantity::parse(size).ok().map(Quantity::as_milli).filter(|size| *size > 0 && size % 1000 == 0);
    if size.is_none_or(|size| asked.as_milli() % size != 0) {
        let asked = asked.to_string();
        let detail = format!("{asked} is not positive integer multiple of {name}");
        problems.push(FieldError::invalid(path, asked, detail));
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
        if !may_be_promised_twice(name) {
            problems.push(FieldError::required(limits, "Limit must be set for non overcommitable resources"));
        }
        return;
    };
    if !may_be_promised_twice(name) && requested != limit {
        let detail = format!("must be equal to {name} limit of {limit}");
        problems.push(FieldError::invalid(path, requested.to_string(), detail));
    } else if requested > limit {
        let detail = format!("must be less than or equal to {name} limit of {limit}");
        problems.push(FieldError::invalid(path, requested.to_string(), detail));
    }
}

/// Whether Kubernetes itself knows the resource.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the resource is a device's or another of a node's own.
fn is_extended(name: &str) -> bool {
    let quota = format!("requests.{name}");
    !is_native(name) && !name.starts_with("requests.") && names::is_qualified_name(&quota).is_empty()
}

/// Only what the kernel can take back may be.
fn may_be_promised_twice(name: &str) -> bool {
    is_native(name) && !is_huge(name)
}

fn resource_name(path: &Path, name: &str, problems: &mut Problems) -> bool {
    let messages = names::is_qualified_name(name);
    let known = is_huge(name) || [&OF_CONTAINERS[..], &COUNTED, &TOLD, &OTHERS].iter().any(|list| list.contains(&name));
    if !messages.is_empty() {
        problems.extend(named(path, name, messages));
        return false;
    }
    if !name.contains('/') && !known {
        problems.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

/// What a container may ask for.
pub(super) fn of_container(path: &Path, name: &str, problems: &mut Problems) {
    resource_name(path, name, problems);
    if !name.contains('/') {
        if !OF_CONTAINERS.contains(&name) && !is_huge(name) {
            problems.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        problems.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// What a pod may ask for as a whole.
fn of_pod(path: &Path, name: &str, problems: &mut Problems) {
    if resource_name(path, name, problems) && !is_of_pods(name) {
        problems.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge(name)
}

/// The `resources` of a pod as a whole, which must hold those of its containers.
pub(super) fn of_whole_pod(path: &Path, spec: &Value, problems: &mut Problems) {
    let Some(own) = some(spec, "resources") else { return };
    let path = path.child("resources");
    if !empty(own, "claims") {
        problems.push(FieldError::forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level"));
    }
    requirements(&path, own, of_pod, problems);
    let containers = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    let asked: BTreeSet<&String> =
        containers().filter_map(|one| map(&one["resources"], "requests")).flat_map(|list| list.keys()).collect();
    for name in asked.into_iter().filter(|name| is_of_pods(name)) {
        let (Some(sum), own) = (containers_request(spec, name), own["requests"].get(name).and_then(parse)) else {
            continue;
        };
        if own.is_none_or(|own| sum > own) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            let own = own.map_or_else(|| "0".to_owned(), |own| own.to_string());
            problems.push(FieldError::invalid(&path.child("requests").key(name.as_str()), own, detail));
        }
    }
    for (at, container) in indexed(spec, "containers", &path) {
        for (name, limit) in map(&container["resources"], "limits").into_iter().flatten() {
            let whole = own["limits"].get(name).and_then(parse);
            let (Some(limit), Some(whole)) = (parse(limit), whole) else { continue };
            if limit > whole {
                let detail = format!("must be less than or equal to pod limits of {whole}");
                problems.push(FieldError::invalid(&at.key(name.as_str()).child("limits"), limit.to_string(), detail));
            }
        }
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
    if (COUNTED.contains(&name) || is_extended(name)) && quantity.as_milli() % 1000 != 0 {
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
