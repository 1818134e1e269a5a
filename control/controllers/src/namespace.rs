//! A namespace on its way out: deletes what is in it, pods first, then lets it go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::resources::{self, Resource};
use apimachinery::time::now_rfc3339;
use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::source::error_chain;
use informer::{Event, Informer, ObjectKey};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Result, synced, update};
use crate::objects::Namespace;

const FINALIZER: &str = "kubernetes";
/// What is left has finalizers or grace periods that end without a watch of ours.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Controller {
    rest: Rest,
    namespaces: Informer<Namespace>,
}

/// What a round of deletions left.
#[derive(Debug, Default, PartialEq)]
struct Remains {
    /// Instances by `resource.group`.
    instances: BTreeMap<String, usize>,
    /// Instances by finalizer.
    finalizers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

/// Starts the controller.
pub(crate) fn start(env: &Env) {
    let (namespaces, pods) = (env.informers.namespaces.clone(), env.informers.pods.clone());
    let queue = Queue::new("namespace");
    let changed = queue.clone();
    namespaces.on_event(move |event| {
        if let Event::Upsert { new, .. } = event
            && new.metadata.is_deleting()
        {
            changed.add(new.metadata.name.clone());
        }
    });
    let (changed, known_namespaces) = (queue.clone(), namespaces.clone());
    pods.on_event(move |event| {
        if let Event::Delete(pod) = event {
            let namespace = known_namespaces.get(&ObjectKey::cluster(pod.metadata.namespace.clone()));
            if namespace.is_some_and(|namespace| namespace.metadata.is_deleting()) {
                changed.add(pod.metadata.namespace.clone());
            }
        }
    });
    let known = synced!(namespaces);
    let controller = Arc::new(Controller { rest: env.rest("namespace-controller"), namespaces });
    env.run(queue, 5, known, controller, |this, name| async move { this.reconcile(&name).await });
}

/// One version of each namespaced resource whose objects can be listed and deleted.
fn deletable() -> impl Iterator<Item = &'static Resource> {
    let stored =
        |resource: &&Resource| resource.group == resource.storage_group && resource.version == resource.storage_version;
    resources::all()
        .iter()
        .filter(stored)
        .filter(|resource| resource.namespaced && resource.has_verb("list") && resource.has_verb("delete"))
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Action> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::cluster(name)) else { return Ok(Action::Done) };
        let path = Path::object("", "v1", "namespaces", "", name);
        let doing = || format!("delete namespace {name}");
        let Some(live) = self.rest.get_opt(&path).await.doing(doing)? else { return Ok(Action::Done) };
        let uid = namespace.metadata.uid.as_str();
        let finalizers = live["spec"]["finalizers"].as_array();
        let waits_for_us = finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER));
        if live["metadata"]["uid"] != uid || live["metadata"]["deletionTimestamp"].is_null() || !waits_for_us {
            return Ok(Action::Done);
        }
        let remains = self.empty(name).await;
        let change = |object: &mut Value| {
            object["status"]["phase"] = Value::from("Terminating");
            set_conditions(object, remains.conditions());
        };
        let Some(mut live) = update(&self.rest, &path, Some("status"), uid, change).await? else {
            return Ok(Action::Done);
        };
        if !remains.is_empty() {
            return Ok(Action::RequeueAfter(LOOK_AGAIN));
        }
        if let Some(finalizers) = live["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let finalized = self.rest.update(&path.child("finalize"), &live).await;
        rest::absent_is_none(finalized).doing(doing)?;
        Ok(Action::Done)
    }

    /// Asks for the deletion of everything; while there are pods, of nothing else, so that what they use outlives them.
    async fn empty(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let (pods, others): (Vec<_>, Vec<_>) =
            deletable().partition(|resource| resource.group.is_empty() && resource.resource == "pods");
        for resources in [pods, others] {
            for resource in resources {
                if let Err(error) = self.empty_resource(resource, namespace, &mut remains).await {
                    remains.failures.push(error_chain(&error));
                }
            }
            if !remains.is_empty() {
                break;
            }
        }
        remains
    }

    async fn empty_resource(&self, resource: &Resource, namespace: &str, remains: &mut Remains) -> rest::Result<()> {
        let collection = Path::collection(&resource.group, &resource.version, &resource.resource, namespace);
        if list(&self.rest, &collection).await?.is_empty() {
            return Ok(());
        }
        let options = DeleteOptions { propagation: Some(rest::Propagation::Background), ..DeleteOptions::default() };
        if resource.has_verb("deletecollection") {
            self.rest.delete(&collection, &options).await?;
        } else {
            for item in list(&self.rest, &collection).await? {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                rest::absent_is_none(self.rest.delete(&collection.clone().child(name), &options).await)?;
            }
        }
        remains.count(resource, &list(&self.rest, &collection).await?);
        Ok(())
    }
}

async fn list(rest: &Rest, collection: &Path) -> rest::Result<Vec<Value>> {
    let mut list = rest::absent_is_none(rest.get_metadata(collection).await)?.unwrap_or_default();
    Ok(match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.failures.is_empty()
    }

    fn count(&mut self, resource: &Resource, items: &[Value]) {
        if items.is_empty() {
            return;
        }
        self.instances.insert(format!("{}.{}", resource.resource, resource.group), items.len());
        for item in items {
            for finalizer in apimachinery::meta::finalizers(item) {
                *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }

    /// (type, status, reason, message), as upstream's.
    fn conditions(&self) -> [(&'static str, &'static str, &'static str, String); 5] {
        let told = |counts: &BTreeMap<String, usize>, verb: &str| {
            counts
                .iter()
                .map(|(what, count)| format!("{what} {verb} {count} resource instances"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let failed = !self.failures.is_empty();
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered".into(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".into(),
            ),
            if failed {
                let message = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.failures.len(),
                    self.failures.join(", ")
                );
                ("NamespaceDeletionContentFailure", "True", "ContentDeletionFailed", message)
            } else {
                let message = "All content successfully deleted, may be waiting on finalization".into();
                ("NamespaceDeletionContentFailure", "False", "ContentDeleted", message)
            },
            if self.instances.is_empty() {
                ("NamespaceContentRemaining", "False", "ContentRemoved", "All content successfully removed".into())
            } else {
                let message = format!("Some resources are remaining: {}", told(&self.instances, "has"));
                ("NamespaceContentRemaining", "True", "SomeResourcesRemain", message)
            },
            if self.finalizers.is_empty() {
                let message = "All content-preserving finalizers finished".into();
                ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", message)
            } else {
                let message =
                    format!("Some content in the namespace has finalizers remaining: {}", told(&self.finalizers, "in"));
                ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
            },
        ]
    }
}

fn set_conditions(
    object: &mut Value,
    conditions: impl IntoIterator<Item = (&'static str, &'static str, &'static str, String)>,
) {
    let mut known = match object["status"]["conditions"].take() {
        Value::Array(known) => known,
        _ => Vec::new(),
    };
    for (kind, status, reason, message) in conditions {
        let new = json!({ "type": kind, "status": status, "reason": reason, "message": message });
        let at = known.iter().position(|condition| condition["type"] == kind);
        let since = at.filter(|at| known[*at]["status"] == status).map(|at| known[at]["lastTransitionTime"].take());
        let mut new = new;
        new["lastTransitionTime"] = since.unwrap_or_else(|| now_rfc3339().into());
        match at {
            Some(at) => known[at] = new,
            None => known.push(new),
        }
    }
    object["status"]["conditions"] = known.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespaced_resource_once() {
        let all: Vec<_> = deletable().map(|resource| format!("{}.{}", resource.resource, resource.group)).collect();
        for want in ["pods.", "secrets.", "deployments.apps", "rolebindings.rbac.authorization.k8s.io", "events."] {
            assert_eq!(all.iter().filter(|name| *name == want).count(), 1, "{want} in {all:?}");
        }
        assert!(!all.iter().any(|name| name.starts_with("nodes") || name.starts_with("bindings")));
    }

    #[test]
    fn conditions_tell_what_remains() {
        let mut remains = Remains::default();
        assert!(remains.is_empty());
        let pods = resources::find("", "v1", "pods").unwrap();
        remains.count(pods, &[json!({"metadata": {"finalizers": ["a/b"]}}), json!({"metadata": {}})]);
        let conditions = remains.conditions();
        assert_eq!(conditions[3].3, "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(
            conditions[4].3,
            "Some content in the namespace has finalizers remaining: a/b in 1 resource instances"
        );
        let mut object = json!({"status": {"conditions": [
            {"type": "NamespaceContentRemaining", "status": "True", "lastTransitionTime": "then"}]}});
        set_conditions(&mut object, conditions);
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "then");
        assert_eq!(object["status"]["conditions"].as_array().unwrap().len(), 5);
    }
}
