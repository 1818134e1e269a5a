//! Who may do what: the decision that every request needs before it reaches the registry.
//!
//! [`Authorizer`] asks, in this order: is it `system:masters`, is it a node asking for what its pods need, does RBAC
//! allow it. Its indexes follow the registry's watch caches; nothing is listed per request.

pub mod bootstrap;
mod escalation;
mod feed;
mod node;
mod rbac;
pub mod reviews;
mod rules;

use std::sync::{OnceLock, PoisonError, RwLock};

use apimachinery::status::Status;

use crate::auth::{MASTERS, User};
use feed::Feed;
pub use node::{NODES_GROUP, node_name};
use node::{NodeIndex, Opinion};
pub use rbac::Kind;
use rbac::Rbac;
pub use rules::Rule;

/// What a user wants to do, as the authorizers see it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// The verb in lower case (`get`, `list`, `impersonate`, …).
    pub verb: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource's plural; empty for a path outside the API.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name, or empty.
    pub name: &'a str,
    /// The URL's path.
    pub path: &'a str,
    /// Whether this concerns an API resource rather than a bare path.
    pub is_resource: bool,
    /// The raw field selector of a list or watch, or empty.
    pub field_selector: &'a str,
}

/// Proof that a request was authorised. Only the authorizer can make one, and the registry asks for it.
#[derive(Debug)]
pub struct Authorized {
    _private: (),
}

/// An answer with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why; often empty.
    pub reason: String,
}

/// Decides by Node rules and RBAC, from indexes that follow the registry's caches.
#[derive(Default)]
pub struct Authorizer {
    rbac: RwLock<Rbac>,
    nodes: NodeIndex,
    feeds: OnceLock<Vec<Feed>>,
    /// What every node may do besides, whatever its pods.
    node_rules: Vec<Rule>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

impl Authorizer {
    /// An authorizer that knows no roles yet: until it follows the caches, only `system:masters` may do anything.
    pub fn new() -> Self {
        Self { node_rules: bootstrap::node_rules(), ..Self::default() }
    }

    /// Decides a request.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<Authorized, Status> {
        let decision = self.decide(user, attributes);
        if decision.allowed {
            Ok(Authorized { _private: () })
        } else {
            Err(forbidden(user, attributes, &decision.reason))
        }
    }

    /// Whether `user` may do this; for checks beside the request's own (create on update, `bind`, `escalate`, …).
    pub fn allowed(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        self.decide(user, attributes).allowed
    }

    /// Decides, with the reason for a refusal.
    pub fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let first = self.decide_now(user, attributes);
        if first.allowed {
            return first;
        }
        // Grants made by an acknowledged write hold at once, even if the feeding task has not run yet. It may have since the
        // first look: whether there was anything to catch up with says nothing.
        let Some(feeds) = self.feeds.get() else { return first };
        feeds.iter().for_each(|feed| feed.catch_up(self));
        self.decide_now(user, attributes)
    }

    /// All RBAC rules that hold for a user in a namespace.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.rbac().rules_for(user, namespace)
    }

    fn decide_now(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let mut reasons = Vec::new();
        match self.nodes.decide(user, attributes) {
            Opinion::Allow => return Decision { allowed: true, reason: String::new() },
            Opinion::Static if self.node_rules.iter().any(|rule| rule.allows(attributes)) => {
                return Decision { allowed: true, reason: String::new() };
            }
            Opinion::Refuse(why) => reasons.push(why),
            Opinion::Static | Opinion::NotANode => {}
        }
        let rbac = self.rbac();
        if rbac.allows(user, attributes) {
            return Decision { allowed: true, reason: String::new() };
        }
        reasons.extend(rbac.missing_roles(user, attributes.namespace));
        Decision { allowed: false, reason: reasons.join("\n") }
    }

    fn rbac(&self) -> std::sync::RwLockReadGuard<'_, Rbac> {
        self.rbac.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The 403 for a refused request, in upstream's words.
pub fn forbidden(user: &User, a: &Attributes<'_>, reason: &str) -> Status {
    let name = &user.name;
    let mut message = if a.is_resource {
        let resource =
            if a.subresource.is_empty() { a.resource.to_owned() } else { format!("{}/{}", a.resource, a.subresource) };
        let what = format!("User {name:?} cannot {} resource {resource:?} in API group {:?}", a.verb, a.group);
        if a.namespace.is_empty() {
            format!("{what} at the cluster scope")
        } else {
            format!("{what} in the namespace {:?}", a.namespace)
        }
    } else {
        format!("User {name:?} cannot {} path {:?}", a.verb, a.path)
    };
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    Status::forbidden(a.group, if a.is_resource { a.resource } else { "" }, a.name, message)
}

#[cfg(test)]
mod tests;
