//! Which pods are behind a Service: EndpointSlices, and Endpoints for those who still read them.

mod compute;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use informer::kinds::service_of;
use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, NAMESPACE, Result, SERVICE, synced};
use crate::objects::{EndpointSlice, Endpoints, Node, Pod, Service};
use crate::replicas::controller_reference;
use compute::{Changes, MANAGED_BY, MANAGER};

const ZONE: &str = "topology.kubernetes.io/zone";
/// How long the informer may take to bring what was written; after that someone deleted it.
const STALE: Duration = Duration::from_secs(4);

struct Slices {
    rest: Rest,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    /// The revision of each slice as written last: computing on older ones would write everything twice.
    written: Mutex<HashMap<ObjectKey, Written>>,
}

struct Written {
    at: Instant,
    revisions: HashMap<String, u64>,
}

struct Legacy {
    rest: Rest,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

/// Starts both controllers.
pub(crate) fn start(env: &Env) {
    let informers = &env.informers;
    let (services, pods, nodes) = (informers.services.clone(), informers.pods.clone(), informers.nodes.clone());
    let (slices, endpoints) = (informers.endpoint_slices.clone(), informers.endpoints.clone());

    let queue = Queue::new("endpointslice");
    trigger(&services, &pods, &queue);
    let changed = queue.clone();
    slices.on_event(move |event| {
        if is_managed(event.object()) {
            service_of(event.object().as_ref()).into_iter().for_each(|key| changed.add(key));
        }
    });
    let (changed, all) = (queue.clone(), services.clone());
    nodes.on_event(move |event| {
        let zone = |node: &Node| node.metadata.label(ZONE).map(str::to_owned);
        if matches!(event, Event::Upsert { old, new } if old.as_deref().and_then(zone) != zone(new)) {
            all.list().iter().for_each(|service| changed.add(service.key()));
        }
    });
    let known = synced!(services, pods, nodes, slices);
    let rest = env.rest("endpointslice-controller");
    let (written, services_too, pods_too) = (Mutex::default(), services.clone(), pods.clone());
    let controller = Arc::new(Slices { rest, services: services_too, pods: pods_too, nodes, slices, written });
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });

    let queue = Queue::new("endpoints");
    trigger(&services, &pods, &queue);
    let changed = queue.clone();
    endpoints.on_event(move |event| {
        // Leader election writes such objects, too; they have no Service.
        if matches!(event, Event::Delete(_)) {
            changed.add(event.object().key());
        }
    });
    let known = synced!(services, pods, endpoints);
    let controller = Arc::new(Legacy { rest: env.rest("endpoint-controller"), services, pods, endpoints });
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });
}

fn trigger(services: &Informer<Service>, pods: &Informer<Pod>, queue: &Queue<ObjectKey>) {
    let changed = queue.clone();
    services.on_event(move |event| changed.add(event.object().key()));
    let (changed, services) = (queue.clone(), services.clone());
    pods.on_event(move |event| {
        let (old, new) = match event {
            Event::Upsert { old, new } => (old.as_deref(), new.as_ref()),
            Event::Delete(last) => (None, last.as_ref()),
        };
        if old.is_some_and(|old| !matters(old, new)) {
            return;
        }
        for service in services.by_index(NAMESPACE, &new.metadata.namespace) {
            if selects(&service, new) || old.is_some_and(|old| selects(&service, old)) {
                changed.add(service.key());
            }
        }
    });
}

/// Whether a change of a pod can change endpoints.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.is_ready() != new.is_ready()
        || old.is_terminal() != new.is_terminal()
        || old.metadata.is_deleting() != new.metadata.is_deleting()
        || old.spec.node_name != new.spec.node_name
        || !old.ips().eq(new.ips())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = &service.spec.selector;
    !selector.is_empty() && selector.iter().all(|(key, value)| pod.metadata.label(key) == Some(value))
}

fn is_managed(slice: &EndpointSlice) -> bool {
    slice.metadata.label(MANAGED_BY) == Some(MANAGER)
}

/// A Service whose endpoints are not someone else's affair.
fn is_ours(service: &Service) -> bool {
    !service.spec.selector.is_empty() && service.spec.r#type != "ExternalName" && !service.metadata.is_deleting()
}

fn selected(pods: &Informer<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let mut pods = pods.by_index(NAMESPACE, &service.metadata.namespace);
    pods.retain(|pod| selects(service, pod));
    pods
}

impl Slices {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let mut existing = self.slices.by_index(SERVICE, &key.to_string());
        existing.retain(|slice| is_managed(slice) && !slice.metadata.is_deleting());
        if self.is_stale(key, &existing) {
            // The events of the slices that are missing bring this key back; the timer is for those that never come.
            return Ok(Action::RequeueAfter(STALE / 4));
        }
        let Some(service) = self.services.get(key).filter(|service| is_ours(service)) else {
            self.written().remove(key);
            if self.services.get(key).is_some_and(|service| service.spec.r#type == "ExternalName") {
                let delete = existing.iter().map(|slice| slice.metadata.name.clone()).collect();
                self.write(key, None, Changes { delete, ..Changes::default() }, &existing).await?;
            }
            // The garbage collector deletes the slices of a Service that is gone.
            return Ok(Action::Done);
        };
        let zone_of = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            node.metadata.label(ZONE).map(str::to_owned)
        };
        let groups = compute::groups(&service, &selected(&self.pods, &service), zone_of);
        let changes = compute::changes(&service, groups, &existing);
        self.write(key, Some(&service), changes, &existing).await?;
        Ok(Action::Done)
    }

    fn written(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the informer does not have yet what was written last.
    fn is_stale(&self, key: &ObjectKey, existing: &[Arc<EndpointSlice>]) -> bool {
        let mut written = self.written();
        let Some(Written { at, revisions }) = written.get_mut(key) else { return false };
        for slice in existing {
            let seen = slice.metadata.resource_version.parse().unwrap_or(u64::MAX);
            if revisions.get(&slice.metadata.name).is_some_and(|revision| *revision <= seen) {
                revisions.remove(&slice.metadata.name);
            }
        }
        if revisions.is_empty() || at.elapsed() > STALE {
            written.remove(key);
            return false;
        }
        true
    }

    fn note(&self, key: &ObjectKey, answer: &Value) {
        let meta = &answer["metadata"];
        let revision = meta["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        if let (Some(name), Some(revision)) = (meta["name"].as_str(), revision) {
            let mut written = self.written();
            let fresh = || Written { at: Instant::now(), revisions: HashMap::new() };
            let written = written.entry(key.clone()).or_insert_with(fresh);
            written.at = Instant::now();
            written.revisions.insert(name.to_owned(), revision);
        }
    }

    async fn write(
        &self,
        key: &ObjectKey,
        service: Option<&Service>,
        changes: Changes,
        existing: &[Arc<EndpointSlice>],
    ) -> Result<()> {
        let collection = Path::collection("discovery.k8s.io", "v1", "endpointslices", &key.namespace);
        let doing = || format!("write the endpoint slices of service {key}");
        if let Some(service) = service {
            for content in changes.create {
                let slice = whole(service, content, json!({ "generateName": format!("{}-", key.name) }));
                match self.rest.create(&collection, &slice).await {
                    Err(error) if rest::is_namespace_terminating(&error) => return Ok(()),
                    answer => self.note(key, &answer.doing(doing)?),
                }
            }
            for (name, content) in changes.update {
                let Some(known) = existing.iter().find(|slice| slice.metadata.name == name) else { continue };
                let meta = &known.metadata;
                let identity = json!({
                    "name": name,
                    "uid": meta.uid,
                    "resourceVersion": meta.resource_version,
                    "generateName": format!("{}-", key.name),
                    "annotations": meta.annotations,
                });
                let answer =
                    self.rest.update(&collection.clone().child(&name), &whole(service, content, identity)).await;
                self.note(key, &answer.doing(doing)?);
            }
        }
        for name in changes.delete {
            let deleted = self.rest.delete(&collection.clone().child(&name), &DeleteOptions::default()).await;
            rest::absent_is_none(deleted).doing(doing)?;
        }
        Ok(())
    }
}

fn whole(service: &Service, mut content: Value, mut metadata: Value) -> Value {
    metadata["namespace"] = Value::from(service.metadata.namespace.as_str());
    metadata["labels"] = json!(compute::slice_labels(service));
    metadata["ownerReferences"] = json!([controller_reference("v1", "Service", &service.metadata)]);
    content["apiVersion"] = Value::from("discovery.k8s.io/v1");
    content["kind"] = Value::from("EndpointSlice");
    content["metadata"] = metadata;
    content
}

impl Legacy {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let known = self.endpoints.get(key);
        let path = Path::object("", "v1", "endpoints", &key.namespace, &key.name);
        let doing = || format!("write the endpoints of service {key}");
        let Some(service) = self.services.get(key) else {
            // Only what this controller made: others keep leases in such objects.
            let managed = |known: &&Arc<Endpoints>| {
                known.metadata.label("endpoints.kubernetes.io/managed-by") == Some("endpoint-controller")
            };
            if let Some(known) = known.as_ref().filter(managed) {
                let deleted = self.rest.delete(&path, &DeleteOptions::of_uid(&known.metadata.uid)).await;
                rest::absent_is_none(deleted).doing(doing)?;
            }
            return Ok(Action::Done);
        };
        if !is_ours(&service) {
            return Ok(Action::Done);
        }
        let subsets = compute::subsets(&service, &selected(&self.pods, &service));
        let labels = compute::endpoints_labels(&service);
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": { "name": key.name, "namespace": key.namespace, "labels": labels },
        });
        let same_subsets = |known: &Endpoints| match known.subsets.as_array() {
            Some(known) => *known == subsets,
            None => subsets.is_empty(),
        };
        match known {
            Some(known) if same_subsets(&known) && known.metadata.labels == labels => {}
            Some(known) => {
                object["subsets"] = subsets.into();
                object["metadata"]["resourceVersion"] = Value::from(known.metadata.resource_version.as_str());
                object["metadata"]["annotations"] = json!(known.metadata.annotations);
                self.rest.update(&path, &object).await.doing(doing)?;
            }
            None => {
                object["subsets"] = subsets.into();
                let collection = Path::collection("", "v1", "endpoints", &key.namespace);
                match self.rest.create(&collection, &object).await {
                    Err(error) if rest::is_namespace_terminating(&error) => {}
                    answer => drop(answer.doing(doing)?),
                }
            }
        }
        Ok(Action::Done)
    }
}
