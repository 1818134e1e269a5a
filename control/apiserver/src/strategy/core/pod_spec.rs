//! Validation of pod specs, in pods and in every template (pkg/apis/core/validation/validation.go).

use super::{affinity, container, security, volume};
use crate::strategy::tools::{
    Problems, empty, flag, indexed, int, items, labels, map, named, one_of, some, strings, text,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// A pod template: the labels and annotations of its metadata, and its spec.
pub(in crate::strategy) fn template(path: &Path, template: &Value, problems: &mut Problems) {
    if let Some(metadata) = some(template, "metadata") {
        labels(&path.child("labels"), map(metadata, "labels"), problems);
        let at = path.child("annotations");
        for (key, _) in map(metadata, "annotations").into_iter().flatten() {
            problems.extend(named(&at, key, names::is_qualified_name(&key.to_lowercase())));
        }
    }
    match some(template, "spec") {
        Some(found) => {
            spec(&path.child("spec"), found, problems);
            if !empty(found, "ephemeralContainers") {
                let at = path.child("spec").child("ephemeralContainers");
                problems.push(FieldError::forbidden(&at, "ephemeral containers not allowed in pod template"));
            }
        }
        None => problems.push(FieldError::required(&path.child("spec").child("containers"), "")),
    }
}

/// A pod's spec.
pub(in crate::strategy) fn spec(path: &Path, spec: &Value, problems: &mut Problems) {
    let context = container::Context {
        volumes: volume::volumes(spec, path, problems),
        host_network: flag(spec, "hostNetwork").unwrap_or(false),
        host_users: container::host_users(spec),
        empty_dirs: items(spec, "volumes")
            .iter()
            .filter(|volume| some(volume, "emptyDir").is_some())
            .map(|volume| text(volume, "name"))
            .collect(),
        grace: int(spec, "terminationGracePeriodSeconds"),
        never_restarts: text(spec, "restartPolicy") == "Never",
    };
    container::containers(spec, path, &context, problems);
    one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &RESTART_POLICIES, true, problems);
    one_of(&path.child("dnsPolicy"), text(spec, "dnsPolicy"), &DNS_POLICIES, true, problems);
    labels(&path.child("nodeSelector"), map(spec, "nodeSelector"), problems);
    if let Some(context) = some(spec, "securityContext") {
        security::pod(&path.child("securityContext"), context, problems);
    }
    seconds(path, spec, problems);
    names_in(path, spec, problems);
    hostname_override(path, spec, problems);
    dns(path, spec, problems);
    host_aliases(path, spec, problems);
    if let Some(found) = some(spec, "affinity") {
        affinity::affinity(&path.child("affinity"), found, problems);
    }
    affinity::tolerations(path, spec, problems);
    affinity::topology_spread(path, spec, problems);
    gates(path, spec, problems);
    one_of(
        &path.child("preemptionPolicy"),
        text(spec, "preemptionPolicy"),
        &["Never", "PreemptLowerPriority"],
        false,
        problems,
    );
    if let Some(os) = some(spec, "os") {
        one_of(&path.child("os").child("name"), text(os, "name"), &["linux", "windows"], true, problems);
    }
    host_namespaces(path, spec, problems);
    if flag(spec, "shareProcessNamespace") == Some(true) && flag(spec, "hostPID") == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        problems.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
}

/// A user namespace of its own goes with no namespace of the host's, nor do settings of a namespace with the host's one.
fn host_namespaces(path: &Path, spec: &Value, problems: &mut Problems) {
    let shares = |field: &str| flag(spec, field) == Some(true);
    if flag(spec, "hostUsers") == Some(false) {
        for (field, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if shares(field) {
                problems.push(FieldError::forbidden(&path.child(name), "when `hostUsers` is false"));
            }
        }
    }
    let context = &spec["securityContext"];
    for (path, sysctl) in indexed(context, "sysctls", &path.child("securityContext")) {
        let name = text(sysctl, "name");
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        let host = match () {
            () if dotted.starts_with("net.") => "hostNetwork",
            () if ipc.iter().any(|prefix| dotted.starts_with(prefix)) => "hostIPC",
            () => continue,
        };
        if shares(host) {
            let detail = format!("may not be specified when '{host}' is true");
            problems.push(FieldError::invalid(&path.child("name"), name, detail));
        }
    }
    if spec.pointer("/os/name").and_then(Value::as_str) == Some("linux") && some(context, "windowsOptions").is_some() {
        let at = path.child("securityContext").child("windowsOptions");
        problems.push(FieldError::forbidden(&at, "windows options cannot be set for a linux pod"));
    }
}

fn seconds(path: &Path, spec: &Value, problems: &mut Problems) {
    if let Some(value) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&value)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        problems.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), value, detail));
    }
    if let Some(value) = int(spec, "terminationGracePeriodSeconds")
        && value < 0
    {
        let detail = "must be greater than or equal to 0";
        problems.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), value, detail));
    }
}

fn names_in(path: &Path, spec: &Value, problems: &mut Problems) {
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&'static str, Rule); 7] = [
        ("serviceAccountName", names::is_dns1123_subdomain),
        ("nodeName", names::is_dns1123_subdomain),
        ("hostname", names::is_dns1123_label),
        ("subdomain", names::is_dns1123_label),
        ("priorityClassName", names::is_dns1123_subdomain),
        ("runtimeClassName", names::is_dns1123_subdomain),
        ("schedulerName", names::is_qualified_name),
    ];
    for (field, rule) in rules {
        let value = text(spec, field);
        if !value.is_empty() {
            problems.extend(named(&path.child(field), value, rule(value)));
        }
    }
    for (path, secret) in indexed(spec, "imagePullSecrets", path) {
        if empty(secret, "name") {
            problems.push(FieldError::required(&path.child("name"), ""));
        }
    }
    for (path, gate) in indexed(spec, "readinessGates", path) {
        let kind = text(gate, "conditionType");
        problems.extend(named(&path.child("conditionType"), kind, names::is_qualified_name(kind)));
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
    }
    if all.len() > 3 {
        problems.push(FieldError::invalid(&servers, all.clone(), "must not have more than 3 nameservers"));
    }
    for (at, server) in all.iter().enumerate() {
        ip(&servers.index(at), server, problems);
    }
    let searches: Vec<&str> = strings(config, "searches").collect();
    if searches.len() > 32 {
        problems.push(FieldError::invalid(
            &path.child("searches"),
            searches.clone(),
            "must not have more than 32 search paths",
        ));
    }
    for (at, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        problems.extend(named(&path.child("searches").index(at), search, names::is_dns1123_subdomain(name)));
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
        problems.extend(named(&path.child("name"), name, names::is_qualified_name(name)));
        if !seen.insert(name) {
            problems.push(FieldError::duplicate(&path, name));
        }
    }
    if !seen.is_empty() && !empty(spec, "nodeName") {
        let detail = "cannot be set until all schedulingGates have been cleared";
        problems.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
}
