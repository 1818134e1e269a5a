//! Priority: a pod's class becomes its number.

use std::sync::Arc;

use apimachinery::meta;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;
use store::Entry;

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// The plugin.
pub(super) struct Priority;

/// What a class gives a pod.
struct Class {
    name: String,
    value: i64,
    preemption: String,
}

#[async_trait]
impl Plugin for Priority {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete && attributes.is("", "pods")
            || attributes.is("scheduling.k8s.io", "priorityclasses")
    }

    async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if attributes.resource != "pods" {
            return Ok(());
        }
        if let Some(old) = attributes.old {
            let (old, new) = (&old["spec"], &mut attributes.object["spec"]);
            for field in ["priority", "preemptionPolicy"] {
                if new[field].is_null() && !old[field].is_null() {
                    new[field] = old[field].clone();
                }
            }
            return Ok(());
        }
        let wanted = attributes.object["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
        let class = match wanted.as_str() {
            "" => default_class(registry).await?,
            name => match find(registry, name).await? {
                Some(class) => class,
                None => return Err(attributes.forbidden(format_args!("no PriorityClass with name {name} was found"))),
            },
        };
        let given = attributes.object["spec"]["priority"].as_i64();
        if let Some(given) = given.filter(|given| *given != class.value) {
            return Err(attributes.forbidden(format_args!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClassName",
                class.value
            )));
        }
        let given = attributes.object["spec"]["preemptionPolicy"].as_str().unwrap_or("").to_owned();
        if !given.is_empty() && given != class.preemption {
            return Err(attributes.forbidden(format_args!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClassName",
                class.preemption
            )));
        }
        let spec = &mut attributes.object["spec"];
        if !class.name.is_empty() {
            spec["priorityClassName"] = class.name.into();
        }
        spec["priority"] = class.value.into();
        spec["preemptionPolicy"] = class.preemption.into();
        Ok(())
    }

    async fn validate(&self, registry: &Registry, attributes: &Attributes<'_>) -> Result<(), Status> {
        if attributes.operation == Operation::Delete {
            return match system_value(&attributes.name) {
                Some(_) => Err(attributes.forbidden("this is a system priority class and cannot be deleted")),
                None => Ok(()),
            };
        }
        if attributes.resource == "pods" || attributes.object["globalDefault"] != true {
            return Ok(());
        }
        for entry in classes(registry).await? {
            if entry.name() != attributes.name && parse(&entry)?["globalDefault"] == true {
                return Err(attributes.forbidden(format_args!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    entry.name()
                )));
            }
        }
        Ok(())
    }
}

async fn classes(registry: &Registry) -> Result<Vec<Arc<Entry>>, Status> {
    let cache = registry.cache("scheduling.k8s.io", "priorityclasses").await?;
    Ok(cache.snapshot().range("", None).cloned().collect())
}

fn parse(entry: &Entry) -> Result<Value, Status> {
    serde_json::from_slice(&entry.bytes).map_err(Status::internal)
}

fn class(object: &Value) -> Class {
    Class {
        name: meta::name(object).to_owned(),
        value: object["value"].as_i64().unwrap_or(0),
        preemption: object["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned(),
    }
}

/// The value of a class of the system's own.
fn system_value(name: &str) -> Option<i64> {
    match name {
        "system-cluster-critical" => Some(2_000_000_000),
        "system-node-critical" => Some(2_000_001_000),
        _ => None,
    }
}

async fn find(registry: &Registry, name: &str) -> Result<Option<Class>, Status> {
    if let Some(value) = system_value(name) {
        return Ok(Some(Class { name: name.to_owned(), value, preemption: "PreemptLowerPriority".to_owned() }));
    }
    let cache = registry.cache("scheduling.k8s.io", "priorityclasses").await?;
    let key = registry.key("scheduling.k8s.io", "priorityclasses", "", name)?;
    cache.get(&key).map(|entry| Ok(class(&parse(&entry)?))).transpose()
}

/// The class marked as default, the lowest if there are several; else priority 0.
async fn default_class(registry: &Registry) -> Result<Class, Status> {
    let mut best: Option<Class> = None;
    for entry in classes(registry).await? {
        // The two built-in classes are no defaults.
        if entry.name().starts_with("system-") {
            continue;
        }
        let object = parse(&entry)?;
        let lower = |best: &Class| object["value"].as_i64().unwrap_or(0) < best.value;
        if object["globalDefault"] == true && best.as_ref().is_none_or(lower) {
            best = Some(class(&object));
        }
    }
    Ok(best.unwrap_or(Class { name: String::new(), value: 0, preemption: "PreemptLowerPriority".to_owned() }))
}
