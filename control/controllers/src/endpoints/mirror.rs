//! Endpoints that users write for Services without selectors become EndpointSlices, which is what proxies read.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use informer::kinds::SERVICE_NAME;
use informer::queue::{Action, Queue};
use informer::{Informer, ObjectKey};
use serde_json::Value;

use super::compute::{self, Common, Group, MANAGED_BY};
use super::slices::Writer;
use crate::framework::{Env, Result, synced};
use crate::objects::{Address, Endpoint, EndpointConditions, Endpoints, Service};
use crate::replicas::controller_reference;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Old clients keep their leases in Endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Of each subset, and so of each slice.
const MAX_ADDRESSES: usize = 1000;

struct Controller {
    writer: Writer,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
}

pub(super) fn start(env: &Env) {
    let (services, endpoints) = (env.informers.services.clone(), env.informers.endpoints.clone());
    let queue = Queue::new("endpointslice-mirroring");
    let changed = queue.clone();
    services.on_event(move |event| changed.add(event.object().metadata.key()));
    let changed = queue.clone();
    endpoints.on_event(move |event| changed.add(event.object().metadata.key()));
    let writer = Writer::new(env, "endpointslicemirroring-controller", MANAGER, &queue);
    let known = synced!(services, endpoints, env.informers.endpoint_slices);
    let controller = Arc::new(Controller { writer, services, endpoints });
    env.run(queue, 5, known, controller, |this, key| async move { this.reconcile(&key).await });
}

/// Whether these Endpoints are a user's.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    meta.label(SKIP) != Some("true")
        && meta.annotation(LEADER).is_none()
        && !meta.is_deleting()
        && service.is_some_and(|service| service.spec.selector.is_empty())
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let existing = match self.writer.existing(key) {
            Ok(existing) => existing,
            Err(wait) => return Ok(wait),
        };
        let service = self.services.get(key);
        let Some(endpoints) = self.endpoints.get(key).filter(|it| is_mirrored(it, service.as_deref())) else {
            self.writer.delete_all(key, &existing).await?;
            self.writer.forget(key);
            return Ok(Action::Done);
        };
        let common = common(&endpoints);
        let changes = compute::changes(&common, groups(&endpoints), &existing);
        let owner = controller_reference("v1", "Endpoints", &endpoints.metadata);
        self.writer.write(key, &common, &owner, changes, &existing).await?;
        Ok(Action::Done)
    }
}

fn common(endpoints: &Endpoints) -> Common {
    let meta = &endpoints.metadata;
    let (mut labels, mut annotations) = (meta.labels.clone(), meta.annotations.clone());
    labels.insert(SERVICE_NAME.into(), meta.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    annotations.remove(TRIGGER_TIME);
    Common { labels, annotations: Some(annotations), room: MAX_ADDRESSES }
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups = Vec::new();
    for subset in &endpoints.subsets {
        let ports: Vec<Value> = subset.ports.iter().cloned().map(port).collect();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|address| (address, false)));
        let mut seen = HashSet::new();
        for (address, ready) in all.take(MAX_ADDRESSES) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            if seen.insert(ip) {
                let kind = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                compute::group_of(&mut groups, kind, ports.clone()).add(endpoint(address, ready));
            }
        }
    }
    groups
}

fn port(mut port: Value) -> Value {
    if port["name"].is_null() {
        port["name"] = Value::from("");
    }
    port
}

fn endpoint(address: &Address, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: Some(address.hostname.clone()).filter(|name| !name.is_empty()),
        node_name: address.node_name.clone().filter(|name| !name.is_empty()),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(metadata: &Value, subsets: &Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
    }

    #[test]
    fn what_is_mirrored() {
        let service = |spec: Value| serde_json::from_value::<Service>(json!({ "spec": spec })).unwrap();
        let (plain, selecting) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        for (metadata, service, want) in [
            (json!({}), Some(&plain), true),
            (json!({}), Some(&selecting), false),
            (json!({}), None, false),
            (json!({"labels": {SKIP: "true"}}), Some(&plain), false),
            (json!({"labels": {SKIP: "false"}}), Some(&plain), true),
            (json!({"annotations": {LEADER: "{}"}}), Some(&plain), false),
        ] {
            assert_eq!(is_mirrored(&endpoints(&metadata, &json!([])), service), want, "{metadata}");
        }
    }

    #[test]
    fn subsets_become_slices() {
        let many: Vec<Value> = (0..1200).map(|at| json!({"ip": format!("10.1.{}.{}", at / 250, at % 250)})).collect();
        // (subsets, slices as address type, port names, and endpoints)
        let cases = [
            (json!(null), vec![]),
            (json!([{"ports": [{"port": 80, "protocol": "TCP"}]}]), vec![]),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.1"}],
                        "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]}]),
                vec!["IPv4 \"\" 10.0.0.1:true 10.0.0.2:false", "IPv6 \"\" fd00::1:true"],
            ),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "a", "port": 80}]},
                       {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "b", "port": 80}]},
                       {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "a", "port": 80}]}]),
                vec!["IPv4 \"a\" 10.0.0.1:true 10.0.0.3:true", "IPv4 \"b\" 10.0.0.1:true"],
            ),
        ];
        for (subsets, want) in cases {
            let show = |group: Group| {
                let endpoints = group
                    .endpoints
                    .into_values()
                    .map(|it| format!(" {}:{}", it.addresses[0], it.conditions.ready.unwrap()));
                format!("{} {}{}", group.address_type, group.ports[0]["name"], endpoints.collect::<String>())
            };
            let got: Vec<_> = groups(&endpoints(&json!({}), &subsets)).into_iter().map(show).collect();
            assert_eq!(got, want);
        }
        let changes = |subsets: &Value| {
            let endpoints = endpoints(&json!({"name": "x"}), subsets);
            compute::changes(&common(&endpoints), groups(&endpoints), &[])
        };
        let full = changes(&json!([{ "addresses": many }]));
        assert_eq!(full.create.len(), 1);
        assert_eq!(full.create[0]["endpoints"].as_array().unwrap().len(), MAX_ADDRESSES);
    }
}
