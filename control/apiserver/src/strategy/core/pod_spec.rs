//! Validation of pod specs, in pods and in every template (pkg/apis/core/validation/validation.go).

use super::{affinity, container, resources, security, volume};
use crate::strategy::tools::{Problems, empty, flag, indexed, int, labels, map, named, one_of, some, strings, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The annotation of the kubelet's mirrors of static pods.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation by which a ReplicaSet chooses what to delete first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

/// A pod template: the labels and annotations of its metadata, and its spec.
pub(in crate::strategy) fn template(path: &Path, template: &Value, problems: &mut Problems) {
    let (metadata, found) = (&template["metadata"], &template["spec"]);
    labels(&path.child("labels"), map(metadata, "labels"), problems);
    let at = path.child("annotations");
    for (key, _) in map(metadata, "annotations").into_iter().flatten() {
        problems.extend(named(&at, key, names::is_qualified_name(&key.to_lowercase())));
    }
    annotations(&at, metadata, found, problems);
    let path = path.child("spec");
    if !found.is_object() {
        problems.push(FieldError::required(&path.child("containers"), ""));
        return;
    }
    spec(&path, found, problems);
    if !empty(found, "ephemeralContainers") {
        let detail = "ephemeral containers not allowed in pod template";
        problems.push(FieldError::forbidden(&path.child("ephemeralContainers"), detail));
    }
}

/// The annotations that say something of a pod.
pub(super) fn annotations(path: &Path, metadata: &Value, spec: &Value, problems: &mut Problems) {
    let annotation = |key: &str| metadata["annotations"].get(key).and_then(Value::as_str);
    if let Some(value) = annotation(MIRROR).filter(|_| empty(spec, "nodeName")) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        problems.push(FieldError::invalid(&path.key(MIRROR), value, detail));
    }
    if let Some(cost) = annotation(DELETION_COST) {
        let first = cost.trim_start_matches('-').bytes().next();
        let padded = cost.starts_with('+') || (first == Some(b'0') && cost != "0");
        if padded || cost.parse::<i32>().is_err() {
            problems.push(FieldError::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
        }
    }
}

/// A pod's spec.
pub(in crate::strategy) fn spec(path: &Path, spec: &Value, problems: &mut Problems) {
    let context = container::Context {
        volumes: volume::volumes(spec, path, problems),
        host_users: container::host_users(spec),
        grace: int(spec, "terminationGracePeriodSeconds"),
        never_restarts: text(spec, "restartPolicy") == "Never",
    };
    container::containers(spec, path, &context, problems);
    resources::of_whole_pod(path, spec, problems);
    container::ports_of_the_host(path, spec, problems);
    one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &RESTART_POLICIES, true, problems);
    one_of(&path.child("dnsPolicy"), text(spec, "dnsPolicy"), &DNS_POLICIES, true, problems);
    labels(&path.child("nodeSelector"), map(spec, "nodeSelector"), problems);
    if let Some(context) = some(spec, "securityContext") {
        security::pod(&path.child("securityContext"), spec, context, problems);
    }
    if let Some(found) = some(spec, "affinity") {
        affinity::affinity(&path.child("affinity"), found, problems);
    }
    dns(path, spec, problems);
    for (path, gate) in indexed(spec, "readinessGates", path) {
        let kind = text(gate, "conditionType");
        problems.extend(named(&path.child("conditionType"), kind, names::is_qualified_name(kind)));
    }
    gates(path, spec, problems);
    affinity::topology_spread(path, spec, problems);
    user_namespace(path, spec, problems);
    names_in(path, spec, &["serviceAccountName", "nodeName"], names::is_dns1123_subdomain, problems);
    deadline(path, spec, problems);
    names_in(path, spec, &["hostname", "subdomain"], names::is_dns1123_label, problems);
    hostname_override(path, spec, problems);
    affinity::tolerations(path, spec, problems);
    host_aliases(path, spec, problems);
    names_in(path, spec, &["priorityClassName", "runtimeClassName"], names::is_dns1123_subdomain, problems);
    let policies = ["PreemptLowerPriority", "Never"];
    one_of(&path.child("preemptionPolicy"), text(spec, "preemptionPolicy"), &policies, false, problems);
    if let Some(overhead) = some(spec, "overhead") {
        let limits = json!({ "limits": overhead });
        resources::requirements(&path.child("overhead"), &limits, resources::of_container, problems);
    }
    operating_system(path, spec, problems);
}

/// A user namespace of its own goes with no namespace of the host's.
fn user_namespace(path: &Path, spec: &Value, problems: &mut Problems) {
    if container::host_users(spec) {
        return;
    }
    for (field, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) == Some(true) {
            problems.push(FieldError::forbidden(&path.child(name), "when `hostUsers` is false"));
        }
    }
}

fn operating_system(path: &Path, spec: &Value, problems: &mut Problems) {
    let Some(os) = some(spec, "os") else { return };
    let at = path.child("os");
    let allowed = match text(os, "name") {
        "" => return problems.push(FieldError::required(&at.child("name"), "cannot be empty")),
        "linux" => "windowsOptions",
        "windows" => return,
        other => return problems.push(FieldError::not_supported(&at, other, &["linux", "windows"])),
    };
    let detail = "windows options cannot be set for a linux pod";
    let mut check = |path: &Path, holder: &Value| {
        if some(&holder["securityContext"], allowed).is_some() {
            problems.push(FieldError::forbidden(&path.child("securityContext").child(allowed), detail));
        }
    };
    check(path, spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        indexed(spec, list, path).for_each(|(path, container)| check(&path, container));
    }
}

fn deadline(path: &Path, spec: &Value, problems: &mut Problems) {
    if let Some(value) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&value)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        problems.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), value, detail));
    }
}

fn names_in(
    path: &Path,
    spec: &Value,
    fields: &[&'static str],
    rule: fn(&str) -> Vec<String>,
    problems: &mut Problems,
) {
    for field in fields {
        let value = text(spec, field);
        if !value.is_empty() {
            problems.extend(named(&path.child(*field), value, rule(value)));
        }
    }
}

/// A name that the pod calls itself, whatever its own is: a host name's length, and not where another rules it.
fn hostname_override(path: &Path, spec: &Value, problems: &mut Problems) {
    let Some(name) = some(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    let at = path.child("hostnameOverride");
    problems.extend(named(&at, name, names::is_dns1123_subdomain(name)));
    if name.len() > 64 {
        problems.push(FieldError::too_long(&at, 64));
    }
    if flag(spec, "setHostnameAsFQDN") == Some(true) {
        problems.push(FieldError::forbidden(&at, "may not be specified when 'setHostnameAsFQDN' is true"));
    }
    if flag(spec, "hostNetwork") == Some(true) {
        problems.push(FieldError::forbidden(&at, "may not be specified when 'hostNetwork' is true"));
    }
}

fn dns(path: &Path, spec: &Value, problems: &mut Problems) {
    let path = path.child("dnsConfig");
    let Some(config) = some(spec, "dnsConfig") else {
        if text(spec, "dnsPolicy") == "None" {
            problems.push(FieldError::required(&path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let servers = path.child("nameservers");
    let all: Vec<&str> = strings(config, "nameservers").collect();
    if text(spec, "dnsPolicy") == "None" && all.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        problems.push(FieldError::required(&servers, detail));
        return;
    }
    if all.len() > 3 {
        problems.push(FieldError::invalid(&servers, all.clone(), "must not have more than 3 nameservers"));
    }
    for (at, server) in all.iter().enumerate() {
        ip(&servers.index(at), server, problems);
    }
    let at = path.child("searches");
    let searches: Vec<&str> = strings(config, "searches").collect();
    if searches.len() > 32 {
        problems.push(FieldError::invalid(&at, searches.clone(), "must not have more than 32 search paths"));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        problems.push(FieldError::invalid(&at, searches.clone(), detail));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        problems.extend(named(&at.index(index), name, names::is_dns1123_subdomain_with_underscore(name)));
    }
    for (path, option) in indexed(config, "options", &path) {
        if empty(option, "name") {
            problems.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

fn host_aliases(path: &Path, spec: &Value, problems: &mut Problems) {
    for (path, alias) in indexed(spec, "hostAliases", path) {
        ip(&path.child("ip"), text(alias, "ip"), problems);
        for (path, name) in indexed(alias, "hostnames", &path) {
            let name = name.as_str().unwrap_or_default();
            problems.extend(named(&path, name, names::is_dns1123_subdomain(name)));
        }
    }
}

/// An IP address in its usual form.
pub(super) fn ip(path: &Path, value: &str, problems: &mut Problems) {
    if value.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        problems.push(FieldError::invalid(path, value, detail));
    }
}

fn gates(path: &Path, spec: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (path, gate) in indexed(spec, "schedulingGates", path) {
        let name = text(gate, "name");
        problems.extend(named(&path, name, names::is_qualified_name(name)));
        if !seen.insert(name) {
            problems.push(FieldError::duplicate(&path, name));
        }
    }
}
