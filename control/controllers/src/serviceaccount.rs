//! What every namespace gets: its `default` ServiceAccount, and the ConfigMap with the CA that its pods trust the API server by.

use std::sync::Arc;

use informer::queue::{Action, Queue};
use informer::rest::{self, Path, Rest};
use informer::{Event, Informer, ObjectKey};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Result, synced};
use crate::objects::{ConfigMap, Namespace, ServiceAccount};

const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                           such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                           distributions of Kubernetes clusters.";

struct Accounts {
    rest: Rest,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

struct RootCa {
    rest: Rest,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
    pem: String,
}

/// Starts both controllers.
pub(crate) fn start(env: &Env, root_ca_pem: String) {
    let (namespaces, accounts) = (env.informers.namespaces.clone(), env.informers.service_accounts.clone());
    let queue = Queue::new("serviceaccount");
    trigger_by_namespace(&namespaces, &queue);
    let deleted = queue.clone();
    accounts.on_event(move |event| {
        if let Event::Delete(account) = event {
            deleted.add(account.metadata.namespace.clone());
        }
    });
    let known = synced!(namespaces, accounts);
    let controller =
        Arc::new(Accounts { rest: env.rest("service-account-controller"), namespaces: namespaces.clone(), accounts });
    env.run(queue, 2, known, controller, |this, namespace| async move { this.reconcile(&namespace).await });

    let config_maps = Informer::<ConfigMap>::builder((env.client_for)(""))
        .field_selector(format!("metadata.name={CONFIG_MAP}"))
        .start(&env.tasks, env.shutdown.clone());
    let queue = Queue::new("root-ca");
    trigger_by_namespace(&namespaces, &queue);
    let changed = queue.clone();
    config_maps.on_event(move |event| changed.add(event.object().metadata.namespace.clone()));
    let known = synced!(namespaces, config_maps);
    let rest = env.rest("root-ca-cert-publisher");
    let controller = Arc::new(RootCa { rest, namespaces, config_maps, pem: root_ca_pem });
    env.run(queue, 2, known, controller, |this, namespace| async move { this.reconcile(&namespace).await });
}

fn trigger_by_namespace(namespaces: &Informer<Namespace>, queue: &Queue<String>) {
    let queue = queue.clone();
    namespaces.on_event(move |event| {
        if let Event::Upsert { new, .. } = event {
            queue.add(new.metadata.name.clone());
        }
    });
}

fn is_active(namespaces: &Informer<Namespace>, name: &str) -> bool {
    namespaces
        .get(&ObjectKey::cluster(name))
        .is_some_and(|namespace| !namespace.metadata.is_deleting() && namespace.status.phase != "Terminating")
}

/// Creates, and is content if it is there already or the namespace is going.
async fn ensure(rest: &Rest, collection: &Path, object: &Value) -> Result<()> {
    match rest.create(collection, object).await {
        Err(error) if rest::is_already_exists(&error) || rest::is_namespace_terminating(&error) => Ok(()),
        Err(error) if rest::is_not_found(&error) => Ok(()),
        other => other.map(drop).doing(|| format!("create {}/{}", collection.as_str(), object["metadata"]["name"])),
    }
}

impl Accounts {
    async fn reconcile(&self, namespace: &str) -> Result<Action> {
        let key = ObjectKey::new(namespace, "default");
        if is_active(&self.namespaces, namespace) && self.accounts.get(&key).is_none() {
            let account = json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": "default", "namespace": namespace },
            });
            ensure(&self.rest, &Path::collection("", "v1", "serviceaccounts", namespace), &account).await?;
        }
        Ok(Action::Done)
    }
}

impl RootCa {
    async fn reconcile(&self, namespace: &str) -> Result<Action> {
        if !is_active(&self.namespaces, namespace) {
            return Ok(Action::Done);
        }
        let data = json!({ "ca.crt": self.pem });
        let collection = Path::collection("", "v1", "configmaps", namespace);
        match self.config_maps.get(&ObjectKey::new(namespace, CONFIG_MAP)) {
            None => {
                let map = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": CONFIG_MAP,
                        "namespace": namespace,
                        "annotations": { "kubernetes.io/description": DESCRIPTION },
                    },
                    "data": data,
                });
                ensure(&self.rest, &collection, &map).await?;
            }
            Some(map) if map.data.len() == 1 && map.data.get("ca.crt") == Some(&self.pem) => {}
            Some(map) => {
                // The role allows create and update only; other keys are dropped by replacing all.
                let meta = &map.metadata;
                let whole = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": CONFIG_MAP,
                        "namespace": namespace,
                        "uid": meta.uid,
                        "resourceVersion": meta.resource_version,
                        "labels": meta.labels,
                        "annotations": meta.annotations,
                    },
                    "data": data,
                });
                let updated = self.rest.update(&collection.child(CONFIG_MAP), &whole).await;
                updated.doing(|| format!("publish the root CA in namespace {namespace}"))?;
            }
        }
        Ok(Action::Done)
    }
}
