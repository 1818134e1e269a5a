//! The Node authorizer: what a kubelet may do follows from the pods bound to its node.
//!
//! The index holds, per node, its pods' entries; the names a pod refers to are worked out when first asked for, since most
//! pods are never asked about and every pod update passes here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::Attributes;
use crate::auth::User;
use crate::request::exact_field;

/// The group of all kubelets.
pub const NODES_GROUP: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";

/// What the Node authorizer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    /// Nothing: the user is no node.
    NotANode,
    /// The static node rules may decide.
    Static,
    /// The request is allowed.
    Allow,
    /// Refused, with the reason.
    Refuse(String),
}

/// The node a user is, if it is one.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    (!name.is_empty() && user.in_group(NODES_GROUP)).then_some(name)
}

/// The objects a pod refers to, all in its own namespace but for persistent volumes.
#[derive(Debug, Default)]
struct References {
    secrets: HashSet<String>,
    config_maps: HashSet<String>,
    claims: HashSet<String>,
    resource_claims: HashSet<String>,
    service_account: String,
}

#[derive(Debug)]
struct Pod {
    bytes: Bytes,
    references: OnceLock<References>,
}

#[derive(Debug, Default)]
struct Inner {
    /// node → (namespace, pod name) → pod
    nodes: HashMap<String, HashMap<(String, String), Arc<Pod>>>,
    /// (claim's namespace, claim) → volume, to know which node may read a volume.
    claim_volumes: HashMap<(String, String), String>,
    /// volume attachment → node
    attachments: HashMap<String, String>,
}

/// Which node runs which pods, and what these refer to.
#[derive(Debug, Default)]
pub(crate) struct NodeIndex(Mutex<Inner>);

impl NodeIndex {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod is there or has changed.
    pub(crate) fn apply_pod(&self, namespace: &str, name: &str, node: &str, bytes: &Bytes) {
        if node.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let pods = inner.nodes.entry(node.to_owned()).or_default();
        let key = (namespace.to_owned(), name.to_owned());
        // References of a bound pod never change, except by ephemeral containers.
        if pods.get(&key).is_some_and(|pod| pod.references.get().is_some() && !mentions(bytes, b"ephemeralContainers"))
        {
            return;
        }
        pods.insert(key, Arc::new(Pod { bytes: bytes.clone(), references: OnceLock::new() }));
    }

    /// A pod is gone.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str, node: &str) {
        let mut inner = self.lock();
        if let Some(pods) = inner.nodes.get_mut(node) {
            pods.remove(&(namespace.to_owned(), name.to_owned()));
            if pods.is_empty() {
                inner.nodes.remove(node);
            }
        }
    }

    pub(crate) fn clear_pods(&self) {
        self.lock().nodes.clear();
    }

    pub(crate) fn clear_volumes(&self) {
        self.lock().claim_volumes.clear();
    }

    pub(crate) fn clear_attachments(&self) {
        self.lock().attachments.clear();
    }

    /// A persistent volume is there (`Some`) or gone.
    pub(crate) fn set_volume(&self, volume: &str, bytes: Option<&[u8]>) {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Volume {
            spec: VolumeSpec,
        }
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct VolumeSpec {
            claim_ref: Option<ClaimRef>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct ClaimRef {
            namespace: String,
            name: String,
        }
        let claim = bytes
            .and_then(|bytes| serde_json::from_slice::<Volume>(bytes).ok())
            .and_then(|volume| volume.spec.claim_ref);
        let mut inner = self.lock();
        inner.claim_volumes.retain(|_, known| known != volume);
        if let Some(claim) = claim {
            inner.claim_volumes.insert((claim.namespace, claim.name), volume.to_owned());
        }
    }

    /// A volume attachment is there (`Some`) or gone.
    pub(crate) fn set_attachment(&self, name: &str, bytes: Option<&[u8]>) {
        let node = bytes
            .and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok())
            .and_then(|value| value.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned));
        let mut inner = self.lock();
        match node {
            Some(node) => inner.attachments.insert(name.to_owned(), node),
            None => inner.attachments.remove(name),
        };
    }

    /// Decides a request of `user`.
    pub(crate) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Opinion {
        let Some(node) = node_name(user) else { return Opinion::NotANode };
        if !attributes.is_resource {
            return Opinion::Static;
        }
        match (attributes.group, attributes.resource) {
            ("", "secrets") => self.read(node, attributes, |refs, name| refs.secrets.contains(name)),
            ("", "configmaps") => self.read(node, attributes, |refs, name| refs.config_maps.contains(name)),
            ("", "persistentvolumeclaims") => self.claim(node, attributes),
            ("", "persistentvolumes") => self.volume(node, attributes),
            ("", "serviceaccounts") => self.service_account(node, attributes),
            ("resource.k8s.io", "resourceclaims") => {
                self.get(node, attributes, |refs, name| refs.resource_claims.contains(name))
            }
            ("storage.k8s.io", "volumeattachments") => self.attachment(node, attributes),
            ("storage.k8s.io", "csinodes") => own_object(node, attributes, "CSINode"),
            ("coordination.k8s.io", "leases") => lease(node, attributes),
            ("", "nodes") => own_node(node, attributes),
            ("", "pods") => self.pod(node, attributes),
            _ => Opinion::Static,
        }
    }

    fn any_pod(&self, node: &str, namespace: &str, check: impl Fn(&References) -> bool) -> bool {
        let pods: Vec<Arc<Pod>> = match self.lock().nodes.get(node) {
            Some(pods) => pods.iter().filter(|((ns, _), _)| ns == namespace).map(|(_, pod)| pod.clone()).collect(),
            None => return false,
        };
        pods.iter().any(|pod| check(pod.references.get_or_init(|| references(&pod.bytes))))
    }

    fn has_pod(&self, node: &str, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().nodes.get(node).is_some_and(|pods| pods.contains_key(&key))
    }

    fn read(&self, node: &str, a: &Attributes<'_>, check: impl Fn(&References, &str) -> bool) -> Opinion {
        if !matches!(a.verb, "get" | "list" | "watch") {
            return Opinion::Refuse("can only read resources of this type".into());
        }
        self.related(node, a, check)
    }

    fn get(&self, node: &str, a: &Attributes<'_>, check: impl Fn(&References, &str) -> bool) -> Opinion {
        if a.verb != "get" {
            return Opinion::Refuse("can only get individual resources of this type".into());
        }
        self.related(node, a, check)
    }

    fn related(&self, node: &str, a: &Attributes<'_>, check: impl Fn(&References, &str) -> bool) -> Opinion {
        if !a.subresource.is_empty() {
            return Opinion::Refuse("cannot read subresource".into());
        }
        if a.namespace.is_empty() {
            return Opinion::Refuse("can only read namespaced object of this type".into());
        }
        self.reachable(node, a, check)
    }

    fn reachable(&self, node: &str, a: &Attributes<'_>, check: impl Fn(&References, &str) -> bool) -> Opinion {
        if a.name.is_empty() {
            return Opinion::Refuse("No Object name found".into());
        }
        if self.any_pod(node, a.namespace, |refs| check(refs, a.name)) { Opinion::Allow } else { unrelated(node) }
    }

    fn claim(&self, node: &str, a: &Attributes<'_>) -> Opinion {
        match (a.subresource, a.verb) {
            ("status", "get" | "update" | "patch") => self.reachable(node, a, |refs, name| refs.claims.contains(name)),
            ("status", _) => Opinion::Refuse("can only update status of this type".into()),
            _ => self.get(node, a, |refs, name| refs.claims.contains(name)),
        }
    }

    fn volume(&self, node: &str, a: &Attributes<'_>) -> Opinion {
        if a.verb != "get" || !a.subresource.is_empty() {
            return Opinion::Refuse("can only get individual resources of this type".into());
        }
        let claim = self
            .lock()
            .claim_volumes
            .iter()
            .find(|(_, volume)| *volume == a.name)
            .map(|((namespace, name), _)| (namespace.clone(), name.clone()));
        match claim {
            Some((namespace, name)) if self.any_pod(node, &namespace, |refs| refs.claims.contains(&name)) => {
                Opinion::Allow
            }
            _ => unrelated(node),
        }
    }

    fn attachment(&self, node: &str, a: &Attributes<'_>) -> Opinion {
        if a.verb != "get" || !a.subresource.is_empty() {
            return Opinion::Refuse("can only get individual resources of this type".into());
        }
        if self.lock().attachments.get(a.name).is_some_and(|owner| owner == node) {
            Opinion::Allow
        } else {
            unrelated(node)
        }
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Opinion {
        match (a.verb, a.subresource) {
            ("create", "token") | ("get", "") => self.reachable(node, a, |refs, name| refs.service_account == name),
            (_, "token") => Opinion::Refuse("only \"create\" is allowed".into()),
            _ => Opinion::Refuse("can only get a service account or create tokens for it".into()),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Opinion {
        let own = || {
            if self.has_pod(node, a.namespace, a.name) { Opinion::Allow } else { unrelated(node) }
        };
        match (a.subresource, a.verb) {
            ("", "list" | "watch") if exact_field(a.field_selector, "spec.nodeName") == Some(node) => Opinion::Allow,
            ("", "list" | "watch") => Opinion::Refuse(format!(
                "can only list/watch pods with spec.nodeName field selector, e.g. fieldSelector=spec.nodeName={node}"
            )),
            ("", "get") | ("status" | "eviction", _) => own(),
            // Creation and deletion of mirror pods: limited by NodeRestriction in admission.
            _ => Opinion::Static,
        }
    }
}

fn unrelated(node: &str) -> Opinion {
    Opinion::Refuse(format!("no relationship found between node '{node}' and this object"))
}

fn own_node(node: &str, a: &Attributes<'_>) -> Opinion {
    match (a.subresource, a.verb) {
        ("", "create") => Opinion::Static,
        ("", "list" | "watch") if a.name == node => Opinion::Allow,
        ("", "list" | "watch") => Opinion::Refuse(format!(
            "can only list/watch its own Node with metadata.name field selector, e.g. fieldSelector=metadata.name={node}"
        )),
        ("" | "status", _) if a.name == node => Opinion::Static,
        ("" | "status", verb) => Opinion::Refuse(format!("node '{node}' cannot {verb} another node")),
        _ => Opinion::Static,
    }
}

fn lease(node: &str, a: &Attributes<'_>) -> Opinion {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Opinion::Refuse("can only get, create, update, patch, or delete a node lease".into());
    }
    if a.namespace != "kube-node-lease" {
        return Opinion::Refuse("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    own_object(node, a, "node lease")
}

fn own_object(node: &str, a: &Attributes<'_>, what: &str) -> Opinion {
    if !a.subresource.is_empty() {
        return Opinion::Refuse(format!("cannot access {what} subresources"));
    }
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Opinion::Refuse(format!("can only get, create, update, patch, or delete a {what}"));
    }
    // A create has no name here: admission compares it.
    if a.verb != "create" && a.name != node {
        return Opinion::Refuse(format!("can only access {what} with the same name as the requesting node"));
    }
    Opinion::Allow
}

fn mentions(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Collects what a pod's spec refers to.
fn references(pod: &[u8]) -> References {
    let Ok(pod) = serde_json::from_slice::<Value>(pod) else { return References::default() };
    let spec = &pod["spec"];
    let mut refs =
        References { service_account: text(&spec["serviceAccountName"]).unwrap_or_default(), ..References::default() };
    refs.secrets.extend(items(&spec["imagePullSecrets"]).filter_map(|item| text(&item["name"])));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items(&spec[list]).for_each(|container| refs.add_container(container));
    }
    let pod_name = text(&pod["metadata"]["name"]).unwrap_or_default();
    items(&spec["volumes"]).for_each(|volume| refs.add_volume(volume, &pod_name));
    refs.resource_claims.extend(items(&spec["resourceClaims"]).filter_map(|claim| text(&claim["resourceClaimName"])));
    let generated = items(&pod["status"]["resourceClaimStatuses"]);
    refs.resource_claims.extend(generated.filter_map(|claim| text(&claim["resourceClaimName"])));
    refs
}

impl References {
    fn add_container(&mut self, container: &Value) {
        for source in items(&container["envFrom"]) {
            self.secrets.extend(text(&source["secretRef"]["name"]));
            self.config_maps.extend(text(&source["configMapRef"]["name"]));
        }
        for variable in items(&container["env"]) {
            self.secrets.extend(text(&variable["valueFrom"]["secretKeyRef"]["name"]));
            self.config_maps.extend(text(&variable["valueFrom"]["configMapKeyRef"]["name"]));
        }
    }

    fn add_volume(&mut self, volume: &Value, pod: &str) {
        self.secrets.extend(text(&volume["secret"]["secretName"]));
        self.config_maps.extend(text(&volume["configMap"]["name"]));
        self.claims.extend(text(&volume["persistentVolumeClaim"]["claimName"]));
        if volume["ephemeral"].is_object() {
            self.claims.extend(text(&volume["name"]).map(|name| format!("{pod}-{name}")));
        }
        for source in items(&volume["projected"]["sources"]) {
            self.secrets.extend(text(&source["secret"]["name"]));
            self.config_maps.extend(text(&source["configMap"]["name"]));
        }
        for key in ["azureFile", "cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            self.secrets.extend(text(&volume[key]["secretRef"]["name"]));
        }
        self.secrets.extend(text(&volume["azureFile"]["secretName"]));
        self.secrets.extend(text(&volume["csi"]["nodePublishSecretRef"]["name"]));
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
