//! What the scheduler needs to know of pods and nodes.

use std::collections::BTreeMap;

pub use informer::kinds::{Condition, Taint, Toleration};
use informer::meta::null_is_default;
use informer::{Meta, projection};
use serde::Deserialize;

use crate::resources::{Ask, Resources, pod_requests};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: PodSpec,
    /// Observed state.
    pub status: PodStatus,
}

/// A pod's desired state.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it runs or is to run; empty if that is to be decided.
    pub node_name: String,
    /// Who decides.
    pub scheduler_name: String,
    /// Higher goes first.
    pub priority: i32,
    /// Whether it would take others' places: `PreemptLowerPriority` or `Never`.
    pub preemption_policy: String,
    /// Labels its node must have.
    #[serde(deserialize_with = "null_is_default")]
    pub node_selector: BTreeMap<String, String>,
    /// Further wishes.
    pub affinity: Option<Affinity>,
    /// Taints it bears.
    #[serde(deserialize_with = "null_is_default")]
    pub tolerations: Vec<Toleration>,
    /// Containers.
    #[serde(deserialize_with = "null_is_default")]
    pub containers: Vec<Container>,
    /// Init containers and sidecars.
    #[serde(deserialize_with = "null_is_default")]
    pub init_containers: Vec<Container>,
    /// What all containers together ask for, where that is said as a whole.
    pub resources: ContainerResources,
    /// What the sandbox itself needs.
    pub overhead: Resources,
    /// While there are any, the pod is not scheduled.
    #[serde(deserialize_with = "null_is_default")]
    pub scheduling_gates: Vec<Named>,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// A pod's observed state.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Phase.
    pub phase: String,
    /// Conditions.
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<Condition>,
    /// What containers have been given.
    #[serde(deserialize_with = "null_is_default")]
    pub container_statuses: Vec<ContainerStatus>,
    /// What init containers and sidecars have been given.
    #[serde(deserialize_with = "null_is_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// What was given as a whole.
    #[serde(deserialize_with = "null_is_default")]
    pub allocated_resources: Resources,
}

/// What a container has of its node, which a resize may have made another thing than what it asks for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// What the node has granted.
    pub allocated_resources: Resources,
    /// What it has by now.
    #[serde(deserialize_with = "null_is_default")]
    pub resources: ContainerResources,
}

/// Something with a name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Requests.
    pub resources: ContainerResources,
    /// Ports.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<Port>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: String,
}

/// A container's resources.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerResources {
    /// What it asks for.
    pub requests: Resources,
}

/// A container's port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// Port of the node, 0 for none.
    pub host_port: u16,
    /// Address of the node, empty for all.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// Protocol, empty for TCP.
    pub protocol: String,
}

/// Affinity, as far as it concerns nodes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Affinity {
    /// Affinity to nodes.
    pub node_affinity: Option<NodeAffinity>,
}

/// Which nodes a pod may have and which it likes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// One of the terms must match.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// Each matching term adds its weight.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_is_default")]
    pub preferred: Vec<PreferredTerm>,
}

/// Alternatives.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelector {
    /// Alternatives.
    #[serde(deserialize_with = "null_is_default")]
    pub node_selector_terms: Vec<NodeTerm>,
}

/// Requirements that must all be met; none at all match no node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeTerm {
    /// On labels.
    #[serde(deserialize_with = "null_is_default")]
    pub match_expressions: Vec<NodeRequirement>,
    /// On fields (`metadata.name`).
    #[serde(deserialize_with = "null_is_default")]
    pub match_fields: Vec<NodeRequirement>,
}

/// A term with a weight.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub preference: NodeTerm,
}

/// A requirement on a label or a field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeRequirement {
    /// Label or field.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    pub operator: String,
    /// Values.
    #[serde(deserialize_with = "null_is_default")]
    pub values: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: NodeSpec,
    /// Observed state.
    pub status: NodeStatus,
}

/// A node's desired state.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Closed for new pods.
    pub unschedulable: bool,
    /// Taints.
    #[serde(deserialize_with = "null_is_default")]
    pub taints: Vec<Taint>,
}

/// A node's observed state.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// What it can give to pods.
    pub allocatable: Resources,
    /// Images it has.
    #[serde(deserialize_with = "null_is_default")]
    pub images: Vec<Image>,
}

/// An image on a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Image {
    /// Its names.
    #[serde(deserialize_with = "null_is_default")]
    pub names: Vec<String>,
    /// Its size.
    pub size_bytes: i64,
}

projection!(Pod, "", "v1", "pods");

projection!(Node, "", "v1", "nodes");

impl Pod {
    /// What the pod asks of a node, a place for itself included.
    pub fn requests(&self) -> Resources {
        let infeasible = self.condition("PodResizePending").is_some_and(|condition| condition.reason == "Infeasible");
        let held = |container: &Container, statuses: &[ContainerStatus]| {
            let asked = &container.resources.requests;
            let Some(status) = statuses.iter().find(|status| status.name == container.name) else {
                return asked.clone();
            };
            let mut held = status.resources.requests.clone();
            held.max(&status.allocated_resources);
            // What a node cannot give is not held of it.
            if !infeasible || held == Resources::default() {
                held.max(asked);
            }
            held
        };
        let inits = self.spec.init_containers.iter().map(|container| Ask {
            requests: held(container, &self.status.init_container_statuses),
            restartable: container.restart_policy == "Always",
        });
        let containers = self.spec.containers.iter().map(|container| held(container, &self.status.container_statuses));
        let mut total = pod_requests(containers, inits);
        let whole = &self.spec.resources.requests;
        let mut granted = self.status.allocated_resources.clone();
        if !infeasible || granted == Resources::default() {
            granted.max(whole);
        }
        total.replace(&granted);
        total.add(&self.spec.overhead);
        Resources { pods: 1, ..total }
    }

    /// The node's ports it needs.
    pub fn host_ports(&self) -> impl Iterator<Item = &Port> {
        let sidecars = self.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
        sidecars.chain(&self.spec.containers).flat_map(|container| &container.ports).filter(|port| port.host_port != 0)
    }

    /// Whether it has ended and holds nothing of its node.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// A condition.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_holds_the_most_of_what_it_asks_for_was_granted_and_has() {
        let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let status = |granted: &str, has: &str| json!([{"name": "c", "allocatedResources": {"cpu": granted}, "resources": {"requests": {"cpu": has}}}]);
        let infeasible = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        let whole = |cpu: &str| json!({"requests": {"cpu": cpu}});
        for (asked, whole, statuses, conditions, held) in [
            ("300m", json!({}), json!([]), json!([]), 310),
            ("300m", json!({}), status("200m", "100m"), json!([]), 310),
            ("100m", json!({}), status("200m", "300m"), json!([]), 310),
            ("900m", json!({}), status("200m", "100m"), infeasible.clone(), 210),
            ("900m", json!({}), json!([]), infeasible, 910),
            ("300m", whole("500m"), json!([]), json!([]), 510),
        ] {
            let spec = json!({"containers": [container("c", asked)], "resources": whole, "overhead": {"cpu": "10m"}});
            let status = json!({"containerStatuses": statuses, "conditions": conditions});
            let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).unwrap();
            assert_eq!(pod.requests().milli_cpu, held, "{asked} {statuses}");
        }
    }
}
