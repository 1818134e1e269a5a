//! What the proxy reads of the cluster's objects.

use informer::{Meta, Projection};
use serde::Deserialize;

/// A Service, as far as it concerns translation.
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
    #[serde(rename = "type")]
    pub kind: String,
    /// First cluster address; `None` (the word) for headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// All cluster addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// More addresses that lead to this service.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `ClientIP` or `None`.
    pub session_affinity: String,
    /// How long affinity lasts.
    pub session_affinity_config: Option<AffinityConfig>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<String>,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    /// Matches the name of an endpoint's port.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port on the service's addresses.
    pub port: u16,
    /// Port on every node, or zero.
    pub node_port: u16,
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

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Slice {
    /// Identity and labels; one label names the service.
    pub metadata: Meta,
    /// IPv4, IPv6 or FQDN.
    pub address_type: String,
    /// Backends.
    #[serde(deserialize_with = "informer::meta::null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports that every endpoint here has.
    #[serde(deserialize_with = "informer::meta::null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// A backend of a [`Slice`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Equivalent addresses; only the first is used, as upstream does.
    pub addresses: Vec<String>,
    /// Whether it may be used.
    pub conditions: Conditions,
    /// Where it runs.
    pub node_name: Option<String>,
}

/// Conditions of an [`Endpoint`]; absent ones have upstream's defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// May be used; absent means yes.
    pub ready: Option<bool>,
    /// Answers, whether terminating or not; absent means as `ready`.
    pub serving: Option<bool>,
    /// Is being deleted; absent means no.
    pub terminating: Option<bool>,
}

/// A port of a [`Slice`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// Matches the name of a service's port; absent as empty.
    pub name: Option<String>,
    /// TCP where absent.
    pub protocol: Option<String>,
    /// Absent means every port, which no service port can use.
    pub port: Option<u16>,
}

/// A Node, for its addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Identity.
    pub metadata: Meta,
    /// Addresses.
    pub status: NodeStatus,
}

/// `status` of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Addresses.
    pub addresses: Vec<NodeAddress>,
}

/// An address of a [`Node`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

impl Projection for Service {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const RESOURCE: &'static str = "services";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Projection for Slice {
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const RESOURCE: &'static str = "endpointslices";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Projection for Node {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const RESOURCE: &'static str = "nodes";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
