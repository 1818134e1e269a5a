//! Roles and their bindings.

use super::Strategy;
use super::tools::{Problems, default_to, each_mut, empty, indexed, label_selector, named, some, supported, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The strategy of Roles and ClusterRoles.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) cluster: bool,
}

impl Strategy for Role {
    fn validate(&self, role: &Value) -> Problems {
        let mut problems = Vec::new();
        for (path, rule) in indexed(role, "rules", &Path::root()) {
            self.rule(&path, rule, &mut problems);
        }
        if let Some(aggregation) = some(role, "aggregationRule") {
            let path = Path::new("aggregationRule");
            if empty(aggregation, "clusterRoleSelectors") {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                problems.push(FieldError::required(&path.child("clusterRoleSelectors"), detail));
            }
            for (path, selector) in indexed(aggregation, "clusterRoleSelectors", &path) {
                label_selector(&path, selector, &mut problems);
            }
        }
        problems
    }
}

impl Role {
    fn rule(&self, path: &Path, rule: &Value, problems: &mut Problems) {
        if empty(rule, "verbs") {
            problems.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !empty(rule, "nonResourceURLs") {
            let at = path.child("nonResourceURLs");
            if !self.cluster {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                problems.push(FieldError::invalid(&at, rule["nonResourceURLs"].clone(), detail));
            }
            if !empty(rule, "apiGroups") || !empty(rule, "resources") || !empty(rule, "resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                problems.push(FieldError::invalid(&at, rule["nonResourceURLs"].clone(), detail));
            }
            return;
        }
        if empty(rule, "apiGroups") {
            let detail = "resource rules must supply at least one api group";
            problems.push(FieldError::required(&path.child("apiGroups"), detail));
        }
        if empty(rule, "resources") {
            let detail = "resource rules must supply at least one resource";
            problems.push(FieldError::required(&path.child("resources"), detail));
        }
    }
}

/// The strategy of RoleBindings and ClusterRoleBindings.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) cluster: bool,
}

impl Strategy for Binding {
    fn defaults(&self, binding: &mut Value) {
        if let Some(role) = binding.get_mut("roleRef") {
            default_to(role, "apiGroup", GROUP);
        }
        each_mut(binding, "subjects", |subject| {
            let group = if text(subject, "kind") == "ServiceAccount" { "" } else { GROUP };
            if !group.is_empty() {
                default_to(subject, "apiGroup", group);
            }
        });
    }

    fn validate(&self, binding: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("roleRef");
        let role = &binding["roleRef"];
        supported(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP], &mut problems);
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        supported(&path.child("kind"), text(role, "kind"), kinds, &mut problems);
        let name = text(role, "name");
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        } else {
            problems.extend(named(&path.child("name"), name, names::is_path_segment_name(name)));
        }
        for (path, subject) in indexed(binding, "subjects", &Path::root()) {
            self.subject(&path, subject, &mut problems);
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        if new.get("roleRef") != old.get("roleRef") {
            let value = new.get("roleRef").cloned().unwrap_or(Value::Null);
            problems.push(FieldError::invalid(&Path::new("roleRef"), value, "cannot change roleRef"));
        }
        problems
    }
}

impl Binding {
    fn subject(&self, path: &Path, subject: &Value, problems: &mut Problems) {
        if empty(subject, "name") {
            problems.push(FieldError::required(&path.child("name"), ""));
        }
        let (kind, group, name) = (text(subject, "kind"), text(subject, "apiGroup"), text(subject, "name"));
        match kind {
            "ServiceAccount" => {
                if !name.is_empty() {
                    problems.extend(named(&path.child("name"), name, names::is_dns1123_subdomain(name)));
                }
                if !group.is_empty() {
                    problems.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
                }
                // One in a namespace is of that namespace where it does not say.
                if self.cluster && empty(subject, "namespace") {
                    problems.push(FieldError::required(&path.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if name.is_empty() {
                    let detail = format!("{} name cannot be empty", kind.to_lowercase());
                    problems.push(FieldError::invalid(&path.child("name"), name, detail));
                }
                supported(&path.child("apiGroup"), group, &[GROUP], problems);
            }
            other => problems.push(FieldError::not_supported(
                &path.child("kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(problems: &Problems) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn roles() {
        let role = json!({ "rules": [{ "apiGroups": [""], "resources": ["pods"] }] });
        let problems = Role { cluster: false }.validate(&role);
        assert_eq!(said(&problems), ["rules[0].verbs: Required value: verbs must contain at least one value"]);
    }

    #[test]
    fn bindings() {
        let mut binding = json!({
            "roleRef": { "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "kind": "User", "name": "jane" }, { "kind": "ServiceAccount", "name": "a" }],
        });
        let strategy = Binding { cluster: true };
        strategy.defaults(&mut binding);
        assert_eq!(said(&strategy.validate(&binding)), ["subjects[1].namespace: Required value"]);
        let strategy = Binding { cluster: false };
        assert_eq!(said(&strategy.validate(&binding)), Vec::<String>::new());
        let mut other = binding.clone();
        other["roleRef"]["name"] = "edit".into();
        assert!(
            said(&strategy.validate_update(&other, &binding))
                .iter()
                .any(|line| line.ends_with("cannot change roleRef"))
        );
    }
}
