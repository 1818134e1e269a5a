//! TaintNodesByCondition: a new node takes no pods before the node controller has seen it ready.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// The taint of nodes that are not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "nodes")
    }

    async fn admit(&self, _: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        let spec = &mut attributes.object["spec"];
        match spec.get_mut("taints").and_then(Value::as_array_mut) {
            Some(taints) => {
                let there = taints.iter().any(|one| one["key"] == taint["key"] && one["effect"] == taint["effect"]);
                if !there {
                    taints.push(taint);
                }
            }
            None => spec["taints"] = json!([taint]),
        }
        Ok(())
    }
}
