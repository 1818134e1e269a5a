//! Reads the policy file (its format is described at its head).

use serde_json::{Value, json};

use super::{AUTOUPDATE, Default, Kind, rule_value};
use crate::authz::rules::Rule;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A line that does not fit the format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct PolicyError {
    line: usize,
    problem: &'static str,
}

/// Parses the whole file.
pub(super) fn parse(text: &str) -> Result<Vec<Default>, PolicyError> {
    let mut objects: Vec<Default> = Vec::new();
    let mut role = None;
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fail = |problem| PolicyError { line: number + 1, problem };
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["clusterrole", name] => role = Some(push(&mut objects, Kind::ClusterRole, "", name)),
            ["controller", name] => {
                let full = format!("system:controller:{name}");
                role = Some(push(&mut objects, Kind::ClusterRole, "", &full));
                let subject = format!("sa:kube-system/{name}");
                let binding = bind(Kind::ClusterRoleBinding, "", &full, (Kind::ClusterRole, &full), &[&subject]);
                objects.push(binding.ok_or(fail("bad subject"))?);
            }
            ["role", namespace, name] => role = Some(push(&mut objects, Kind::Role, namespace, name)),
            ["rolebinding", namespace, name, target, subjects @ ..] => {
                let binding = bind(Kind::RoleBinding, namespace, name, (Kind::Role, target), subjects);
                objects.push(binding.ok_or(fail("bad subject"))?);
            }
            words => {
                let at = role.ok_or(fail("nothing to add this to"))?;
                add(&mut objects, at, words).ok_or(fail("not understood"))?;
            }
        }
    }
    Ok(objects)
}

fn add(objects: &mut Vec<Default>, at: usize, words: &[&str]) -> Option<()> {
    let role = objects.get_mut(at)?;
    let label = |name: &str| format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    match words {
        ["aggregate-to", name] => role.object["metadata"]["labels"][label(name)] = json!("true"),
        ["aggregates", name] => {
            role.object["aggregationRule"] =
                json!({ "clusterRoleSelectors": [{ "matchLabels": { label(name): "true" } }] });
        }
        ["events"] => add_rule(role, &["create,patch,update", "core,events.k8s.io", "events"])?,
        ["urls", verbs, paths @ ..] => {
            let rule = Rule {
                verbs: list(verbs),
                non_resource_urls: paths.iter().map(|path| (*path).to_owned()).collect(),
                ..Rule::default()
            };
            role.object["rules"].as_array_mut()?.push(rule_value(&rule));
        }
        ["bind", subjects @ ..] => {
            let kind = if role.kind == Kind::Role { Kind::RoleBinding } else { Kind::ClusterRoleBinding };
            let binding = bind(kind, &role.namespace, &role.name, (role.kind, &role.name), subjects)?;
            objects.push(binding);
        }
        words => add_rule(role, words)?,
    }
    Some(())
}

fn add_rule(role: &mut Default, words: &[&str]) -> Option<()> {
    let (verbs, groups, resources, names) = match words {
        [verbs, groups, resources] => (verbs, groups, resources, None),
        [verbs, groups, resources, names] => (verbs, groups, resources, Some(names)),
        _ => return None,
    };
    let rule = Rule {
        verbs: self::verbs(verbs),
        api_groups: list(groups).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect(),
        resources: list(resources),
        resource_names: names.map(|names| list(names)).unwrap_or_default(),
        ..Rule::default()
    };
    role.object["rules"].as_array_mut()?.push(rule_value(&rule));
    Some(())
}

fn push(objects: &mut Vec<Default>, kind: Kind, namespace: &str, name: &str) -> usize {
    let mut object = header(kind, namespace, name);
    object["rules"] = json!([]);
    objects.push(Default { kind, namespace: namespace.to_owned(), name: name.to_owned(), object });
    objects.len() - 1
}

fn bind(kind: Kind, namespace: &str, name: &str, role: (Kind, &str), subjects: &[&str]) -> Option<Default> {
    let subjects: Vec<Value> = subjects.iter().map(|subject| self::subject(subject)).collect::<Option<_>>()?;
    let mut object = header(kind, namespace, name);
    let role_kind = if role.0 == Kind::Role { "Role" } else { "ClusterRole" };
    object["roleRef"] = json!({ "apiGroup": GROUP, "kind": role_kind, "name": role.1 });
    if !subjects.is_empty() {
        object["subjects"] = Value::Array(subjects);
    }
    Some(Default { kind, namespace: namespace.to_owned(), name: name.to_owned(), object })
}

fn subject(text: &str) -> Option<Value> {
    let (kind, name) = text.split_once(':')?;
    match kind {
        "user" => Some(json!({ "apiGroup": GROUP, "kind": "User", "name": name })),
        "group" => Some(json!({ "apiGroup": GROUP, "kind": "Group", "name": name })),
        "sa" => {
            let (namespace, name) = name.split_once('/')?;
            Some(json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }))
        }
        _ => None,
    }
}

fn header(kind: Kind, namespace: &str, name: &str) -> Value {
    let kind = match kind {
        Kind::ClusterRole => "ClusterRole",
        Kind::ClusterRoleBinding => "ClusterRoleBinding",
        Kind::Role => "Role",
        Kind::RoleBinding => "RoleBinding",
    };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "annotations": { AUTOUPDATE: "true" },
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// The verbs of a list in which `read`, `write` and their like stand for several.
fn verbs(text: &str) -> Vec<String> {
    let mut verbs: Vec<String> = Vec::new();
    for word in text.split(',') {
        let expanded: &[&str] = match word {
            "read" => &["get", "list", "watch"],
            "write" => &["create", "delete", "deletecollection", "patch", "update"],
            "readupdate" => &["get", "list", "patch", "update", "watch"],
            "readwrite" => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            _ => std::slice::from_ref(&word),
        };
        verbs.extend(expanded.iter().map(|verb| (*verb).to_owned()));
    }
    verbs.sort();
    verbs.dedup();
    verbs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_file_parses() {
        let objects = super::super::defaults();
        let count = |kind| objects.iter().filter(|object| object.kind == kind).count();
        assert!(count(Kind::ClusterRole) > 60, "{}", count(Kind::ClusterRole));
        assert_eq!((count(Kind::Role), count(Kind::RoleBinding)), (8, 8));
        let admin = objects.iter().find(|o| o.name == "admin").unwrap();
        let rules = admin.object["rules"].as_array().unwrap();
        let has = |resource: &str| rules.iter().any(|r| r["resources"].as_array().unwrap().contains(&json!(resource)));
        assert!(has("rolebindings") && has("pods/exec") && has("pods/log"), "admin aggregates edit and view");
    }

    #[test]
    fn wrong_lines_are_named() {
        let cases = [
            ("get core pods", 1),
            ("clusterrole a\n  get core", 2),
            ("clusterrole a\n  bind robot:x", 2),
            ("rolebinding ns name role sa:broken", 1),
        ];
        for (text, line) in cases {
            assert_eq!(parse(text).map_err(|error| error.line).err(), Some(line), "{text}");
        }
    }

    #[test]
    fn reconcile_adds_what_is_missing_and_keeps_the_rest() {
        let desired = &parse("clusterrole a\n  get,list core pods\n  bind user:x").unwrap();
        let mut existing = desired[0].object.clone();
        assert_eq!(super::super::reconcile(&existing, &desired[0]), None);
        existing["rules"] = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods", "secrets"] }]);
        let merged = super::super::reconcile(&existing, &desired[0]).unwrap();
        assert_eq!(merged["rules"].as_array().unwrap().len(), 2);
        assert_eq!(merged["rules"][1]["verbs"], json!(["list"]));
        existing["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(super::super::reconcile(&existing, &desired[0]), None);
        let mut binding = desired[1].object.clone();
        binding["subjects"] = json!([{ "kind": "User", "name": "other", "apiGroup": GROUP }]);
        let merged = super::super::reconcile(&binding, &desired[1]).unwrap();
        assert_eq!(merged["subjects"].as_array().unwrap().len(), 2);
    }
}
