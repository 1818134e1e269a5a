//! The cluster's names: a plain index of Services, and what a query gets from it. No I/O.
//!
//! By the specification "Kubernetes DNS-Based Service Discovery" 1.1.0.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// Seconds that answers may be kept: short, since endpoints come and go.
const TTL: u32 = 5;
/// Seconds for what does not change.
const LONG_TTL: u32 = 30;
/// `in-addr.arpa` or `ip6.arpa`.
const REVERSE_LABELS: usize = 2;
/// How many names in this zone an ExternalName may lead through.
const MAX_ALIASES: usize = 8;

/// A named or numbered port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    #[serde(rename = "n")]
    pub(super) name: String,
    #[serde(rename = "t")]
    pub(super) protocol: String,
    #[serde(rename = "p")]
    pub(super) port: u16,
}

/// One address of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    #[serde(rename = "a")]
    pub(super) address: IpAddr,
    #[serde(rename = "h")]
    pub(super) host: String,
    #[serde(rename = "p")]
    pub(super) ports: Vec<Port>,
}

/// What DNS knows of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ServiceRecord {
    #[serde(rename = "a", skip_serializing_if = "Vec::is_empty")]
    pub(super) addresses: Vec<IpAddr>,
    #[serde(rename = "p", skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<Port>,
    #[serde(rename = "x", skip_serializing_if = "Option::is_none")]
    pub(super) external: Option<String>,
    #[serde(rename = "h", skip_serializing_if = "std::ops::Not::not")]
    pub(super) headless: bool,
    #[serde(rename = "e", skip_serializing_if = "Vec::is_empty")]
    pub(super) endpoints: Vec<Endpoint>,
}

/// Services by `namespace/name`.
pub(super) type Services = BTreeMap<String, ServiceRecord>;

/// A change of the zone, as the supervisor sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Update {
    /// Everything.
    Snapshot(Services),
    /// What has changed; `None` for what is gone.
    Delta(BTreeMap<String, Option<ServiceRecord>>),
}

/// What a query gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Records; none means that the name exists but has none of this type.
    Answer { answers: Vec<Record>, extra: Vec<Record> },
    /// These records, and what the rest of the world says of the target.
    Alias { answers: Vec<Record>, target: Name },
    /// No such name.
    NoSuchName,
    /// Not our name: ask elsewhere.
    Elsewhere,
}

/// The zone and its index.
#[derive(Debug)]
pub(super) struct Zone {
    domain: Name,
    labels: Vec<String>,
    /// Where this server is, for the zone's NS record.
    own: IpAddr,
    reverse: Vec<Cidr>,
    services: Services,
    /// How many Services a namespace has.
    namespaces: HashMap<String, usize>,
    /// Names of addresses, with the Service that gives them.
    pointers: HashMap<IpAddr, BTreeMap<String, Vec<String>>>,
    serial: u32,
}

impl Zone {
    /// An empty zone.
    pub(super) fn new(domain: Name, own: IpAddr, reverse: Vec<Cidr>) -> Self {
        let labels = labels(&domain);
        Self {
            domain,
            labels,
            own,
            reverse,
            services: Services::new(),
            namespaces: HashMap::new(),
            pointers: HashMap::new(),
            serial: 1,
        }
    }

    /// Applies a change.
    pub(super) fn apply(&mut self, update: Update) {
        self.serial = self.serial.wrapping_add(1);
        match update {
            Update::Snapshot(services) => {
                let gone: Vec<_> = self.services.keys().filter(|key| !services.contains_key(*key)).cloned().collect();
                gone.iter().for_each(|key| self.set(key, None));
                services.into_iter().for_each(|(key, record)| self.set(&key, Some(record)));
            }
            Update::Delta(changes) => changes.into_iter().for_each(|(key, record)| self.set(&key, record)),
        }
    }

    /// Everything, to be kept.
    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    fn set(&mut self, key: &str, record: Option<ServiceRecord>) {
        if self.services.get(key) == record.as_ref() {
            return;
        }
        let Some((namespace, name)) = key.split_once('/') else { return };
        if let Some(old) = self.services.remove(key) {
            for address in old.addresses.iter().chain(old.endpoints.iter().map(|endpoint| &endpoint.address)) {
                if let Some(names) = self.pointers.get_mut(address) {
                    names.remove(key);
                    if names.is_empty() {
                        self.pointers.remove(address);
                    }
                }
            }
            if let Some(count) = self.namespaces.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    self.namespaces.remove(namespace);
                }
            }
        }
        let Some(record) = record else { return };
        *self.namespaces.entry(namespace.to_owned()).or_default() += 1;
        let mut point = |address: IpAddr, labels: String| {
            self.pointers.entry(address).or_default().entry(key.to_owned()).or_default().push(labels);
        };
        for address in &record.addresses {
            point(*address, format!("{name}.{namespace}.svc"));
        }
        for endpoint in &record.endpoints {
            point(endpoint.address, format!("{}.{name}.{namespace}.svc", endpoint.host));
        }
        self.services.insert(key.to_owned(), record);
    }

    /// Answers a query for a name.
    pub(super) fn look_up(&self, name: &Name, kind: RecordType) -> Outcome {
        if let Some(address) = reverse_address(name) {
            return self.pointer(name, address, kind);
        }
        let mut found = Vec::new();
        let mut name = name.clone();
        for _ in 0..MAX_ALIASES {
            let Some(inside) = self.inside(&name) else {
                // Not ours at all, or an alias to the outside.
                return if found.is_empty() {
                    Outcome::Elsewhere
                } else {
                    Outcome::Alias { answers: found, target: name }
                };
            };
            match self.resolve(&name, &inside, kind) {
                Found::Alias(target) => {
                    let alias = record(&name, TTL, RData::CNAME(CNAME(target.clone())));
                    found.push(alias);
                    if kind == RecordType::CNAME {
                        return Outcome::Answer { answers: found, extra: Vec::new() };
                    }
                    name = target;
                }
                Found::Records(answers, extra) => {
                    found.extend(answers);
                    return Outcome::Answer { answers: found, extra };
                }
                Found::Nothing if found.is_empty() => return Outcome::NoSuchName,
                Found::Nothing => return Outcome::Answer { answers: found, extra: Vec::new() },
            }
        }
        Outcome::Answer { answers: found, extra: Vec::new() }
    }

    /// The labels left of the zone's own, in lower case.
    fn inside(&self, name: &Name) -> Option<Vec<String>> {
        let mut labels = labels(name);
        let rest = labels.len().checked_sub(self.labels.len())?;
        if labels[rest..] != self.labels[..] {
            return None;
        }
        labels.truncate(rest);
        Some(labels)
    }

    fn resolve(&self, name: &Name, inside: &[String], kind: RecordType) -> Found {
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        match inside[..] {
            [] => self.apex(kind),
            ["dns-version"] => {
                let version = record(name, LONG_TTL, RData::TXT(TXT::new(vec!["1.1.0".to_owned()])));
                Found::only(if kind == RecordType::TXT { vec![version] } else { Vec::new() })
            }
            ["ns", "dns"] => Found::only(addresses(name, LONG_TTL, &[self.own], kind)),
            ["svc" | "pod" | "dns"] | [_, "pod"] => Found::only(Vec::new()),
            [namespace, "svc"] if self.namespaces.contains_key(namespace) => Found::only(Vec::new()),
            [dashed, _, "pod"] => match pod_address(dashed) {
                Some(address) => Found::only(addresses(name, LONG_TTL, &[address], kind)),
                None => Found::Nothing,
            },
            [service, namespace, "svc"] => self.service(name, namespace, service, kind),
            [host, service, namespace, "svc"] => self.endpoint(name, namespace, service, host, kind),
            [port, protocol, service, namespace, "svc"] => self.port(name, namespace, service, port, protocol, kind),
            _ => Found::Nothing,
        }
    }

    fn get(&self, namespace: &str, service: &str) -> Option<&ServiceRecord> {
        self.services.get(&format!("{namespace}/{service}"))
    }

    fn apex(&self, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::only(vec![self.soa(&self.domain)]),
            RecordType::NS => {
                let server = self.name("ns.dns");
                let answer = record(&self.domain, LONG_TTL, RData::NS(NS(server.clone())));
                Found::Records(vec![answer], vec![address_record(&server, LONG_TTL, self.own)])
            }
            _ => Found::only(Vec::new()),
        }
    }

    /// The record that goes with "no such name" and "none of this type": of the zone that the name is in, since resolvers
    /// do not believe one of another.
    pub(super) fn soa(&self, name: &Name) -> Record {
        let soa = SOA::new(self.name("ns.dns"), self.name("hostmaster"), self.serial, 7200, 1800, 86400, TTL);
        let zone = if self.inside(name).is_some() { self.domain.clone() } else { name.trim_to(REVERSE_LABELS) };
        record(&zone, TTL, RData::SOA(soa))
    }

    fn service(&self, name: &Name, namespace: &str, service: &str, kind: RecordType) -> Found {
        let Some(found) = self.get(namespace, service) else { return Found::Nothing };
        if let Some(target) = &found.external {
            return match Name::from_utf8(format!("{target}.")) {
                Ok(target) => Found::Alias(target),
                Err(_) => Found::only(Vec::new()),
            };
        }
        // The specification wants no such name while none is ready.
        if found.headless && found.endpoints.is_empty() {
            return Found::Nothing;
        }
        if kind == RecordType::SRV {
            return self.service_ports(name, found, name, |_| true);
        }
        let endpoints = found.endpoints.iter().map(|endpoint| endpoint.address);
        let all: Vec<IpAddr> = found.addresses.iter().copied().chain(endpoints).collect();
        Found::only(addresses(name, TTL, &all, kind))
    }

    fn endpoint(&self, name: &Name, namespace: &str, service: &str, host: &str, kind: RecordType) -> Found {
        let Some(found) = self.get(namespace, service) else { return Found::Nothing };
        if matches!(host, "_tcp" | "_udp" | "_sctp") {
            return Found::only(Vec::new());
        }
        let matching = found.endpoints.iter().filter(|endpoint| endpoint.host == host);
        let all: Vec<IpAddr> = matching.map(|endpoint| endpoint.address).collect();
        if all.is_empty() { Found::Nothing } else { Found::only(addresses(name, TTL, &all, kind)) }
    }

    fn port(&self, name: &Name, namespace: &str, service: &str, port: &str, protocol: &str, kind: RecordType) -> Found {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Found::Nothing;
        };
        let Some(found) = self.get(namespace, service) else { return Found::Nothing };
        let own = self.name(&format!("{service}.{namespace}.svc"));
        let records = self.service_ports(name, found, &own, |known| known.name == port && known.protocol == protocol);
        match records {
            Found::Records(answers, _) if answers.is_empty() => Found::Nothing,
            Found::Records(..) if kind != RecordType::SRV => Found::only(Vec::new()),
            other => other,
        }
    }

    /// SRV records of a Service's ports: at its own name, or at each endpoint's for a headless one.
    fn service_ports(&self, name: &Name, found: &ServiceRecord, own: &Name, wanted: impl Fn(&Port) -> bool) -> Found {
        let mut answers = Vec::new();
        let mut extra = Vec::new();
        let mut add = |target: &Name, ports: &[Port], addresses: &[IpAddr]| {
            let before = answers.len();
            for port in ports.iter().filter(|port| wanted(port)) {
                answers.push(record(name, TTL, RData::SRV(SRV::new(0, 100, port.port, target.clone()))));
            }
            if answers.len() > before {
                extra.extend(addresses.iter().map(|address| address_record(target, TTL, *address)));
            }
        };
        if found.headless {
            for endpoint in &found.endpoints {
                if let Ok(target) = own.prepend_label(endpoint.host.as_bytes()) {
                    add(&target, &endpoint.ports, &[endpoint.address]);
                }
            }
        } else {
            add(own, &found.ports, &found.addresses);
        }
        Found::Records(answers, extra)
    }

    fn pointer(&self, name: &Name, address: IpAddr, kind: RecordType) -> Outcome {
        let Some(names) = self.pointers.get(&address) else {
            let ours = self.reverse.iter().any(|range| range.contains(&address));
            return if ours { Outcome::NoSuchName } else { Outcome::Elsewhere };
        };
        let mut answers = Vec::new();
        if matches!(kind, RecordType::PTR | RecordType::ANY) {
            let targets = names.values().flatten().map(|labels| self.name(labels));
            answers.extend(targets.map(|target| record(name, TTL, RData::PTR(PTR(target)))));
        }
        Outcome::Answer { answers, extra: Vec::new() }
    }

    fn name(&self, labels: &str) -> Name {
        let relative = Name::from_labels(labels.split('.').map(str::as_bytes)).unwrap_or_default();
        // Too long to be a name: the zone itself is the least wrong.
        relative.append_domain(&self.domain).unwrap_or_else(|_| self.domain.clone())
    }
}

enum Found {
    Records(Vec<Record>, Vec<Record>),
    Alias(Name),
    Nothing,
}

impl Found {
    fn only(answers: Vec<Record>) -> Self {
        Self::Records(answers, Vec::new())
    }
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

fn record(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}

fn address_record(name: &Name, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    record(name, ttl, data)
}

fn addresses(name: &Name, ttl: u32, all: &[IpAddr], kind: RecordType) -> Vec<Record> {
    let wanted = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    all.iter().filter(wanted).map(|address| address_record(name, ttl, *address)).collect()
}

/// `10-244-1-7` or `fd00--7`.
fn pod_address(dashed: &str) -> Option<IpAddr> {
    if let Ok(v4) = dashed.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(v4.into());
    }
    dashed.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// The address in a whole reverse name (`7.1.244.10.in-addr.arpa.`).
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = labels(name);
    match &labels[..] {
        [bytes @ .., zone, arpa] if zone == "in-addr" && arpa == "arpa" && bytes.len() == 4 => {
            let bytes: Option<Vec<u8>> = bytes.iter().rev().map(|text| text.parse().ok()).collect();
            let bytes: [u8; 4] = bytes?.try_into().ok()?;
            Some(bytes.into())
        }
        [nibbles @ .., zone, arpa] if zone == "ip6" && arpa == "arpa" && nibbles.len() == 32 => {
            let digits: String = nibbles.iter().rev().map(String::as_str).collect();
            (digits.len() == 32)
                .then(|| u128::from_str_radix(&digits, 16).ok())
                .flatten()
                .map(|bits| Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(super) mod tests;
