//! Which pods are behind a Service: EndpointSlices, and Endpoints for those who still read them. [`mirror`] goes the other
//! way for those who still write them.

mod compute;
mod mirror;
mod slices;

use std::sync::Arc;
use std::time::Duration;

use informer::queue::{Action, Queue};
use informer::rest::{self, DeleteOptions, Path, Rest};
use informer::{Event, Informer, ObjectKey, Projection};
use serde_json::{Value, json};

use crate::framework::{Doing, Env, Informers, NAMESPACE, Result, SERVICE, collecting, synced};
use crate::objects::{Endpoints, Node, Pod, Service};
use crate::replicas::controller_reference;
use compute::Common;
use slices::{Author, Ledger, Writer};

/// Tells that an Endpoints object does not have all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ZONE: &str = "topology.kubernetes.io/zone";
/// As upstream's default.
const MAX_ENDPOINTS: usize = 100;
/// How long changes that follow a first one are collected, for each endpoint of a Service: the more there are, the more is
/// written for each.
const A_MOMENT: Duration = Duration::from_micros(500);

struct Slices {
    writer: Writer,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

struct Legacy {
    rest: Rest,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    ledger: Arc<Ledger>,
}

/// Starts both controllers.
pub(crate) fn start(env: &Env) {
    let informers = &env.informers;
    let (services, pods, nodes) = (informers.services.clone(), informers.pods.clone(), informers.nodes.clone());
    let (slices, endpoints) = (informers.endpoint_slices.clone(), informers.endpoints.clone());

    let queue = Queue::new("endpointslice");
    trigger(informers, &queue);
    let writer = Writer::new(env, "endpointslice-controller", compute::MANAGER, &queue);
    let (changed, all) = (queue.clone(), services.clone());
    nodes.on_event(move |event| {
        let zone = |node: &Node| node.metadata.label(ZONE).map(str::to_owned);
        if matches!(event, Event::Upsert { old, new } if old.as_deref().and_then(zone) != zone(new)) {
            all.list().iter().for_each(|service| changed.add(service.key()));
        }
    });
    let known = synced!(services, pods, nodes, slices);
    let controller = Arc::new(Slices { writer, services: services.clone(), pods: pods.clone(), nodes });
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });

    let queue = Queue::new("endpoints");
    trigger(informers, &queue);
    let ledger = Arc::new(Ledger::default());
    let (changed, own) = (queue.clone(), Arc::clone(&ledger));
    endpoints.on_event(move |event| {
        let (key, meta) = (event.object().key(), &event.object().metadata);
        let wake = match (own.came(&key, meta), event) {
            (Author::Awaited, _) | (_, Event::Delete(_)) => true,
            // Its Service may have gone while nobody looked. Leader election and users write such objects, too.
            (Author::Other, Event::Upsert { old: None, .. }) => compute::is_own(meta),
            _ => false,
        };
        if wake {
            changed.add(key);
        }
    });
    let known = synced!(services, pods, endpoints);
    let controller = Arc::new(Legacy { rest: env.rest("endpoint-controller"), services, pods, endpoints, ledger });
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });
    mirror::start(env);
}

fn trigger(informers: &Informers, queue: &Queue<ObjectKey>) {
    let (services, slices) = (informers.services.clone(), informers.endpoint_slices.clone());
    let changed = queue.clone();
    services.on_event(move |event| changed.add(event.object().key()));
    let changed = queue.clone();
    informers.pods.on_event(move |event| {
        let (old, new) = match event {
            Event::Upsert { old, new } => (old.as_deref(), new.as_ref()),
            Event::Delete(last) => (None, last.as_ref()),
        };
        if old.is_some_and(|old| !matters(old, new)) {
            return;
        }
        for service in services.by_index(NAMESPACE, &new.metadata.namespace) {
            if selects(&service, new) || old.is_some_and(|old| selects(&service, old)) {
                let key = service.key();
                let slices = slices.by_index(SERVICE, &key.to_string());
                let wait = collecting(slices.iter().map(|slice| slice.endpoints.len()).sum(), A_MOMENT);
                changed.add_spaced(key, wait);
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
        let existing = match self.writer.existing(key) {
            Ok(existing) => existing,
            Err(wait) => return Ok(wait),
        };
        let Some(service) = self.services.get(key).filter(|service| is_ours(service)) else {
            if self.services.get(key).is_some_and(|service| service.spec.r#type == "ExternalName") {
                self.writer.delete_all(key, &existing).await?;
            }
            // The garbage collector deletes the slices of a Service that is gone.
            self.writer.forget(key);
            return Ok(Action::Done);
        };
        let zone_of = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            node.metadata.label(ZONE).map(str::to_owned)
        };
        let groups = compute::groups(&service, &selected(&self.pods, &service), zone_of);
        let common = Common { labels: compute::slice_labels(&service), annotations: None, room: MAX_ENDPOINTS };
        let changes = compute::changes(&common, groups, &existing);
        let owner = controller_reference("v1", "Service", &service.metadata);
        self.writer.write(key, &common, &owner, changes, &existing).await?;
        Ok(Action::Done)
    }
}

impl Legacy {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let known = match self.ledger.current(key, || Vec::from_iter(self.endpoints.get(key))) {
            Ok(known) => known.into_iter().next(),
            Err(wait) => return Ok(wait),
        };
        let path = Path::object("", "v1", "endpoints", &key.namespace, &key.name);
        let doing = || format!("write the endpoints of service {key}");
        let Some(service) = self.services.get(key) else {
            self.ledger.forget(key);
            // As upstream, whoever made them: without its Service they lead nowhere.
            if let Some(known) = &known {
                let deleted = self.rest.delete(&path, &DeleteOptions::of_uid(&known.metadata.uid)).await;
                rest::absent_is_none(deleted).doing(doing)?;
            }
            return Ok(Action::Done);
        };
        if !is_ours(&service) {
            return Ok(Action::Done);
        }
        let mut subsets = compute::subsets(&service, &selected(&self.pods, &service));
        let labels = compute::endpoints_labels(&service);
        let mut annotations = known.as_ref().map(|known| known.metadata.annotations.clone()).unwrap_or_default();
        annotations.remove(OVER_CAPACITY);
        if compute::truncate(&mut subsets) {
            annotations.insert(OVER_CAPACITY.into(), "truncated".into());
        }
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": { "name": key.name, "namespace": key.namespace, "labels": labels, "annotations": annotations },
            "subsets": subsets,
        });
        match known {
            Some(known)
                if known.subsets == subsets
                    && (&known.metadata.labels, &known.metadata.annotations) == (&labels, &annotations) => {}
            Some(known) => {
                object["metadata"]["resourceVersion"] = Value::from(known.metadata.resource_version.as_str());
                self.ledger.note(key, &self.rest.update(&path, &object).await.doing(doing)?);
            }
            None => {
                let collection = Path::collection("", "v1", "endpoints", &key.namespace);
                match self.rest.create(&collection, &object).await {
                    Err(error) if rest::is_namespace_terminating(&error) => {}
                    answer => self.ledger.note(key, &answer.doing(doing)?),
                }
            }
        }
        Ok(Action::Done)
    }
}
