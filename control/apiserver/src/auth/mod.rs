//! Who asks: identities and the ways to prove them.

pub(crate) mod authenticate;
pub(crate) mod impersonate;
pub mod tokens;
pub(crate) mod x509;

use std::collections::BTreeMap;

/// Everyone who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user name of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do anything.
pub const MASTERS: &str = "system:masters";

/// An authenticated identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user's name, as RBAC subjects give it.
    pub name: String,
    /// The uid of the backing object; empty where there is none.
    pub uid: String,
    /// The user's groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts about the login.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user known to this process, with `system:authenticated` added to its groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// Whether the user belongs to a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
