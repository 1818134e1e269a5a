//! The escalation check on role and binding writes: nobody grants what they do not hold.

use apimachinery::status::Status;
use serde_json::Value;

use super::rbac::{BindingSpec, Kind, RoleSpec};
use super::rules::{Rule, uncovered};
use super::{Attributes, Authorizer};
use crate::auth::{MASTERS, User};

const GROUP: &str = "rbac.authorization.k8s.io";

impl Authorizer {
    /// Checks a create or update of a Role, ClusterRole, RoleBinding or ClusterRoleBinding. `old` is the object before
    /// an update; a write that leaves the rules, or the role reference and subjects, as they are needs no check.
    pub fn check_escalation(
        &self,
        user: &User,
        kind: Kind,
        namespace: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if user.in_group(MASTERS) {
            return Ok(());
        }
        let unchanged = |fields: &[&str]| old.is_some_and(|old| fields.iter().all(|field| old[field] == new[field]));
        match kind {
            Kind::Role | Kind::ClusterRole if unchanged(&["rules", "aggregationRule"]) => Ok(()),
            Kind::RoleBinding | Kind::ClusterRoleBinding if unchanged(&["roleRef", "subjects"]) => Ok(()),
            Kind::Role | Kind::ClusterRole => self.check_role(user, kind, namespace, new),
            Kind::RoleBinding | Kind::ClusterRoleBinding => self.check_binding(user, kind, namespace, new),
        }
    }

    fn check_role(&self, user: &User, kind: Kind, namespace: &str, new: &Value) -> Result<(), Status> {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if self.may(user, "escalate", kind.resource(), namespace, name) {
            return Ok(());
        }
        let spec = RoleSpec::read(new).map_err(|error| Status::bad_request(error.to_string()))?;
        // An aggregating role grants whatever its selectors will choose: only those who hold everything may make one.
        let aggregates = !new["aggregationRule"].is_null();
        let wanted = if aggregates { everything() } else { spec.rules.unwrap_or_default() };
        self.confirm(user, kind, namespace, name, &wanted, "")
    }

    fn check_binding(&self, user: &User, kind: Kind, namespace: &str, new: &Value) -> Result<(), Status> {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let spec = BindingSpec::read(new).map_err(|error| Status::bad_request(error.to_string()))?;
        let role_kind = if spec.role_ref.kind == "ClusterRole" { Kind::ClusterRole } else { Kind::Role };
        if self.may(user, "bind", role_kind.resource(), namespace, &spec.role_ref.name) {
            return Ok(());
        }
        let Some(wanted) = self.rbac().role_rules(&spec.role_ref, namespace) else {
            return Err(Status::not_found(GROUP, role_kind.resource(), &spec.role_ref.name));
        };
        self.confirm(user, kind, namespace, name, &wanted, "")
    }

    fn may(&self, user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        self.allowed(
            user,
            &Attributes {
                verb,
                group: GROUP,
                version: "v1",
                resource,
                namespace,
                name,
                is_resource: true,
                ..Attributes::default()
            },
        )
    }

    fn confirm(
        &self,
        user: &User,
        kind: Kind,
        namespace: &str,
        name: &str,
        wanted: &[Rule],
        hint: &str,
    ) -> Result<(), Status> {
        let owned = self.rbac().rules_for(user, namespace);
        let missing = uncovered(&owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = missing.iter().map(Rule::describe).collect();
        let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
        let message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}{hint}",
            user.name,
            groups.join(" "),
            listed.join("\n")
        );
        Err(Status::forbidden(GROUP, kind.resource(), name, message))
    }
}

fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}
