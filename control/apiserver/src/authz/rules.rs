//! RBAC policy rules: parsed once, matched per request, compared for escalation.

use serde::Deserialize;

use super::Attributes;

/// One PolicyRule of a Role or ClusterRole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// What may be done; `*` is everything.
    pub verbs: Vec<String>,
    /// The groups it may be done in; `*` is all.
    pub api_groups: Vec<String>,
    /// The resources (`pods`, `pods/log`, `*/scale`, `*`).
    pub resources: Vec<String>,
    /// The only objects it may be done to; empty is all.
    pub resource_names: Vec<String>,
    /// Paths outside the API (`/metrics`, `/healthz/*`, `*`).
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Whether the rule allows this.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has_or_star(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, attributes.path));
        }
        has_or_star(&self.api_groups, attributes.group)
            && self.resources.iter().any(|r| resource_matches(r, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == attributes.name))
    }

    /// The rule as upstream prints it when it refuses to grant it.
    pub fn describe(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| {
                let quoted: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
                format!("{name}:[{}]", quoted.join(" "))
            })
            .collect();
        format!("{{{}}}", shown.join(", "))
    }

    /// The rule split so that each part has one verb and one target; what a single owned rule can cover.
    fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(base);
                    } else {
                        atoms.extend(
                            self.resource_names
                                .iter()
                                .map(|name| Rule { resource_names: vec![name.clone()], ..base.clone() }),
                        );
                    }
                }
            }
            atoms.extend(self.non_resource_urls.iter().map(|url| Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            }));
        }
        atoms
    }

    /// Whether this rule grants everything an atom grants.
    fn covers(&self, atom: &Rule) -> bool {
        let verbs = covers_all(&self.verbs, &atom.verbs);
        let groups = covers_all(&self.api_groups, &atom.api_groups);
        let resources = atom.resources.iter().all(|wanted| {
            let (_, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources
                .iter()
                .any(|own| own == "*" || own == wanted || (!sub.is_empty() && own.strip_prefix("*/") == Some(sub)))
        });
        let names = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|name| self.resource_names.contains(name)));
        let urls = atom.non_resource_urls.iter().all(|wanted| {
            self.non_resource_urls.iter().any(|own| {
                own == "*"
                    || own == wanted
                    || own.strip_suffix('*').is_some_and(|prefix| wanted.trim_end_matches('*').starts_with(prefix))
            })
        });
        verbs && groups && resources && names && urls
    }
}

/// The atoms of `wanted` that no rule of `owned` covers: what would be an escalation to grant.
pub(crate) fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        if !owned.iter().any(|own| own.covers(&atom)) {
            match missing.iter_mut().find(|m| same_target(m, &atom)) {
                Some(known) => known.verbs.extend(atom.verbs),
                None => missing.push(atom),
            }
        }
    }
    missing
}

fn same_target(a: &Rule, b: &Rule) -> bool {
    a.api_groups == b.api_groups
        && a.resources == b.resources
        && a.resource_names == b.resource_names
        && a.non_resource_urls == b.non_resource_urls
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted || item == "*")
}

fn covers_all(owned: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|item| has_or_star(owned, item))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((main, sub)) => !subresource.is_empty() && sub == subresource && (main == "*" || main == resource),
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}
