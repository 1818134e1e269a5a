//! Aggregated ClusterRoles: their rules are the union of those that their selectors choose.

use std::sync::Arc;

use apimachinery::selector::LabelSelector;
use informer::queue::{Action, Queue};
use informer::rest::{self, Rest};
use informer::{Informer, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Error, Result, path_of, synced};
use crate::objects::ClusterRole;

struct Controller {
    rest: Rest,
    roles: Informer<ClusterRole>,
}

/// Starts the controller.
pub(crate) fn start(env: &Env) {
    let roles = env.informers.cluster_roles.clone();
    let queue = Queue::new("clusterrole-aggregation");
    let (changed, all) = (queue.clone(), roles.clone());
    roles.on_event(move |_| {
        // Any role may be part of any aggregated one, and there are few of those.
        all.list().iter().filter(|role| role.aggregation_rule.is_some()).for_each(|role| changed.add(role.key()));
    });
    let known = synced!(roles);
    let controller = Arc::new(Controller { rest: env.rest("clusterrole-aggregation-controller"), roles });
    env.run(queue, 2, known, controller, |this, key| async move { this.reconcile(&key).await });
}

/// The rules of all chosen roles but `role` itself, in the order of their names, each once. None if it is not aggregated.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> std::result::Result<Option<Vec<Value>>, String> {
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    let selectors = aggregation.cluster_role_selectors.iter().map(LabelSelector::from_object);
    let selectors: Vec<LabelSelector> = selectors.collect::<std::result::Result<_, _>>()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        for part in all.iter().filter(|part| part.metadata.name != role.metadata.name) {
            if selector.matches(|key| part.metadata.label(key)) {
                for rule in &part.rules {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
    }
    Ok(Some(rules))
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(role) = self.roles.get(key) else { return Ok(Action::Done) };
        let rules = aggregate(&role, &self.roles.list())
            .map_err(|why| Error::Invalid { object: format!("cluster role {key}"), why })?;
        if let Some(rules) = rules.filter(|rules| *rules != role.rules) {
            let patch = json!({ "metadata": { "uid": role.metadata.uid }, "rules": rules });
            let patched = self.rest.merge(&path_of(role.as_ref()), &patch).await;
            rest::absent_is_none(patched).doing(|| format!("aggregate cluster role {key}"))?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions() {
        let role = |value: Value| Arc::new(serde_json::from_value::<ClusterRole>(value).unwrap());
        let all = [
            role(json!({"metadata": {"name": "a", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}]})),
            role(
                json!({"metadata": {"name": "b", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]}),
            ),
            role(json!({"metadata": {"name": "c", "labels": {"to": "y"}}, "rules": [{"verbs": ["*"]}]})),
            role(json!({"metadata": {"name": "x", "labels": {"to": "x"}}, "rules": [{"verbs": ["old"]}],
                        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}})),
        ];
        assert_eq!(aggregate(&all[3], &all), Ok(Some(vec![json!({"verbs": ["get"]}), json!({"verbs": ["list"]})])));
        assert_eq!(aggregate(&all[0], &all), Ok(None));
    }
}
