//! The class that an object gets which names none: StorageClass for claims, IngressClass for Ingresses.

use apimachinery::meta;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// The plugin.
pub(super) struct DefaultClass;

/// Where a kind's class is named, and how the default one is marked.
struct Rule {
    of: (&'static str, &'static str),
    field: &'static str,
    /// The annotation that named the class before the field did.
    legacy: &'static str,
    class: (&'static str, &'static str),
    mark: &'static str,
}

const RULES: [Rule; 2] = [
    Rule {
        of: ("", "persistentvolumeclaims"),
        field: "storageClassName",
        legacy: "volume.beta.kubernetes.io/storage-class",
        class: ("storage.k8s.io", "storageclasses"),
        mark: "storageclass.kubernetes.io/is-default-class",
    },
    Rule {
        of: ("networking.k8s.io", "ingresses"),
        field: "ingressClassName",
        legacy: "kubernetes.io/ingress.class",
        class: ("networking.k8s.io", "ingressclasses"),
        mark: "ingressclass.kubernetes.io/is-default-class",
    },
];

#[async_trait]
impl Plugin for DefaultClass {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && RULES.iter().any(|rule| attributes.is(rule.of.0, rule.of.1))
    }

    async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(rule) = RULES.iter().find(|rule| attributes.is(rule.of.0, rule.of.1)) else { return Ok(()) };
        let object = &mut attributes.object;
        // The empty name asks for no class at all.
        if !object["spec"][rule.field].is_null() || meta::annotation(object, rule.legacy).is_some() {
            return Ok(());
        }
        let cache = registry.cache(rule.class.0, rule.class.1).await?;
        let mut best: Option<Value> = None;
        for entry in cache.snapshot().range("", None) {
            let class: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
            // The newest of several defaults; the first by name where they are of one age.
            let newer = |best: &Value| meta::creation_timestamp(&class) > meta::creation_timestamp(best);
            if meta::annotation(&class, rule.mark) == Some("true") && best.as_ref().is_none_or(newer) {
                best = Some(class);
            }
        }
        if let Some(class) = best {
            object["spec"][rule.field] = meta::name(&class).into();
        }
        Ok(())
    }
}
