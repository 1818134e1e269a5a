//! What the controllers need to know of each kind.

use std::collections::BTreeMap;

pub(crate) use informer::kinds::{Condition, Node, Service, ServicePort, Taint, Toleration};
use informer::meta::null_is_default;
use informer::{Meta, projection};
use serde::{Deserialize, Serialize};
use serde_json::Value;

projection!(Pod, "", "v1", "pods");
projection!(Namespace, "", "v1", "namespaces");
projection!(ServiceAccount, "", "v1", "serviceaccounts");
projection!(ConfigMap, "", "v1", "configmaps");
projection!(Endpoints, "", "v1", "endpoints");
projection!(EndpointSlice, "discovery.k8s.io", "v1", "endpointslices");
projection!(Deployment, "apps", "v1", "deployments");
projection!(ReplicaSet, "apps", "v1", "replicasets");
projection!(ReplicationController, "", "v1", "replicationcontrollers");
projection!(Lease, "coordination.k8s.io", "v1", "leases");
projection!(Budget, "policy", "v1", "poddisruptionbudgets");
projection!(ClusterRole, "rbac.authorization.k8s.io", "v1", "clusterroles");

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) containers: Vec<Container>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) tolerations: Vec<Toleration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) restart_policy: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) container_port: u16,
    pub(crate) protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "null_is_default")]
    pub(crate) pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub(crate) restart_count: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub(crate) metadata: Meta,
    pub(crate) status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    pub(crate) phase: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceAccount {
    pub(crate) metadata: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigMap {
    pub(crate) metadata: Meta,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) data: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoints {
    pub(crate) metadata: Meta,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) subsets: Vec<Subset>,
}

/// Addresses of an [`Endpoints`] with the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Subset {
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<Address>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_ready_addresses: Vec<Address>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Address {
    pub(crate) ip: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) hostname: Box<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_ref: Option<TargetRef>,
}

/// What an address is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TargetRef {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) api_version: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) kind: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) namespace: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) name: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) uid: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) resource_version: Box<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) field_path: Box<str>,
}

/// One of an [`EndpointSlice`], with all its fields: there are many, and they are compared as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Endpoint {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: EndpointConditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_ref: Option<TargetRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deprecated_topology: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hints: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointConditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serving: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Meta,
    pub(crate) address_type: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) ports: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Deployment {
    pub(crate) metadata: Meta,
    pub(crate) spec: DeploymentSpec,
    pub(crate) status: DeploymentStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DeploymentSpec {
    pub(crate) replicas: Option<i64>,
    pub(crate) selector: Value,
    pub(crate) template: Value,
    pub(crate) strategy: Strategy,
    pub(crate) min_ready_seconds: i64,
    pub(crate) revision_history_limit: Option<i64>,
    pub(crate) paused: bool,
    pub(crate) progress_deadline_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Strategy {
    pub(crate) r#type: String,
    pub(crate) rolling_update: Option<RollingUpdate>,
}

/// Numbers, or percentages as text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RollingUpdate {
    pub(crate) max_unavailable: Value,
    pub(crate) max_surge: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DeploymentStatus {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i64,
    pub(crate) updated_replicas: i64,
    pub(crate) ready_replicas: i64,
    pub(crate) available_replicas: i64,
    pub(crate) unavailable_replicas: i64,
    pub(crate) terminating_replicas: Option<i64>,
    pub(crate) collision_count: Option<u32>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicaSet {
    pub(crate) metadata: Meta,
    pub(crate) spec: ReplicaSetSpec,
    pub(crate) status: ReplicaStatus,
}

/// Of ReplicationControllers too, whose selector is a plain map.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ReplicaSetSpec {
    pub(crate) replicas: Option<i64>,
    pub(crate) min_ready_seconds: i64,
    pub(crate) selector: Value,
    pub(crate) template: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ReplicaStatus {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i64,
    pub(crate) fully_labeled_replicas: i64,
    pub(crate) ready_replicas: i64,
    pub(crate) available_replicas: i64,
    pub(crate) terminating_replicas: Option<i64>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicationController {
    pub(crate) metadata: Meta,
    pub(crate) spec: ReplicaSetSpec,
    pub(crate) status: ReplicaStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    pub(crate) metadata: Meta,
    pub(crate) spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LeaseSpec {
    pub(crate) renew_time: Option<String>,
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Budget {
    pub(crate) metadata: Meta,
    pub(crate) spec: BudgetSpec,
}

/// Numbers, or percentages as text; at most one of them is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BudgetSpec {
    pub(crate) min_available: Option<Value>,
    pub(crate) max_unavailable: Option<Value>,
    pub(crate) selector: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClusterRole {
    pub(crate) metadata: Meta,
    pub(crate) aggregation_rule: Option<AggregationRule>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) rules: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct AggregationRule {
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) cluster_role_selectors: Vec<Value>,
}

impl Pod {
    /// Ended for good.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Counts as a replica: neither ended nor on its way out.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_terminal() && !self.metadata.is_deleting()
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == kind)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// Its addresses, the primary one first.
    pub(crate) fn ips(&self) -> impl Iterator<Item = &str> {
        let one = self.status.pod_ips.is_empty() && !self.status.pod_ip.is_empty();
        let all = self.status.pod_ips.iter().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty());
        one.then_some(self.status.pod_ip.as_str()).into_iter().chain(all)
    }
}
