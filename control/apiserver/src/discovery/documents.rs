//! The contents of the discovery documents.

use std::cmp::Reverse;

use apimachinery::resources::Resource;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Upstream's order of groups: kubectl takes the first that has a resource of a name.
const GROUP_ORDER: [&str; 20] = [
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Groups, versions and resources in their order.
pub(super) struct Catalog {
    groups: Vec<Group>,
}

/// One API group.
pub(super) struct Group {
    /// Its name; empty for the core group.
    pub(super) name: String,
    /// Its versions, the preferred one first.
    pub(super) versions: Vec<Version>,
}

/// One version of a group.
pub(super) struct Version {
    /// Its name.
    pub(super) name: String,
    resources: Vec<&'static Resource>,
}

impl Catalog {
    pub(super) fn new(resources: &'static [Resource]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for resource in resources {
            let group = at_or_push(
                &mut groups,
                |g| g.name == *resource.group,
                || Group { name: resource.group.to_string(), versions: Vec::new() },
            );
            let version = at_or_push(
                &mut group.versions,
                |v| v.name == *resource.version,
                || Version { name: resource.version.to_string(), resources: Vec::new() },
            );
            version.resources.push(resource);
        }
        let rank = |name: &str| GROUP_ORDER.iter().position(|known| *known == name).unwrap_or(GROUP_ORDER.len());
        groups.sort_by(|a, b| rank(&a.name).cmp(&rank(&b.name)).then_with(|| a.name.cmp(&b.name)));
        for group in &mut groups {
            group.versions.sort_by_key(|version| Reverse(priority(&version.name)));
            for version in &mut group.versions {
                version.resources.sort_by(|a, b| a.resource.cmp(&b.resource));
            }
        }
        Self { groups }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// `/api`
    pub(super) fn api_versions(&self, server_address: &str) -> Value {
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
        })
    }

    /// `/apis`
    pub(super) fn group_list(&self) -> Value {
        let groups: Vec<Value> =
            self.groups.iter().filter(|group| !group.name.is_empty()).map(|group| group.document(false)).collect();
        json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
    }

    /// `/api` or `/apis`, aggregated.
    pub(super) fn aggregated(&self, version: &str, core: bool) -> Value {
        let items: Vec<Value> = self
            .groups
            .iter()
            .filter(|group| group.name.is_empty() == core)
            .map(|group| {
                let metadata = if core { json!({}) } else { json!({ "name": group.name }) };
                let versions: Vec<Value> = group.versions.iter().map(Version::aggregated).collect();
                json!({ "metadata": metadata, "versions": versions })
            })
            .collect();
        json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {},
            "items": items,
        })
    }
}

impl Group {
    /// The APIGroup; as a document of its own it has kind and apiVersion.
    pub(super) fn document(&self, alone: bool) -> Value {
        let versions: Vec<Value> = self.versions.iter().map(|version| version.reference(&self.name)).collect();
        let mut group = json!({ "name": self.name, "versions": versions, "preferredVersion": versions.first() });
        if alone {
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
        }
        group
    }
}

impl Version {
    /// The URL below which the version is served.
    pub(super) fn path(&self, group: &str) -> String {
        if group.is_empty() { format!("/api/{}", self.name) } else { format!("/apis/{group}/{}", self.name) }
    }

    fn group_version(&self, group: &str) -> String {
        if group.is_empty() { self.name.clone() } else { format!("{group}/{}", self.name) }
    }

    fn reference(&self, group: &str) -> Value {
        json!({ "groupVersion": self.group_version(group), "version": self.name })
    }

    /// The APIResourceList.
    pub(super) fn resource_list(&self, group: &str) -> Value {
        let mut list = Vec::new();
        for resource in &self.resources {
            let mut item = json!({
                "name": resource.resource,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": resource.verbs,
            });
            if !resource.short_names.is_empty() {
                item["shortNames"] = json!(resource.short_names);
            }
            if !resource.categories.is_empty() {
                item["categories"] = json!(resource.categories);
            }
            if resource.has_verb("list") {
                item["storageVersionHash"] = json!(storage_version_hash(resource));
            }
            list.push(item);
            for sub in &*resource.subresources {
                let mut item = json!({
                    "name": format!("{}/{}", resource.resource, sub.name),
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": sub.kind,
                    "verbs": sub.verbs,
                });
                if (&*sub.group, &*sub.version) != (&*resource.group, &*resource.version) {
                    if !sub.group.is_empty() {
                        item["group"] = json!(sub.group);
                    }
                    item["version"] = json!(sub.version);
                }
                list.push(item);
            }
        }
        let mut document =
            json!({ "kind": "APIResourceList", "groupVersion": self.group_version(group), "resources": list });
        if !group.is_empty() {
            document["apiVersion"] = json!("v1");
        }
        document
    }

    fn aggregated(&self) -> Value {
        let resources: Vec<Value> = self.resources.iter().map(|resource| aggregated_resource(resource)).collect();
        json!({ "version": self.name, "resources": resources, "freshness": "Current" })
    }
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut item = json!({
        "resource": resource.resource,
        "responseKind": { "group": resource.group, "version": resource.version, "kind": resource.kind },
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        item["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        item["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let list: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": { "group": sub.group, "version": sub.version, "kind": sub.kind },
                    "verbs": sub.verbs,
                })
            })
            .collect();
        item["subresources"] = json!(list);
    }
    item
}

/// Tells clients whether two versions are stored as one; upstream's formula.
fn storage_version_hash(resource: &Resource) -> String {
    let name = format!("{}/{}/{}", resource.storage_group, resource.storage_version, resource.kind);
    STANDARD.encode(&digest(&SHA256, name.as_bytes()).as_ref()[..8])
}

fn at_or_push<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let at = list.iter().position(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    });
    &mut list[at]
}

/// General availability before beta before alpha, then the higher number: `v2 > v1 > v1beta2 > v1beta1 > v1alpha1`.
fn priority(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or(version);
    for (word, level) in [("alpha", 1), ("beta", 2)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (level, number(major), number(minor));
        }
    }
    (3, number(rest), 0)
}
