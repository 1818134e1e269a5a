//! RuntimeClass: what a pod's runtime costs and where it is to be found.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// The plugin.
pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
    }

    async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let spec = &attributes.object["spec"];
        let Some(name) = spec["runtimeClassName"].as_str().filter(|name| !name.is_empty()) else {
            return match spec["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty()) {
                true => Err(attributes
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
                false => Ok(()),
            };
        };
        let cache = registry.cache("node.k8s.io", "runtimeclasses").await?;
        let key = registry.key("node.k8s.io", "runtimeclasses", "", name)?;
        let Some(entry) = cache.get(&key) else {
            return Err(attributes.forbidden(format_args!("pod rejected: RuntimeClass {name:?} not found")));
        };
        let class: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
        let merged = merge(&mut attributes.object["spec"], &class);
        merged.map_err(|why| attributes.forbidden(format_args!("pod rejected: {why}")))
    }
}

/// Gives a pod its class's overhead and scheduling.
fn merge(spec: &mut Value, class: &Value) -> Result<(), String> {
    let (wanted, given) = (&class["overhead"]["podFixed"], &spec["overhead"]);
    if !given.is_null() && given != wanted {
        return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    if !wanted.is_null() {
        spec["overhead"] = wanted.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = &spec["nodeSelector"][key];
        if !own.is_null() && own != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            ));
        }
        spec["nodeSelector"][key] = value.clone();
    }
    let extra = class["scheduling"]["tolerations"].as_array().cloned().unwrap_or_default();
    if extra.is_empty() {
        return Ok(());
    }
    let mut all = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for toleration in extra {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    spec["tolerations"] = all.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_takes_what_its_class_says() {
        let toleration = json!({"key": "a", "operator": "Exists"});
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"x": "y"}, "tolerations": [toleration]}});
        let mut spec = json!({"nodeSelector": {"a": "b"}, "tolerations": [toleration]});
        merge(&mut spec, &class).unwrap();
        assert_eq!(
            spec,
            json!({"overhead": {"cpu": "10m"}, "nodeSelector": {"a": "b", "x": "y"}, "tolerations": [toleration]})
        );
        for spec in [json!({"overhead": {"cpu": "1"}}), json!({"nodeSelector": {"x": "z"}})] {
            assert!(merge(&mut spec.clone(), &class).is_err(), "{spec}");
        }
        let mut plain = json!({});
        merge(&mut plain, &json!({"handler": "h"})).unwrap();
        assert_eq!(plain, json!({}));
    }
}
