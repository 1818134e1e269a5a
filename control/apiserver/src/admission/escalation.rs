//! RBAC escalation: nobody grants what they do not hold.

use apimachinery::status::Status;
use async_trait::async_trait;

use super::{Attributes, Operation, Plugin};
use crate::authz::Kind;
use crate::registry::Registry;

/// The plugin.
pub(super) struct Escalation;

#[async_trait]
impl Plugin for Escalation {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete && attributes.group == "rbac.authorization.k8s.io"
    }

    async fn validate(&self, _registry: &Registry, attributes: &Attributes<'_>) -> Result<(), Status> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.resource() == attributes.resource);
        let (Some(kind), Some(authorizer)) = (kind, attributes.authorizer) else { return Ok(()) };
        authorizer.check_escalation(attributes.user, kind, attributes.namespace, &attributes.object, attributes.old)
    }
}
