//! Projections that several components need, with the fields that any of them reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::meta::{Meta, ObjectKey, Projection, null_is_default};
use crate::{Informer, projection};

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

projection!(Service, "", "v1", "services");
projection!(EndpointSlice, "discovery.k8s.io", "v1", "endpointslices");
projection!(Node, "", "v1", "nodes");

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Identity and labels.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// The load balancer's addresses.
    pub status: ServiceStatus,
}

/// `spec` of a [`Service`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    pub r#type: String,
    /// The labels of its pods; empty if its endpoints are someone else's affair.
    #[serde(deserialize_with = "null_is_default")]
    pub selector: BTreeMap<String, String>,
    /// Ports.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ServicePort>,
    /// First cluster address; `None` (the word) for headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All cluster addresses.
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_default")]
    pub cluster_ips: Vec<String>,
    /// `IPv4`, `IPv6` or both, the primary one first.
    #[serde(deserialize_with = "null_is_default")]
    pub ip_families: Vec<String>,
    /// More addresses that lead to this Service.
    #[serde(rename = "externalIPs", deserialize_with = "null_is_default")]
    pub external_ips: Vec<String>,
    /// What an ExternalName stands for.
    pub external_name: String,
    /// Whether endpoints count that are not ready.
    pub publish_not_ready_addresses: bool,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// How long affinity lasts.
    pub session_affinity_config: Option<AffinityConfig>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<String>,
    /// `PreferSameZone` (or, of old, `PreferClose`) or `PreferSameNode`.
    pub traffic_distribution: Option<String>,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Matches the name of an endpoint's port.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port on the Service's addresses.
    pub port: u16,
    /// Port on every node, or zero.
    pub node_port: u16,
    /// Port of the pods: a number or a name; null for the same as `port`.
    pub target_port: Value,
    /// A hint at what is spoken.
    pub app_protocol: Option<String>,
}

/// `sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AffinityConfig {
    /// For affinity by client address.
    #[serde(rename = "clientIP")]
    pub client_ip: ClientIpAffinity,
}

/// `sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpAffinity {
    /// Seconds since the last connection.
    pub timeout_seconds: Option<u32>,
}

/// `status` of a [`Service`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What a load balancer has given.
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub ingress: Vec<Ingress>,
}

/// One address of a load balancer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ingress {
    /// Empty where it has a host name only.
    pub ip: String,
    /// `VIP` (also when absent) or `Proxy`, which must not be short-circuited.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice, as those see it who send traffic to endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Identity and labels; one label names the Service.
    pub metadata: Meta,
    /// IPv4, IPv6 or FQDN.
    pub address_type: String,
    /// Backends.
    #[serde(deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports that every endpoint here has.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// A backend of an [`EndpointSlice`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Equivalent addresses; only the first is used, as upstream does.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<String>,
    /// Whether it may be used.
    pub conditions: EndpointConditions,
    /// Its own name below the Service's.
    pub hostname: Option<String>,
    /// Where it runs.
    pub node_name: Option<String>,
    /// Who should use it, where not everybody should.
    pub hints: Option<EndpointHints>,
}

/// Topology hints of an [`Endpoint`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointHints {
    /// For clients in these zones.
    #[serde(deserialize_with = "null_is_default")]
    pub for_zones: Vec<Named>,
    /// For clients on these nodes.
    #[serde(deserialize_with = "null_is_default")]
    pub for_nodes: Vec<Named>,
}

/// The name of a zone or node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// Conditions of an [`Endpoint`]; absent ones have upstream's defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// May be used; absent means yes.
    pub ready: Option<bool>,
    /// Answers, whether terminating or not; absent means yes.
    pub serving: Option<bool>,
    /// Is being deleted; absent means no.
    pub terminating: Option<bool>,
}

/// A port of an [`EndpointSlice`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Matches the name of a Service's port; absent as empty.
    pub name: Option<String>,
    /// TCP where absent.
    pub protocol: Option<String>,
    /// Absent means every port, which no Service's port can use.
    pub port: Option<u16>,
}

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Identity and labels.
    pub metadata: Meta,
    /// What is wanted.
    pub spec: NodeSpec,
    /// What is.
    pub status: NodeStatus,
}

/// `spec` of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    /// Closed for new pods.
    pub unschedulable: bool,
    /// The first range of its pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// All of them.
    #[serde(rename = "podCIDRs", deserialize_with = "null_is_default")]
    pub pod_cidrs: Vec<String>,
    /// What keeps pods away.
    #[serde(deserialize_with = "null_is_default")]
    pub taints: Vec<Taint>,
}

/// `status` of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// How it is.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<Condition>,
    /// Where it is reached.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<NodeAddress>,
}

/// An address of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` …
    pub r#type: String,
    /// The address.
    pub address: String,
}

/// What keeps pods off a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// Since when, where pods have time to leave (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

/// A taint that a pod bears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Empty for any, with `Exists`.
    pub key: String,
    /// `Equal` (also if empty), `Exists`, `Lt`, `Gt`.
    pub operator: String,
    /// Value.
    pub value: String,
    /// Empty for all.
    pub effect: String,
    /// How long, for `NoExecute`; for ever if absent.
    pub toleration_seconds: Option<i64>,
}

/// An entry of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, for machines.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When `status` changed last (RFC 3339).
    pub last_transition_time: Option<String>,
    /// When anything changed last (RFC 3339).
    pub last_update_time: Option<String>,
}

/// What a node's network works from: one watch of each kind for the pod network, the service proxy and cluster DNS.
#[derive(Clone)]
pub struct Traffic {
    /// Services.
    pub services: Informer<Service>,
    /// EndpointSlices; index: [`SERVICE_NAME`].
    pub slices: Informer<EndpointSlice>,
    /// Nodes.
    pub nodes: Informer<Node>,
}

// === impl Node ===

impl Node {
    /// A condition.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == kind)
    }
}

// === impl Taint ===

impl Taint {
    /// A taint without a value.
    pub fn new(key: &str, effect: &str) -> Self {
        Self { key: key.into(), effect: effect.into(), ..Self::default() }
    }
}

// === impl Toleration ===

impl Toleration {
    /// Whether a pod with this toleration bears `taint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let concerned =
            (self.effect.is_empty() || self.effect == taint.effect) && (self.key.is_empty() || self.key == taint.key);
        let numbers = || Some((self.value.parse::<i64>().ok()?, taint.value.parse::<i64>().ok()?));
        concerned
            && match self.operator.as_str() {
                "" | "Equal" => self.value == taint.value,
                "Exists" => true,
                "Lt" => numbers().is_some_and(|(bound, value)| value < bound),
                "Gt" => numbers().is_some_and(|(bound, value)| value > bound),
                _ => false,
            }
    }
}

// === impl Traffic ===

impl Traffic {
    /// Starts the watches.
    pub fn start(client: &kube::Client, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        Self {
            services: Informer::builder(client.clone()).start(tasks, shutdown.clone()),
            slices: Informer::<EndpointSlice>::builder(client.clone())
                .index(SERVICE_NAME, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect())
                .start(tasks, shutdown.clone()),
            nodes: Informer::builder(client.clone()).start(tasks, shutdown.clone()),
        }
    }

    /// The EndpointSlices of a Service.
    pub fn slices_of(&self, service: &ObjectKey) -> Vec<std::sync::Arc<EndpointSlice>> {
        self.slices.by_index(SERVICE_NAME, &service.to_string())
    }
}

/// The Service that an EndpointSlice belongs to.
pub fn service_of(slice: &impl Projection) -> Option<ObjectKey> {
    let name = slice.meta().label(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.meta().namespace.clone(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations() {
        let taint = |value: &str| Taint { value: value.into(), ..Taint::new("k", "NoSchedule") };
        let cases = [
            ("k Equal v NoSchedule", "v", true),
            ("k - v -", "v", true),
            ("k Equal w NoSchedule", "v", false),
            ("k Exists - -", "v", true),
            ("- Exists - -", "v", true),
            ("k Exists - NoExecute", "v", false),
            ("x Exists - -", "v", false),
            ("k Bogus v -", "v", false),
            ("k Gt 5 -", "6", true),
            ("k Gt 5 -", "5", false),
            ("k Lt 5 -", "4", true),
            ("k Lt 5 -", "v", false),
        ];
        for (text, value, want) in cases {
            let mut fields = text.split(' ').map(|field| field.trim_matches('-').to_owned());
            let mut next = || fields.next().unwrap();
            let toleration =
                Toleration { key: next(), operator: next(), value: next(), effect: next(), ..Toleration::default() };
            assert_eq!(toleration.tolerates(&taint(value)), want, "{text} {value}");
        }
    }
}
