//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going; some namespaces stay.

use apimachinery::status::Status;
use async_trait::async_trait;

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

/// The cause by which clients recognise it.
const TERMINATING: &str = "NamespaceTerminating";

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The plugin.
pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        let on_namespace = attributes.group.is_empty() && attributes.resource == "namespaces";
        match attributes.operation {
            Operation::Delete => on_namespace && IMMORTAL.contains(&&*attributes.name),
            Operation::Create | Operation::Update => {
                !on_namespace
                    && !attributes.namespace.is_empty()
                    && (attributes.group, attributes.resource) != ("authorization.k8s.io", "localsubjectaccessreviews")
            }
        }
    }

    async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if attributes.operation == Operation::Delete {
            return Err(attributes.forbidden("this namespace may not be deleted"));
        }
        let name = attributes.namespace;
        // An acknowledged write is in the cache, so a namespace that was just made is there.
        let cache = registry.cache("", "namespaces").await?;
        let key = registry.key("", "namespaces", "", name)?;
        let entry = cache.get(&key).ok_or_else(|| Status::not_found("", "namespaces", name))?;
        if attributes.operation == Operation::Update || entry.field("status.phase") != Some("Terminating") {
            return Ok(());
        }
        let refused = attributes
            .forbidden(format_args!("unable to create new content in namespace {name} because it is being terminated"));
        Err(refused.with_cause(TERMINATING, format!("namespace {name} is being terminated"), "metadata.namespace"))
    }
}
