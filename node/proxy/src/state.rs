//! What the maps should say of one Service: a pure function of the Service, its EndpointSlices and this node's place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use abi::service_flag;
use informer::ObjectKey;
use informer::kinds::{Endpoint, EndpointHints, EndpointSlice, Named, Service, ServicePort};

/// A Service with this label belongs to another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// A Service with this label wants no proxy at all.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// A node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Upstream's default for session affinity: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A transport protocol that the programs translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Protocol {
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

/// Where a client aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Its family.
    pub family: Family,
    /// Its address; `None` for a node port.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Names a set of backends that frontends share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetKey {
    /// Family of the backends.
    pub family: Family,
    /// Name of the service's port.
    pub port: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Only endpoints on this node.
    pub local: bool,
}

/// Who has entries in the maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A Service.
    Service(ObjectKey),
    /// The host ports of this node's pods.
    HostPorts,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::HostPorts => f.write_str("host ports of pods"),
        }
    }
}

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its backends.
    pub set: SetKey,
    /// Of [`service_flag`].
    pub flags: u16,
    /// Seconds, or zero.
    pub affinity: u32,
}

/// Everything the maps should say of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Backends in ascending order.
    pub sets: BTreeMap<SetKey, Vec<SocketAddr>>,
    /// Frontends.
    pub frontends: BTreeMap<Frontend, Target>,
    /// Datagram endpoints that terminate but still serve: who talks to one goes on.
    pub draining: BTreeSet<SocketAddr>,
}

/// Pods' ports on this node: protocol (IANA's number) and address, unspecified for every one of the node's → the pod.
pub type HostPorts = BTreeMap<(u8, SocketAddr), SocketAddr>;

/// What the maps should say of host ports. What no program translates, as SCTP, is left out.
pub fn host_ports(ports: &HostPorts) -> Desired {
    let mut wanted = Desired::default();
    for ((number, at), pod) in ports {
        let protocol = match *number {
            abi::proto::TCP => Protocol::Tcp,
            abi::proto::UDP => Protocol::Udp,
            _ => continue,
        };
        let family = family_of(&pod.ip());
        let set = SetKey { family, port: pod.to_string(), protocol, local: true };
        wanted.sets.insert(set.clone(), vec![*pod]);
        let address = (!at.ip().is_unspecified()).then(|| at.ip());
        let target = Target { set, flags: service_flag::HOST_PORT, affinity: 0 };
        wanted.frontends.insert(Frontend { family, address, port: at.port(), protocol }, target);
    }
    wanted
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name, as in an endpoint's `nodeName`.
    pub node: &'a str,
    /// Its zone, by label [`ZONE`].
    pub zone: Option<&'a str>,
}

/// Computes what the maps should say.
pub fn desired(service: &Service, slices: &[Arc<EndpointSlice>], place: Place<'_>) -> Desired {
    let mut wanted = Desired::default();
    let labels = &service.metadata.labels;
    let headless = service.spec.cluster_ip == "None" || service.spec.cluster_ip.is_empty();
    if service.spec.r#type == "ExternalName"
        || headless
        || labels.contains_key(PROXY_NAME)
        || labels.contains_key(HEADLESS)
    {
        return wanted;
    }
    for port in &service.spec.ports {
        let Some(protocol) = protocol(&port.protocol) else { continue };
        add_port(&mut wanted, service, port, protocol, slices, place);
    }
    wanted
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "TCP" | "" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

fn add_port(
    wanted: &mut Desired,
    service: &Service,
    port: &ServicePort,
    protocol: Protocol,
    slices: &[Arc<EndpointSlice>],
    place: Place<'_>,
) {
    let spec = &service.spec;
    let affinity = match spec.session_affinity.as_str() {
        "ClientIP" => {
            let configured = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.timeout_seconds);
            configured.unwrap_or(AFFINITY_SECONDS)
        }
        _ => 0,
    };
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let flags = if external_local { service_flag::EXTERNAL_LOCAL } else { 0 };
    let cluster =
        addresses(if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips });
    // Only addresses that a load balancer claims as its own may be short-circuited.
    let ingress = &service.status.load_balancer.ingress;
    let ingress: Vec<_> =
        ingress.iter().filter(|at| at.ip_mode.as_deref() != Some("Proxy")).map(|at| at.ip.clone()).collect();
    let external: BTreeSet<_> = addresses(&spec.external_ips).into_iter().chain(addresses(&ingress)).collect();

    let mut add = |family, address, number, local, flags| {
        let set = SetKey { family, port: port.name.clone(), protocol, local };
        wanted.sets.entry(set.clone()).or_insert_with(|| backends(slices, &set, place));
        wanted.frontends.insert(Frontend { family, address, port: number, protocol }, Target { set, flags, affinity });
    };
    for address in &cluster {
        add(family_of(address), Some(*address), port.port, internal_local, 0);
    }
    // From inside the cluster, upstream sends external addresses and node ports to every endpoint, whatever
    // externalTrafficPolicy says of clients from outside.
    for address in external {
        add(family_of(&address), Some(address), port.port, false, flags);
    }
    if port.node_port != 0 {
        let families: BTreeSet<_> = cluster.iter().map(family_of).collect();
        for family in families {
            add(family, None, port.node_port, false, flags);
        }
    }
    if protocol == Protocol::Udp {
        let sets = wanted.sets.keys().filter(|set| set.protocol == protocol && set.port == port.name);
        let draining = sets.flat_map(|set| endpoints(slices, set, place).draining).map(|(at, _)| at);
        wanted.draining.extend(draining.collect::<Vec<_>>());
    }
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The family of an address.
pub fn family_of(address: &IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Ready endpoints, by topology hints those for here; where none is ready, those that terminate but still serve.
fn backends(slices: &[Arc<EndpointSlice>], set: &SetKey, place: Place<'_>) -> Vec<SocketAddr> {
    let Endpoints { ready, draining } = endpoints(slices, set, place);
    let chosen = match (ready.is_empty(), set.local) {
        (true, _) => draining,
        (false, true) => ready,
        (false, false) => nearest(ready, place),
    };
    let chosen: BTreeSet<_> = chosen.into_iter().map(|(at, _)| at).collect();
    chosen.into_iter().take(usize::from(u16::MAX)).collect()
}

/// Endpoints of a set that answer.
#[derive(Default)]
struct Endpoints<'a> {
    ready: Vec<(SocketAddr, &'a Endpoint)>,
    /// Those that terminate but still serve.
    draining: Vec<(SocketAddr, &'a Endpoint)>,
}

fn endpoints<'a>(slices: &'a [Arc<EndpointSlice>], set: &SetKey, place: Place<'_>) -> Endpoints<'a> {
    let Endpoints { mut ready, mut draining } = Endpoints::default();
    for slice in slices {
        let matching = matching_ports(slice, set);
        for endpoint in &slice.endpoints {
            if set.local && endpoint.node_name.as_deref() != Some(place.node) {
                continue;
            }
            let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                continue;
            };
            if family_of(&address) != set.family {
                continue;
            }
            let Some(list) = usable(endpoint, &mut ready, &mut draining) else { continue };
            list.extend(matching.iter().map(|port| (SocketAddr::new(address, *port), endpoint)));
        }
    }
    Endpoints { ready, draining }
}

/// Those that hints give to this node, else to its zone. Hints count only where every endpoint has them and one is for
/// here; else all are taken.
fn nearest<'a>(mut all: Vec<(SocketAddr, &'a Endpoint)>, place: Place<'_>) -> Vec<(SocketAddr, &'a Endpoint)> {
    type List = fn(&EndpointHints) -> &[Named];
    let lists: [(List, Option<&str>); 2] =
        [(|hints| &hints.for_nodes, Some(place.node)), (|hints| &hints.for_zones, place.zone)];
    for (list, here) in lists {
        let Some(here) = here else { continue };
        let hinted = |endpoint: &'a Endpoint| endpoint.hints.as_ref().map_or(&[][..], list);
        let is_near = |endpoint| hinted(endpoint).iter().any(|named| named.name == here);
        if all.iter().all(|(_, endpoint)| !hinted(endpoint).is_empty()) && all.iter().any(|(_, at)| is_near(at)) {
            all.retain(|(_, endpoint)| is_near(endpoint));
            break;
        }
    }
    all
}

fn matching_ports(slice: &EndpointSlice, set: &SetKey) -> Vec<u16> {
    let ports = slice.ports.iter().filter(|port| {
        port.name.as_deref().unwrap_or("") == set.port
            && protocol(port.protocol.as_deref().unwrap_or("")) == Some(set.protocol)
    });
    ports.filter_map(|port| port.port).collect()
}

fn usable<'a, L>(endpoint: &Endpoint, ready: &'a mut L, draining: &'a mut L) -> Option<&'a mut L> {
    let conditions = &endpoint.conditions;
    if conditions.ready.unwrap_or(true) {
        return Some(ready);
    }
    let drains = conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false);
    drains.then_some(draining)
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables of JSON literals")]
mod tests {
    use informer::kinds::SERVICE_NAME;
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    fn slice(endpoints: Value) -> Arc<EndpointSlice> {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    const HERE: Place<'_> = Place { node: "here", zone: Some("east") };

    /// One line a frontend: `proto address:port[ flags][ affinity] -> backends`.
    fn render(wanted: &Desired) -> Vec<String> {
        let line = |(front, target): (&Frontend, &Target)| {
            let address = front.address.map_or("node".to_owned(), |address| address.to_string());
            let backends: Vec<_> = wanted.sets[&target.set].iter().map(ToString::to_string).collect();
            let flags = ["", " external-local", " host-port"][usize::from(target.flags)];
            let affinity = if target.affinity == 0 { String::new() } else { format!(" {}s", target.affinity) };
            format!("{:?} {address}:{}{flags}{affinity} -> {}", front.protocol, front.port, backends.join(" "))
        };
        wanted.frontends.iter().map(line).collect()
    }

    fn check(name: &str, spec: Value, endpoints: Value, expected: &[&str]) {
        let wanted = desired(&service(spec), &[slice(endpoints)], HERE);
        assert_eq!(render(&wanted), expected, "{name}");
    }

    #[test]
    fn ports_of_the_node() {
        let port = |number, at: &str, pod: &str| ((number, at.parse().unwrap()), pod.parse().unwrap());
        let wanted = host_ports(&HostPorts::from([
            port(6, "0.0.0.0:80", "10.0.0.1:8080"),
            port(17, "127.0.0.1:80", "10.0.0.1:8080"),
            port(6, "192.0.2.1:81", "10.0.0.1:8080"),
            port(132, "0.0.0.0:82", "10.0.0.1:8080"),
        ]));
        let expected = [
            "Tcp node:80 host-port -> 10.0.0.1:8080",
            "Udp 127.0.0.1:80 host-port -> 10.0.0.1:8080",
            "Tcp 192.0.2.1:81 host-port -> 10.0.0.1:8080",
        ];
        assert_eq!(render(&wanted), expected);
        assert_eq!(wanted.sets.len(), 2);
    }

    fn two() -> Value {
        json!([{"addresses": ["10.0.0.2"], "nodeName": "there"}, {"addresses": ["10.0.0.1"], "nodeName": "here"}])
    }

    #[test]
    fn frontends() {
        let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        check(
            "cluster IP",
            json!({"clusterIP": "10.96.0.5", "ports": http}),
            two(),
            &["Tcp 10.96.0.5:80 -> 10.0.0.1:8080 10.0.0.2:8080"],
        );
        check(
            "node port, external addresses",
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "externalIPs": ["1.2.3.4"], "externalTrafficPolicy": "Local",
                   "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
            two(),
            &[
                "Tcp node:30080 external-local -> 10.0.0.1:8080 10.0.0.2:8080",
                "Tcp 1.2.3.4:80 external-local -> 10.0.0.1:8080 10.0.0.2:8080",
                "Tcp 10.96.0.5:80 -> 10.0.0.1:8080 10.0.0.2:8080",
            ],
        );
        check(
            "internal policy Local",
            json!({"clusterIP": "10.96.0.5", "internalTrafficPolicy": "Local", "ports": http}),
            two(),
            &["Tcp 10.96.0.5:80 -> 10.0.0.1:8080"],
        );
        check(
            "affinity with its default, and UDP",
            json!({"clusterIP": "10.96.0.5", "sessionAffinity": "ClientIP", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
            two(),
            &["Udp 10.96.0.5:53 10800s -> 10.0.0.1:5353 10.0.0.2:5353"],
        );
        check(
            "unknown port name",
            json!({"clusterIP": "10.96.0.5", "ports": [{"name": "x", "port": 80}]}),
            two(),
            &["Tcp 10.96.0.5:80 -> "],
        );
        check("headless", json!({"clusterIP": "None", "ports": http}), two(), &[]);
        check("not allocated", json!({"ports": http}), two(), &[]);
        check("external name", json!({"type": "ExternalName", "externalName": "x.org"}), two(), &[]);
        check("SCTP", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 1, "protocol": "SCTP"}]}), two(), &[]);
    }

    #[test]
    fn other_proxies_and_load_balancers() {
        let mut object = service(json!({"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}]}));
        object.status.load_balancer.ingress = serde_json::from_value(json!([
            {"ip": "5.5.5.5"}, {"hostname": "x"}, {"ip": "6.6.6.6", "ipMode": "Proxy"}]))
        .unwrap();
        let lines = render(&desired(&object, &[slice(two())], HERE));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("Tcp 5.5.5.5:80"), "{lines:?}");
        object.metadata.labels.insert(PROXY_NAME.into(), "other".into());
        assert_eq!(desired(&object, &[slice(two())], HERE), Desired::default());
    }

    #[test]
    fn endpoint_conditions() {
        let spec = || json!({"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}]});
        let endpoint =
            |last: u8, conditions: Value| json!({"addresses": [format!("10.0.0.{last}")], "conditions": conditions});
        let ready = endpoint(1, json!({"ready": true, "serving": true, "terminating": false}));
        let unready = endpoint(2, json!({"ready": false, "serving": false, "terminating": false}));
        let draining = endpoint(3, json!({"ready": false, "serving": true, "terminating": true}));
        let dying = endpoint(4, json!({"ready": false, "serving": false, "terminating": true}));
        let cases: &[(&str, Value, &str)] = &[
            ("ready only", json!([ready, unready, draining, dying]), "10.0.0.1:8080"),
            ("draining instead of none", json!([unready, draining, dying]), "10.0.0.3:8080"),
            (
                "serving, where it is not said",
                json!([endpoint(5, json!({"ready": false, "terminating": true}))]),
                "10.0.0.5:8080",
            ),
            ("none", json!([unready, dying]), ""),
            ("twice the same", json!([ready, ready]), "10.0.0.1:8080"),
            ("other family", json!([{"addresses": ["fd00::1"]}]), ""),
            ("not an address", json!([{"addresses": ["x"]}, {"addresses": []}]), ""),
        ];
        for (name, endpoints, expected) in cases {
            check(name, spec(), endpoints.clone(), &[&format!("Tcp 10.96.0.5:80 -> {expected}")]);
        }
    }

    #[test]
    fn draining_endpoints_of_datagrams() {
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        let endpoints = || json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"], "conditions": conditions}]);
        for (port, expected) in [("http", vec![]), ("dns", vec!["10.0.0.2:5353"])] {
            let protocol = if port == "dns" { "UDP" } else { "TCP" };
            let spec = json!({"clusterIP": "10.96.0.5", "ports": [{"name": port, "port": 53, "protocol": protocol}]});
            let wanted = desired(&service(spec), &[slice(endpoints())], HERE);
            assert_eq!(wanted.draining.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{port}");
        }
    }

    #[test]
    fn topology_hints() {
        let spec = |policy: &str| json!({"clusterIP": "10.96.0.5", "internalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80}]});
        let endpoint = |last: u8, hints: Value| json!({"addresses": [format!("10.0.0.{last}")], "nodeName": "here", "hints": hints});
        let zone = |name: &str| json!({"forZones": [{"name": name}]});
        let node = |name: &str| json!({"forZones": [{"name": "east"}], "forNodes": [{"name": name}]});
        let all = "10.0.0.1:8080 10.0.0.2:8080";
        let cases: &[(&str, Value, Value, &str)] = &[
            ("one zone is near", zone("east"), zone("west"), "10.0.0.1:8080"),
            ("both are", zone("east"), zone("east"), all),
            ("none is", zone("west"), zone("north"), all),
            ("one has no hints", zone("east"), Value::Null, all),
            ("the node before the zone", node("here"), node("there"), "10.0.0.1:8080"),
            ("no node of these, but the zone", node("x"), node("y"), all),
            ("not every one for a node", node("here"), zone("west"), "10.0.0.1:8080"),
            ("a list that is null", json!({"forZones": null}), zone("east"), all),
        ];
        for (name, one, two, expected) in cases {
            let endpoints = json!([endpoint(1, one.clone()), endpoint(2, two.clone())]);
            check(name, spec("Cluster"), endpoints.clone(), &[&format!("Tcp 10.96.0.5:80 -> {expected}")]);
            check(name, spec("Local"), endpoints, &[&format!("Tcp 10.96.0.5:80 -> {all}")]);
        }
    }
}
