//! Who may do what: the decision that every request needs before it reaches the registry.

use crate::auth::User;

/// What a user wants to do, as the authorizers see it.
#[derive(Debug, Clone, Copy)]
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

/// Decides by Node rules and RBAC, from indexes that follow the registry's caches.
#[derive(Debug, Default)]
pub struct Authorizer {
    _private: (),
}

impl Authorizer {
    /// Whether `user` may do this; used for checks beside the request's own (create on update, `bind`, `escalate`, …).
    pub fn allowed(&self, user: &User, _attributes: &Attributes<'_>) -> bool {
        user.in_group(crate::auth::MASTERS)
    }
}
