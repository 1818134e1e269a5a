//! From a Service and its pods to EndpointSlices and Endpoints. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use informer::Meta;
use informer::kinds::SERVICE_NAME;
use serde_json::{Map, Value, json};

use crate::objects::{
    Address, Endpoint, EndpointConditions, EndpointSlice, Pod, Service, ServicePort, Subset, TargetRef,
};

/// The label of a slice that names its controller.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The controller of Services' own slices.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS_MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The most addresses an Endpoints object may have.
const MAX_ADDRESSES: usize = 1000;

/// Endpoints that share their ports and the kind of their addresses.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) address_type: String,
    pub(super) ports: Vec<Value>,
    /// By identity, so that the order is stable.
    pub(super) endpoints: BTreeMap<Identity, Endpoint>,
}

/// What an endpoint keeps when its state changes: its pod's uid and its address. Pods in the host's network share theirs.
type Identity = (Box<str>, Box<str>);

/// What all slices of a Service have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) labels: BTreeMap<String, String>,
    /// None if those that are there may stay.
    pub(super) annotations: Option<BTreeMap<String, String>>,
    /// The most endpoints a slice may have.
    pub(super) room: usize,
}

/// What is to be written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<Value>,
    /// Name and new content of existing slices.
    pub(super) update: Vec<(String, Value)>,
    pub(super) delete: Vec<String>,
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip == "None"
}

/// The kinds of addresses that a Service has.
pub(super) fn address_types(service: &Service) -> Vec<&'static str> {
    let kind = |family: &String| if family == "IPv6" { "IPv6" } else { "IPv4" };
    match service.spec.ip_families.as_slice() {
        [] if service.spec.cluster_ip.contains(':') => vec!["IPv6"],
        [] => vec!["IPv4"],
        families => families.iter().map(kind).collect(),
    }
}

/// The Service's ports as this pod has them; a named port that it lacks is left out.
fn ports_of<'a>(service: &'a Service, pod: &Pod) -> Vec<(&'a ServicePort, u16)> {
    service.spec.ports.iter().filter_map(|port| Some((port, target(port, pod)?))).collect()
}

fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}

fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let named = |name: &str| {
        let sidecars = pod.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
        let mut all = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        let found = all.find(|it| it.name == name && protocol(&it.protocol) == protocol(&port.protocol))?;
        Some(found.container_port)
    };
    match &port.target_port {
        Value::String(name) if !name.is_empty() => named(name),
        Value::Number(number) if number.as_u64() != Some(0) => number.as_u64()?.try_into().ok(),
        _ => Some(port.port),
    }
}

fn takes_part(pod: &Pod) -> bool {
    !pod.is_terminal() && pod.ips().next().is_some()
}

/// Groups the pods' endpoints by ports; `zone_of` gives a node's zone.
pub(super) fn groups(service: &Service, pods: &[Arc<Pod>], zone_of: impl Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for address_type in address_types(service) {
        let before = groups.len();
        // Most pods have the same ports.
        let mut known: Vec<Vec<(&ServicePort, u16)>> = Vec::new();
        for pod in pods.iter().filter(|pod| takes_part(pod)) {
            let Some(ip) = pod.ips().find(|ip| ip.contains(':') == (address_type == "IPv6")) else { continue };
            let ports = ports_of(service, pod);
            let at = known.iter().position(|known| *known == ports).unwrap_or_else(|| {
                let values = ports.iter().map(|(port, number)| slice_port(port, *number)).collect();
                groups.push(Group { address_type: address_type.into(), ports: values, ..Group::default() });
                known.push(ports);
                known.len() - 1
            });
            groups[before + at].add(endpoint(service, pod, ip, &zone_of));
        }
        // A Service without endpoints has an empty slice, so that its watchers know that it is looked after.
        if groups.len() == before {
            groups.push(Group { address_type: address_type.into(), ..Group::default() });
        }
    }
    groups
}

pub(super) fn group_of<'a>(groups: &'a mut Vec<Group>, address_type: &str, ports: Vec<Value>) -> &'a mut Group {
    let at = groups.iter().position(|group| group.address_type == address_type && group.ports == ports);
    let at = at.unwrap_or_else(|| {
        groups.push(Group { address_type: address_type.into(), ports, ..Group::default() });
        groups.len() - 1
    });
    &mut groups[at]
}

impl Group {
    pub(super) fn add(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(identity(&endpoint), endpoint);
    }
}

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().map(|target| target.uid.clone());
    (uid.unwrap_or_default(), endpoint.addresses.first().cloned().unwrap_or_default())
}

fn slice_port(port: &ServicePort, number: u16) -> Value {
    let mut value = json!({ "name": port.name, "port": number, "protocol": protocol(&port.protocol) });
    if let Some(app) = &port.app_protocol {
        value["appProtocol"] = Value::from(app.as_str());
    }
    value
}

fn endpoint(service: &Service, pod: &Pod, ip: &str, zone_of: impl Fn(&str) -> Option<String>) -> Endpoint {
    let (serving, terminating) = (pod.is_ready(), pod.metadata.is_deleting());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node = node_name(pod);
    let mut endpoint = Endpoint {
        addresses: vec![ip.into()],
        conditions: EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) },
        target_ref: Some(target_ref(pod)),
        zone: node.as_deref().and_then(zone_of).map(Box::from),
        node_name: node,
        hostname: hostname(service, pod).map(Box::from),
        ..Endpoint::default()
    };
    endpoint.hints = hints(service, &endpoint).filter(|_| ready);
    endpoint
}

fn node_name(pod: &Pod) -> Option<Box<str>> {
    Some(pod.spec.node_name.as_str()).filter(|name| !name.is_empty()).map(Box::from)
}

/// Whom an endpoint is meant for, where the Service wants clients to stay near.
fn hints(service: &Service, endpoint: &Endpoint) -> Option<Value> {
    let wanted = service.spec.traffic_distribution.as_deref()?;
    let on_node = wanted == "PreferSameNode";
    if !on_node && !matches!(wanted, "PreferSameZone" | "PreferClose") {
        return None;
    }
    let mut hints = Map::new();
    for (list, name) in [("forZones", &endpoint.zone), ("forNodes", &endpoint.node_name)] {
        if let Some(name) = name.as_ref().filter(|_| on_node || list == "forZones") {
            hints.insert(list.into(), json!([{ "name": name }]));
        }
    }
    (!hints.is_empty()).then_some(Value::Object(hints))
}

/// A pod has a name of its own below the Service that its `subdomain` names.
fn hostname<'a>(service: &Service, pod: &'a Pod) -> Option<&'a str> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    named.then_some(pod.spec.hostname.as_str())
}

fn target_ref(pod: &Pod) -> TargetRef {
    let meta = &pod.metadata;
    TargetRef {
        kind: "Pod".into(),
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
        uid: meta.uid.as_str().into(),
        ..TargetRef::default()
    }
}

/// The Service's labels and those that say whose the slice is.
pub(super) fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// The least change that brings `existing` slices to `groups`: endpoints stay where they are, changed slices are filled up
/// first, and where nothing else changes a slice with room is preferred to a new one.
pub(super) fn changes(common: &Common, groups: Vec<Group>, existing: &[Arc<EndpointSlice>]) -> Changes {
    let mut changes = Changes::default();
    let mut unclaimed: Vec<&EndpointSlice> = existing.iter().map(Arc::as_ref).collect();
    for group in groups {
        let (mine, others) = unclaimed
            .into_iter()
            .partition(|slice| slice.address_type == group.address_type && slice.ports == group.ports);
        unclaimed = others;
        reconcile_group(group, mine, common, &mut changes);
    }
    changes.delete.extend(unclaimed.into_iter().map(|slice| slice.metadata.name.clone()));
    changes
}

struct Draft<'a> {
    slice: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn reconcile_group(mut group: Group, mine: Vec<&EndpointSlice>, common: &Common, changes: &mut Changes) {
    let mut drafts: Vec<Draft<'_>> = mine
        .into_iter()
        .map(|slice| {
            let kept = slice.endpoints.iter().filter_map(|endpoint| group.endpoints.remove(&identity(endpoint)));
            let endpoints: Vec<Endpoint> = kept.collect();
            let changed = endpoints != slice.endpoints
                || slice.metadata.labels != common.labels
                || common.annotations.as_ref().is_some_and(|wanted| *wanted != slice.metadata.annotations);
            Draft { slice, endpoints, changed }
        })
        .collect();
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    let mut left = group.endpoints.into_values();
    for draft in &mut drafts {
        let room = common.room.saturating_sub(draft.endpoints.len());
        let before = draft.endpoints.len();
        draft.endpoints.extend(left.by_ref().take(room));
        draft.changed |= draft.endpoints.len() > before;
    }
    let left: Vec<Endpoint> = left.collect();
    let content = |endpoints: &[Endpoint]| json!({ "addressType": group.address_type, "ports": group.ports, "endpoints": endpoints });
    changes.create.extend(left.chunks(common.room).map(content));
    let some = !left.is_empty() || drafts.iter().any(|draft| !draft.endpoints.is_empty());
    if !some && drafts.is_empty() {
        changes.create.push(content(&[]));
    }
    for (at, draft) in drafts.into_iter().enumerate() {
        let name = draft.slice.metadata.name.clone();
        // Of slices that became empty one stays if it is all there is.
        if draft.endpoints.is_empty() && (some || at > 0) {
            changes.delete.push(name);
        } else if draft.changed {
            changes.update.push((name, content(&draft.endpoints)));
        }
    }
}

/// The `subsets` of the Endpoints object: the primary addresses, by ports.
pub(super) fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<Subset> {
    let v6 = address_types(service).first() == Some(&"IPv6");
    let mut by_ports: Vec<(Vec<(&ServicePort, u16)>, Subset)> = Vec::new();
    let publish = service.spec.publish_not_ready_addresses;
    for pod in pods.iter().filter(|pod| takes_part(pod) && (publish || !pod.metadata.is_deleting())) {
        let Some(ip) = pod.ips().find(|ip| ip.contains(':') == v6) else { continue };
        let ports = ports_of(service, pod);
        // Only a headless Service may do without ports.
        if ports.is_empty() && !(is_headless(service) && service.spec.ports.is_empty()) {
            continue;
        }
        let address = Address {
            ip: ip.into(),
            hostname: hostname(service, pod).unwrap_or_default().into(),
            node_name: node_name(pod),
            target_ref: Some(target_ref(pod)),
        };
        let at = by_ports.iter().position(|(known, _)| *known == ports).unwrap_or_else(|| {
            let values = ports.iter().map(|(port, number)| endpoints_port(port, *number)).collect();
            by_ports.push((ports, Subset { ports: values, ..Subset::default() }));
            by_ports.len() - 1
        });
        let subset = &mut by_ports[at].1;
        let list = if publish || pod.is_ready() { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.push(address);
    }
    let mut subsets: Vec<Subset> = by_ports.into_iter().map(|(_, subset)| subset).collect();
    subsets.sort_by_cached_key(|subset| Value::from(subset.ports.clone()).to_string());
    for list in subsets.iter_mut().flat_map(|subset| [&mut subset.addresses, &mut subset.not_ready_addresses]) {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
    }
    subsets
}

/// Leaves as many addresses as an Endpoints object may have, those that are not ready going first, and of all subsets in
/// proportion. Whether some had to go.
pub(super) fn truncate(subsets: &mut [Subset]) -> bool {
    let count = |list: fn(&Subset) -> &Vec<Address>| subsets.iter().map(|subset| list(subset).len()).sum::<usize>();
    let (ready, others) = (count(|subset| &subset.addresses), count(|subset| &subset.not_ready_addresses));
    if ready + others <= MAX_ADDRESSES {
        return false;
    }
    let only_ready = ready > MAX_ADDRESSES;
    let (total, room) = if only_ready { (ready, MAX_ADDRESSES) } else { (others, MAX_ADDRESSES - ready) };
    let mut left = room;
    for subset in subsets {
        if only_ready {
            subset.not_ready_addresses.clear();
        }
        let list = if only_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.truncate((list.len() * room).div_ceil(total).min(left));
        left -= list.len();
    }
    true
}

fn endpoints_port(port: &ServicePort, number: u16) -> Value {
    let mut value = slice_port(port, number);
    if let Some(map) = value.as_object_mut().filter(|_| port.name.is_empty()) {
        map.remove("name");
    }
    value
}

/// The labels of the Endpoints object.
pub(super) fn endpoints_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    labels.insert(ENDPOINTS_MANAGED_BY.into(), ENDPOINTS_MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Whether an Endpoints object was made here.
pub(super) fn is_own(endpoints: &Meta) -> bool {
    endpoints.label(ENDPOINTS_MANAGED_BY) == Some(ENDPOINTS_MANAGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": spec}))
            .unwrap()
    }

    fn web() -> Service {
        service(&json!({"clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"],
                       "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}))
    }

    fn pod(number: usize, port: u16, ready: bool) -> Value {
        json!({
            "metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number:03}")},
            "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{number}")}],
                       "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn pods(values: impl IntoIterator<Item = Value>) -> Vec<Arc<Pod>> {
        values.into_iter().map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
    }

    fn zone(node: &str) -> Option<String> {
        (node == "n1").then(|| "z1".to_owned())
    }

    fn first(groups: &[Group]) -> &Endpoint {
        groups[0].endpoints.first_key_value().unwrap().1
    }

    /// As the API server would answer after `value` was created under `name`.
    fn slice(service: &Service, name: &str, value: &Value) -> Arc<EndpointSlice> {
        let mut value = value.clone();
        value["metadata"] = json!({"name": name, "namespace": "ns", "labels": slice_labels(service)});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn endpoints_tell_their_state() {
        let mut terminating = pod(3, 8080, true);
        terminating["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut ended = pod(4, 8080, true);
        ended["status"]["phase"] = json!("Failed");
        let mut without_ip = pod(5, 8080, false);
        without_ip["status"]["podIPs"] = json!([]);
        let pods = pods([pod(1, 8080, true), pod(2, 8080, false), terminating, ended, without_ip]);
        for (publish, want) in [
            (false, "u001:true/true/false u002:false/false/false u003:false/true/true"),
            (true, "u001:true/true/false u002:true/false/false u003:true/true/true"),
        ] {
            let mut service = web();
            service.spec.publish_not_ready_addresses = publish;
            let groups = groups(&service, &pods, zone);
            let show = |((uid, _), endpoint): (&Identity, &Endpoint)| {
                let is = endpoint.conditions;
                let [ready, serving, terminating] = [is.ready, is.serving, is.terminating].map(Option::unwrap);
                format!("{uid}:{ready}/{serving}/{terminating}")
            };
            assert_eq!(groups[0].endpoints.iter().map(show).collect::<Vec<_>>().join(" "), want);
            assert_eq!(groups[0].ports, [json!({"name": "", "port": 8080, "protocol": "TCP"})]);
            assert_eq!(first(&groups).zone.as_deref(), Some("z1"));
        }
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        let zones = json!([{"name": "z1"}]);
        for (distribution, ready, want) in [
            (None, true, None),
            (Some("PreferClose"), true, Some(json!({"forZones": zones}))),
            (Some("PreferSameZone"), true, Some(json!({"forZones": zones}))),
            (Some("PreferSameZone"), false, None),
            (Some("PreferSameNode"), true, Some(json!({"forZones": zones, "forNodes": [{"name": "n1"}]}))),
        ] {
            let mut service = web();
            service.spec.traffic_distribution = distribution.map(str::to_owned);
            let groups = groups(&service, &pods([pod(1, 8080, ready)]), zone);
            assert_eq!(first(&groups).hints, want, "{distribution:?}");
        }
    }

    #[test]
    fn pods_group_by_their_ports() {
        let pods = pods([pod(1, 8080, true), pod(2, 9090, true), pod(3, 8080, true)]);
        let groups = groups(&web(), &pods, zone);
        let show: Vec<_> = groups.iter().map(|group| (group.ports[0]["port"].clone(), group.endpoints.len())).collect();
        assert_eq!(show, [(json!(8080), 2), (json!(9090), 1)]);
        assert_eq!(subsets(&web(), &pods).len(), 2);
    }

    #[test]
    fn target_ports() {
        let pods = pods([pod(1, 8080, true)]);
        for (target, want) in
            [(json!("http"), Some(8080)), (json!(81), Some(81)), (Value::Null, Some(80)), (json!("x"), None)]
        {
            let port = ServicePort { port: 80, target_port: target, ..ServicePort::default() };
            assert_eq!(super::target(&port, &pods[0]), want);
        }
    }

    #[test]
    fn slices_are_filled_and_kept() {
        let (service, common) = (web(), Common { labels: slice_labels(&web()), annotations: None, room: 100 });
        let many = |numbers: std::ops::Range<usize>| pods(numbers.map(|number| pod(number, 8080, true)));
        let first = changes(&common, groups(&service, &many(0..150), zone), &[]);
        let sizes =
            |values: &[Value]| values.iter().map(|it| it["endpoints"].as_array().unwrap().len()).collect::<Vec<_>>();
        assert_eq!(sizes(&first.create), [100, 50]);
        let existing = [slice(&service, "a", &first.create[0]), slice(&service, "b", &first.create[1])];
        assert_eq!(changes(&common, groups(&service, &many(0..150), zone), &existing), Changes::default());
        let grown = changes(&common, groups(&service, &many(0..151), zone), &existing);
        assert_eq!((grown.create.len(), grown.delete.len()), (0, 0));
        assert_eq!(grown.update.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
        let shrunk = changes(&common, groups(&service, &many(0..100), zone), &existing);
        assert_eq!((shrunk.create.len(), shrunk.update.len(), shrunk.delete), (0, 0, vec!["b".to_owned()]));
        let none = changes(&common, groups(&service, &[], zone), &existing);
        assert_eq!((sizes(&none.create), none.delete.len()), (vec![0], 2));
        let empty = [slice(&service, "e", &none.create[0])];
        assert_eq!(changes(&common, groups(&service, &[], zone), &empty), Changes::default());
    }

    #[test]
    fn one_of_many_pods_changes_one_slice() {
        let service = web();
        let many = |changed: usize| pods((0..1500).map(|number| pod(number, 80, number != changed)));
        let slices_of = |pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]| {
            let common = Common { labels: slice_labels(&service), annotations: None, room: 100 };
            changes(&common, groups(&service, pods, zone), existing)
        };
        let made = slices_of(&many(usize::MAX), &[]);
        let existing: Vec<_> =
            made.create.iter().enumerate().map(|(at, value)| slice(&service, &format!("s{at}"), value)).collect();
        assert_eq!((made.create.len(), made.update.len()), (15, 0));
        let changed = slices_of(&many(700), &existing);
        assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len()), (0, 1, 0));
        assert_eq!(slices_of(&many(usize::MAX), &existing), Changes::default());
    }

    #[test]
    fn headless_services_name_their_pods() {
        let service = service(&json!({"clusterIP": "None"}));
        let mut named = pod(1, 8080, true);
        named["spec"]["hostname"] = json!("db-0");
        named["spec"]["subdomain"] = json!("web");
        let groups = groups(&service, &pods([named]), zone);
        assert_eq!(first(&groups).hostname.as_deref(), Some("db-0"));
        assert!(groups[0].ports.is_empty());
        assert_eq!(slice_labels(&service).get(HEADLESS).map(String::as_str), Some(""));
    }

    #[test]
    fn endpoints_without_their_port_are_none() {
        let spec = json!({"clusterIP": "None", "ports": [{"port": 80, "targetPort": "x"}]});
        assert_eq!(subsets(&service(&spec), &pods([pod(1, 8080, true)])), []);
        assert_eq!(subsets(&service(&json!({"clusterIP": "None"})), &pods([pod(1, 8080, true)])).len(), 1);
    }

    #[test]
    fn too_many_addresses_go_in_proportion_those_that_are_not_ready_first() {
        // (ready and others of each subset, want, whether some went)
        type Case = (&'static [(usize, usize)], &'static [(usize, usize)], bool);
        let cases: [Case; 6] = [
            (&[(500, 500)], &[(500, 500)], false),
            (&[(600, 600)], &[(600, 400)], true),
            (&[(1100, 5)], &[(1000, 0)], true),
            (&[(1000, 1000), (1000, 0)], &[(500, 0), (500, 0)], true),
            (&[(400, 300), (400, 100)], &[(400, 150), (400, 50)], true),
            (&[(1, 0), (2000, 0), (1, 0)], &[(1, 0), (999, 0), (0, 0)], true),
        ];
        for (before, want, truncated) in cases {
            let subset = |(ready, others): &(usize, usize)| Subset {
                addresses: vec![Address::default(); *ready],
                not_ready_addresses: vec![Address::default(); *others],
                ports: Vec::new(),
            };
            let mut subsets: Vec<Subset> = before.iter().map(subset).collect();
            assert_eq!(truncate(&mut subsets), truncated, "{before:?}");
            let sizes: Vec<_> = subsets.iter().map(|it| (it.addresses.len(), it.not_ready_addresses.len())).collect();
            assert_eq!(sizes, want, "{before:?}");
        }
    }

    #[test]
    fn endpoints_object() {
        let subsets = json!(subsets(&web(), &pods([pod(2, 8080, true), pod(1, 8080, true), pod(3, 8080, false)])));
        let ips = |field: &str| -> Vec<_> {
            subsets[0][field].as_array().unwrap().iter().map(|address| address["ip"].as_str().unwrap()).collect()
        };
        assert_eq!((ips("addresses"), ips("notReadyAddresses")), (vec!["10.0.0.1", "10.0.0.2"], vec!["10.0.0.3"]));
        assert_eq!(subsets[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        assert_eq!(
            subsets[0]["addresses"][0],
            json!({"ip": "10.0.0.1", "nodeName": "n1",
                   "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u001"}})
        );
    }
}
