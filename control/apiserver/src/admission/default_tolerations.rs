//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or unreachable.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plugin.
pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete && attributes.is("", "pods")
    }

    async fn admit(&self, _: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let spec = &mut attributes.object["spec"];
        if !spec["tolerations"].is_array() {
            spec["tolerations"] = json!([]);
        }
        let Some(tolerations) = spec["tolerations"].as_array_mut() else { return Ok(()) };
        let tolerates = |toleration: &Value, taint: &str| {
            let text = |key: &str| toleration.get(key).and_then(Value::as_str).unwrap_or("");
            (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
        };
        let missing: Vec<_> =
            TAINTS.into_iter().filter(|taint| !tolerations.iter().any(|one| tolerates(one, taint))).collect();
        for taint in missing {
            tolerations
                .push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
        Ok(())
    }
}
