//! The admission chain that every write passes: plugins that change an object first, then plugins that refuse it.
//!
//! A plugin is one file here and one line in [`Chain::new`], whose order is the order of the calls.

mod certificates;
mod default_class;
mod default_tolerations;
mod escalation;
mod namespace_lifecycle;
mod priority;
mod runtime_class;
mod service_account;
mod taint_nodes;

use apimachinery::meta;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::auth::User;
use crate::authz::Authorizer;
use crate::registry::Registry;
use crate::request::Warnings;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
}

/// One write, as plugins see it.
pub(crate) struct Attributes<'a> {
    /// What is done.
    pub(crate) operation: Operation,
    /// The resource's group.
    pub(crate) group: &'a str,
    /// The plural.
    pub(crate) resource: &'a str,
    /// The subresource, or empty.
    pub(crate) subresource: &'a str,
    /// The namespace, empty for cluster scope.
    pub(crate) namespace: &'a str,
    /// The object's name; empty where it is still to be generated.
    pub(crate) name: String,
    /// The object as it is to be; null for deletions.
    pub(crate) object: Value,
    /// The object as it is; none for creations.
    pub(crate) old: Option<&'a Value>,
    /// Whether nothing will be written.
    #[expect(dead_code, reason = "webhooks and quota will look at it")]
    pub(crate) dry_run: bool,
    /// Who asks.
    pub(crate) user: &'a User,
    /// Decides what the user may do beside; none for the server's own writes, which may do anything.
    pub(crate) authorizer: Option<&'a Authorizer>,
    /// For the client.
    #[expect(dead_code, reason = "PodSecurity and webhooks will warn")]
    pub(crate) warnings: &'a Warnings,
}

impl Attributes<'_> {
    /// Whether this concerns a resource itself (not a subresource).
    pub(crate) fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.of(group, resource)
    }

    /// Whether this concerns a resource or one of its subresources.
    pub(crate) fn of(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// 403 for this request.
    pub(crate) fn forbidden(&self, message: impl std::fmt::Display) -> Status {
        let generated = meta::generate_name(&self.object);
        let name = [&self.name, generated].into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown");
        Status::forbidden(self.group, self.resource, name, message)
    }
}

/// An admission plugin.
#[async_trait]
pub(crate) trait Plugin: Send + Sync {
    /// Whether the plugin has anything to say to such a request: a quick look before the call.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// Changes the object, or refuses the request.
    async fn admit(&self, _registry: &Registry, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the request; the object is as it would be written.
    async fn validate(&self, _registry: &Registry, _attributes: &Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// All plugins, in order.
pub(crate) struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The plugins that are on by default.
    pub(crate) fn new() -> Self {
        Self {
            plugins: vec![
                Box::new(namespace_lifecycle::NamespaceLifecycle),
                Box::new(service_account::ServiceAccount),
                Box::new(taint_nodes::TaintNodesByCondition),
                Box::new(priority::Priority),
                Box::new(default_tolerations::DefaultTolerationSeconds),
                Box::new(runtime_class::RuntimeClass),
                Box::new(default_class::DefaultClass),
                Box::new(certificates::Certificates),
                Box::new(escalation::Escalation),
            ],
        }
    }

    /// Runs the plugins that change objects.
    pub(crate) async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.plugins {
            if plugin.handles(attributes) {
                plugin.admit(registry, attributes).await?;
            }
        }
        Ok(())
    }

    /// Runs the plugins that refuse.
    pub(crate) async fn validate(&self, registry: &Registry, attributes: &Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.plugins {
            if plugin.handles(attributes) {
                plugin.validate(registry, attributes).await?;
            }
        }
        Ok(())
    }
}
