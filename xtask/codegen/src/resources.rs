//! `resources.txt`: a line a resource, sorted by group, version and name, parts between tabs:
//! group (`-` for core), version, plural, singular, kind, list kind, `N`amespaced or `C`luster, verbs, short names, categories,
//! storage group, storage version, then each subresource as `name group version kind verbs`. Lists have commas; empty is `-`.

use std::cmp::Reverse;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::types::Types;

/// Short names, by group and plural. Not in the facts: upstream has them in code.
const SHORT_NAMES: &[(&str, &str, &str)] = &[
    ("", "componentstatuses", "cs"),
    ("", "configmaps", "cm"),
    ("", "endpoints", "ep"),
    ("", "events", "ev"),
    ("", "limitranges", "limits"),
    ("", "namespaces", "ns"),
    ("", "nodes", "no"),
    ("", "persistentvolumeclaims", "pvc"),
    ("", "persistentvolumes", "pv"),
    ("", "pods", "po"),
    ("", "replicationcontrollers", "rc"),
    ("", "resourcequotas", "quota"),
    ("", "serviceaccounts", "sa"),
    ("", "services", "svc"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "crd,crds"),
    ("apps", "daemonsets", "ds"),
    ("apps", "deployments", "deploy"),
    ("apps", "replicasets", "rs"),
    ("apps", "statefulsets", "sts"),
    ("autoscaling", "horizontalpodautoscalers", "hpa"),
    ("batch", "cronjobs", "cj"),
    ("certificates.k8s.io", "certificatesigningrequests", "csr"),
    ("events.k8s.io", "events", "ev"),
    ("networking.k8s.io", "ingresses", "ing"),
    ("networking.k8s.io", "ipaddresses", "ip"),
    ("networking.k8s.io", "networkpolicies", "netpol"),
    ("policy", "poddisruptionbudgets", "pdb"),
    ("scheduling.k8s.io", "priorityclasses", "pc"),
    ("storage.k8s.io", "storageclasses", "sc"),
    ("storage.k8s.io", "volumeattributesclasses", "vac"),
];

/// Categories, by group and plural. Not in the facts either.
const CATEGORIES: &[(&str, &str, &str)] = &[
    ("", "pods", "all"),
    ("", "replicationcontrollers", "all"),
    ("", "services", "all"),
    ("apps", "daemonsets", "all"),
    ("apps", "deployments", "all"),
    ("apps", "replicasets", "all"),
    ("apps", "statefulsets", "all"),
    ("autoscaling", "horizontalpodautoscalers", "all"),
    ("batch", "cronjobs", "all"),
    ("batch", "jobs", "all"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", "api-extensions"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "api-extensions"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "api-extensions"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "api-extensions"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "api-extensions"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "api-extensions"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "api-extensions"),
    ("apiregistration.k8s.io", "apiservices", "api-extensions"),
];

/// The whole file.
pub fn text(resources: &[Value], types: &Types<'_>) -> Result<String> {
    let mut lines = Vec::new();
    for resource in resources {
        let line = line(resource, resources, types).with_context(|| format!("resource {resource}"))?;
        let key = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
        lines.push(((key("group"), key("version"), key("resource")), line));
    }
    lines.sort();
    let mut text = String::new();
    for (_, line) in lines {
        writeln!(text, "{line}")?;
    }
    Ok(text)
}

fn line(resource: &Value, all: &[Value], types: &Types<'_>) -> Result<String> {
    let get = |name: &str| resource[name].as_str().with_context(|| format!("no {name}"));
    let (group, version, plural, kind) = (get("group")?, get("version")?, get("resource")?, get("kind")?);
    let list_kind = format!("{kind}List");
    let list_kind = if types.has_kind(group, version, &list_kind) { list_kind.as_str() } else { "" };
    let mut verbs = verbs(resource)?;
    if verbs.contains(&"list") && !list_kind.is_empty() && plural != "componentstatuses" {
        verbs.push("watch");
    }
    let (storage_group, storage_version) = storage(group, version, plural, all);
    let parts = [
        dash(group),
        version,
        plural,
        &kind.to_lowercase(),
        kind,
        dash(list_kind),
        if resource["namespaced"] == true { "N" } else { "C" },
        &verbs.join(","),
        dash(lookup(SHORT_NAMES, group, plural)),
        dash(lookup(CATEGORIES, group, plural)),
        dash(storage_group),
        storage_version,
    ];
    let mut line = parts.join("\t");
    for (name, facts) in resource["subresources"].as_object().into_iter().flatten() {
        let get = |name: &str| facts[name].as_str().with_context(|| format!("no {name}"));
        let verbs = self::verbs(facts)?.join(",");
        write!(line, "\t{name} {} {} {} {verbs}", dash(get("group")?), get("version")?, get("kind")?)?;
    }
    Ok(line)
}

fn verbs(facts: &Value) -> Result<Vec<&str>> {
    let verbs = facts["verbs"].as_array().context("no verbs")?;
    verbs.iter().map(|verb| verb.as_str().context("a verb is no text")).collect()
}

/// Where objects are stored: in the most stable of a resource's versions; events with those of the core group.
fn storage<'a>(group: &'a str, version: &'a str, plural: &str, all: &'a [Value]) -> (&'a str, &'a str) {
    if group == "events.k8s.io" {
        return ("", "v1");
    }
    let versions = all.iter().filter(|one| one["group"] == group && one["resource"] == plural);
    let best = versions.filter_map(|one| one["version"].as_str()).max_by_key(|version| stability(version));
    (group, best.unwrap_or(version))
}

/// Orders versions as Kubernetes does: stable over beta over alpha, then higher numbers first.
fn stability(version: &str) -> (Reverse<u8>, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.trim_start_matches('v');
    if let Some((major, minor)) = rest.split_once("beta") {
        (Reverse(1), number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (Reverse(2), number(major), number(minor))
    } else {
        (Reverse(0), number(rest), 0)
    }
}

fn lookup(table: &[(&str, &str, &'static str)], group: &str, plural: &str) -> &'static str {
    table.iter().find(|(g, p, _)| *g == group && *p == plural).map_or("", |(_, _, value)| value)
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
