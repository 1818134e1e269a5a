//! The RBAC index: roles by name and bindings by subject. Plain and synchronous: apply and delete change it, decisions
//! read it; the watch caches feed it (see `feed.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::Attributes;
use super::rules::Rule;
use crate::auth::User;

/// The four kinds the index is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ClusterRole
    ClusterRole,
    /// ClusterRoleBinding
    ClusterRoleBinding,
    /// Role
    Role,
    /// RoleBinding
    RoleBinding,
}

impl Kind {
    /// All kinds, roles first so that bindings find them.
    pub const ALL: [Kind; 4] = [Kind::ClusterRole, Kind::Role, Kind::ClusterRoleBinding, Kind::RoleBinding];

    /// The resource's plural.
    pub fn resource(self) -> &'static str {
        match self {
            Kind::ClusterRole => "clusterroles",
            Kind::ClusterRoleBinding => "clusterrolebindings",
            Kind::Role => "roles",
            Kind::RoleBinding => "rolebindings",
        }
    }

    /// The kind of a plural.
    pub fn of(resource: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.resource() == resource)
    }
}

/// The parts of a Role or ClusterRole that decide.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RoleSpec {
    metadata: RoleMeta,
    pub(crate) rules: Option<Vec<Rule>>,
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RoleMeta {
    labels: Option<HashMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AggregationRule {
    cluster_role_selectors: Vec<Value>,
}

/// The parts of a RoleBinding or ClusterRoleBinding that decide.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BindingSpec {
    pub(crate) role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

/// What a binding grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub(crate) kind: String,
    /// The role's name.
    pub(crate) name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl RoleSpec {
    pub(crate) fn read(object: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(object)
    }
}

impl BindingSpec {
    pub(crate) fn read(object: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(object)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

impl Subject {
    fn who(&self, namespace: &str) -> Option<Who> {
        match self.kind.as_str() {
            "User" => Some(Who::User(self.name.clone())),
            "Group" => Some(Who::Group(self.name.clone())),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { namespace } else { &self.namespace };
                Some(Who::User(format!("system:serviceaccount:{namespace}:{}", self.name)))
            }
            _ => None,
        }
    }
}

/// One binding as its subjects see it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    binding: String,
    role: RoleRef,
}

#[derive(Debug, Default)]
struct Scope {
    /// Bindings by whom they grant to. Users and groups apart, so that look-ups need no allocation.
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
    /// The subjects of each binding, for its removal.
    subjects: HashMap<String, Vec<Who>>,
    /// Roles of this namespace; cluster roles in the cluster's scope.
    roles: HashMap<String, Arc<Role>>,
}

#[derive(Debug)]
struct Role {
    rules: Vec<Rule>,
    labels: Value,
    selectors: Vec<apimachinery::selector::LabelSelector>,
}

impl Scope {
    fn grants_to<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let by_name = self.users.get(&user.name).into_iter().flatten();
        by_name.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }

    fn unbind(&mut self, binding: &str) {
        for who in self.subjects.remove(binding).unwrap_or_default() {
            let (map, key) = match &who {
                Who::User(name) => (&mut self.users, name),
                Who::Group(name) => (&mut self.groups, name),
            };
            if let Some(grants) = map.get_mut(key) {
                grants.retain(|grant| grant.binding != binding);
                if grants.is_empty() {
                    map.remove(key);
                }
            }
        }
    }

    fn bind(&mut self, binding: &str, namespace: &str, spec: BindingSpec) {
        self.unbind(binding);
        let mut whos: Vec<Who> = Vec::new();
        for who in spec.subjects.unwrap_or_default().iter().filter_map(|subject| subject.who(namespace)) {
            if whos.contains(&who) {
                continue;
            }
            let grant = Grant { binding: binding.to_owned(), role: spec.role_ref.clone() };
            match &who {
                Who::User(name) => self.users.entry(name.clone()).or_default().push(grant),
                Who::Group(name) => self.groups.entry(name.clone()).or_default().push(grant),
            }
            whos.push(who);
        }
        self.subjects.insert(binding.to_owned(), whos);
    }

    fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.roles.is_empty()
    }
}

/// Roles and bindings, indexed for decisions.
#[derive(Debug, Default)]
pub(crate) struct Rbac {
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

impl Rbac {
    /// Adds or replaces an object. One that does not parse grants nothing; the reason is returned.
    pub(crate) fn apply(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), serde_json::Error> {
        self.delete(kind, namespace, name);
        match kind {
            Kind::ClusterRole | Kind::Role => {
                let spec: RoleSpec = serde_json::from_slice(bytes)?;
                let role = Arc::new(Role {
                    rules: spec.rules.unwrap_or_default(),
                    labels: spec.metadata.labels.map_or(Value::Null, |labels| serde_json::json!(labels)),
                    selectors: spec
                        .aggregation_rule
                        .map(|rule| rule.cluster_role_selectors)
                        .unwrap_or_default()
                        .iter()
                        .filter_map(|selector| apimachinery::selector::LabelSelector::from_object(selector).ok())
                        .collect(),
                });
                self.scope(namespace).roles.insert(name.to_owned(), role);
            }
            Kind::ClusterRoleBinding | Kind::RoleBinding => {
                let spec: BindingSpec = serde_json::from_slice(bytes)?;
                self.scope(namespace).bind(name, namespace, spec);
            }
        }
        Ok(())
    }

    /// Forgets all objects of a kind.
    pub(crate) fn clear(&mut self, kind: Kind) {
        let namespaced = matches!(kind, Kind::Role | Kind::RoleBinding);
        let scopes: Vec<&mut Scope> =
            if namespaced { self.namespaces.values_mut().collect() } else { vec![&mut self.cluster] };
        for scope in scopes {
            match kind {
                Kind::ClusterRole | Kind::Role => scope.roles.clear(),
                Kind::ClusterRoleBinding | Kind::RoleBinding => {
                    scope.users.clear();
                    scope.groups.clear();
                    scope.subjects.clear();
                }
            }
        }
    }

    /// Removes an object.
    pub(crate) fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let scope = self.scope(namespace);
        match kind {
            Kind::ClusterRole | Kind::Role => {
                scope.roles.remove(name);
            }
            Kind::ClusterRoleBinding | Kind::RoleBinding => scope.unbind(name),
        }
        if !namespace.is_empty() && scope.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    fn scope(&mut self, namespace: &str) -> &mut Scope {
        if namespace.is_empty() { &mut self.cluster } else { self.namespaces.entry(namespace.to_owned()).or_default() }
    }

    /// Whether the roles bound to `user` allow this.
    pub(crate) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        self.any_rule(user, attributes.namespace, |rule| rule.allows(attributes))
    }

    /// What a refusal says of roles that are granted to `user` and do not exist.
    pub(crate) fn missing_roles(&self, user: &User, namespace: &str) -> Option<String> {
        let there = self.namespaces.get(namespace).into_iter().flat_map(|scope| scope.grants_to(user));
        let mut missing: Vec<String> = Vec::new();
        for role in self.cluster.grants_to(user).chain(there).map(|grant| &grant.role) {
            let said = format!("{}.rbac.authorization.k8s.io {:?} not found", role.kind.to_lowercase(), role.name);
            if self.find_role(role, namespace).is_none() && !missing.contains(&said) {
                missing.push(said);
            }
        }
        match missing.as_slice() {
            [] => None,
            [one] => Some(format!("RBAC: {one}")),
            several => Some(format!("RBAC: [{}]", several.join(", "))),
        }
    }

    /// All rules that hold for `user` in a namespace (cluster-wide ones included).
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        self.any_rule(user, namespace, |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules that a role reference grants in a namespace; `None` if there is no such role.
    pub(crate) fn role_rules(&self, role: &RoleRef, namespace: &str) -> Option<Vec<Rule>> {
        let found = self.find_role(role, namespace)?;
        let mut rules = Vec::new();
        self.visit(found, &mut |rule| {
            rules.push(rule.clone());
            false
        });
        Some(rules)
    }

    fn any_rule(&self, user: &User, namespace: &str, mut check: impl FnMut(&Rule) -> bool) -> bool {
        for grant in self.cluster.grants_to(user) {
            if let Some(role) = self.cluster.roles.get(&grant.role.name)
                && self.visit(role, &mut check)
            {
                return true;
            }
        }
        let Some(scope) = (!namespace.is_empty()).then(|| self.namespaces.get(namespace)).flatten() else {
            return false;
        };
        scope
            .grants_to(user)
            .any(|grant| self.find_role(&grant.role, namespace).is_some_and(|role| self.visit(role, &mut check)))
    }

    fn find_role(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<Role>> {
        if role.kind == "ClusterRole" {
            self.cluster.roles.get(&role.name)
        } else {
            self.namespaces.get(namespace)?.roles.get(&role.name)
        }
    }

    /// Offers a role's rules until `check` is satisfied. An aggregated role also has the rules of the ClusterRoles that
    /// its selectors choose, at once and not only after a controller has copied them.
    fn visit(&self, role: &Role, check: &mut impl FnMut(&Rule) -> bool) -> bool {
        if role.rules.iter().any(&mut *check) {
            return true;
        }
        if role.selectors.is_empty() {
            return false;
        }
        self.aggregated(role).any(|part| part.rules.iter().any(&mut *check))
    }

    /// The ClusterRoles behind an aggregated one, through any chain of aggregation.
    fn aggregated<'a>(&'a self, role: &'a Role) -> impl Iterator<Item = &'a Role> {
        let mut found: Vec<&Role> = vec![role];
        let mut next = 0;
        while let Some(current) = found.get(next).copied() {
            next += 1;
            for candidate in self.cluster.roles.values().map(|role| &**role) {
                if !found.iter().any(|known| std::ptr::eq(*known, candidate))
                    && current.selectors.iter().any(|selector| selector.matches_map(&candidate.labels))
                {
                    found.push(candidate);
                }
            }
        }
        found.into_iter().skip(1)
    }
}
