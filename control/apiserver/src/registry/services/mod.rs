//! Cluster IPs and node ports of Services: claimed before the write, released when it fails or the Service goes.

mod allocators;
mod families;
mod pool;

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use apimachinery::status::Status;
use serde_json::{Value, json};
use store::Entry;

pub(crate) use allocators::Allocators;

use super::resource::Storage;
use super::write::{Part, Writer};
use super::{Registry, convert};

fn is_service(storage: &Storage) -> bool {
    (storage.group, storage.resource) == ("", "services")
}

/// Builds the pools and takes what the services hold.
pub(super) async fn allocators(registry: &Registry) -> Result<Allocators, Status> {
    let config = registry.config();
    let allocators = Allocators::new(&config.service_cidr, config.service_node_port_range)?;
    for entry in registry.cache("", "services").await?.snapshot().range("", None) {
        allocators.adopt(&convert::parse(&entry.bytes)?);
    }
    Ok(allocators)
}

/// Releases what a deleted object held.
pub(super) async fn release(registry: &Registry, storage: &Storage, entry: &Entry) {
    if !is_service(storage) {
        return;
    }
    // Pools that were never built have nothing to release.
    if let (Ok(allocators), Ok(service)) = (registry.allocators().await, convert::parse(&entry.bytes)) {
        allocators::addresses(&service).into_iter().for_each(|address| allocators.release_address(address));
        allocators::node_ports(&service).into_iter().for_each(|port| allocators.release_port(port));
    }
}

/// What a write has taken from the pools. Dropped without [`Claim::keep`], it gives it back.
#[derive(Default)]
pub(super) struct Claim {
    allocators: Option<Arc<Allocators>>,
    addresses: Vec<String>,
    ports: Vec<u16>,
    /// What the object held and no longer wants.
    given_up: (Vec<String>, Vec<u16>),
    kept: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(allocators) = &self.allocators else { return };
        let (addresses, ports) = match self.kept {
            true => (&self.given_up.0, &self.given_up.1),
            false => (&self.addresses, &self.ports),
        };
        addresses.iter().for_each(|address| allocators.release_address(address));
        ports.iter().for_each(|port| allocators.release_port(*port));
    }
}

impl Claim {
    /// The write succeeded (a dry run's claim is given back).
    pub(super) fn keep(&mut self, dry_run: bool) {
        self.kept = !dry_run;
    }

    /// Claims what a new object needs and fills it in.
    pub(super) async fn on_create(writer: &Writer<'_>, object: &mut Value) -> Result<Self, Status> {
        if !is_service(writer.storage) {
            return Ok(Self::default());
        }
        let mut claim = Self::default();
        claim.allocators = Some(writer.registry.allocators().await?.clone());
        claim.claim(writer.storage, object, None)?;
        Ok(claim)
    }

    /// Claims what a changed object needs beyond what it has.
    pub(super) async fn on_update(
        writer: &Writer<'_>,
        new: &mut Value,
        old: &Value,
        part: Part,
    ) -> Result<Self, Status> {
        if !is_service(writer.storage) || !matches!(part, Part::Main) {
            return Ok(Self::default());
        }
        let mut claim = Self::default();
        claim.allocators = Some(writer.registry.allocators().await?.clone());
        carry_over(new, old);
        claim.claim(writer.storage, new, Some(old))?;
        let (addresses, ports) = (allocators::addresses(new), allocators::node_ports(new));
        let gone = allocators::addresses(old).into_iter().filter(|address| !addresses.contains(address));
        claim.given_up.0 = gone.map(str::to_owned).collect();
        claim.given_up.1 = allocators::node_ports(old).into_iter().filter(|port| !ports.contains(port)).collect();
        Ok(claim)
    }

    fn claim(&mut self, storage: &Storage, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let Some(allocators) = self.allocators.clone() else { return Ok(()) };
        if !service["spec"].is_object() {
            return Ok(());
        }
        let mut invalid = Vec::new();
        if service_type(service) != "ExternalName" {
            families::fill(&mut service["spec"], allocators.family(), &mut invalid);
            self.claim_addresses(&allocators, service, old, &mut invalid)?;
        }
        if invalid.is_empty() && wants_node_ports(service) {
            self.claim_ports(&allocators, service, old, &mut invalid)?;
        }
        if invalid.is_empty() { Ok(()) } else { Err(storage.invalid(meta::name(service), invalid)) }
    }

    fn claim_addresses(
        &mut self,
        allocators: &Allocators,
        service: &mut Value,
        old: Option<&Value>,
        invalid: &mut Vec<FieldError>,
    ) -> Result<(), Status> {
        let spec = &mut service["spec"];
        let single = spec["clusterIP"].as_str().unwrap_or("").to_owned();
        let listed = spec["clusterIPs"].as_array().and_then(|list| list.first()).and_then(Value::as_str).unwrap_or("");
        let wanted = if single.is_empty() { listed.to_owned() } else { single };
        let path = Path::new("spec").child("clusterIPs");
        let present = old.filter(|old| service_type(old) != "ExternalName").map(|old| &old["spec"]["clusterIP"]);
        let present = present.and_then(Value::as_str).unwrap_or("");
        if !present.is_empty() && wanted != present {
            invalid.push(FieldError::invalid(&path.index(0), json!([wanted]), "may not change once set"));
            return Ok(());
        }
        let address = match wanted.as_str() {
            "None" => wanted,
            _ if !present.is_empty() => wanted,
            "" => {
                let any = allocators
                    .take_any_address()
                    .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
                self.addresses.push(any.clone());
                any
            }
            given => match allocators.take_address(given) {
                Ok(()) => {
                    self.addresses.push(given.to_owned());
                    wanted
                }
                Err(message) => {
                    invalid.push(FieldError::invalid(&path, json!([given]), message));
                    return Ok(());
                }
            },
        };
        spec["clusterIPs"] = json!([address]);
        spec["clusterIP"] = address.into();
        Ok(())
    }

    fn claim_ports(
        &mut self,
        allocators: &Allocators,
        service: &mut Value,
        old: Option<&Value>,
        invalid: &mut Vec<FieldError>,
    ) -> Result<(), Status> {
        let held = old.map(allocators::node_ports).unwrap_or_default();
        let full = || Status::internal("failed to allocate a nodePort: range is full");
        // A port number that is served over two protocols gets one node port.
        let mut by_port: HashMap<i64, u16> = HashMap::new();
        let path = Path::new("spec").child("ports");
        for (index, port) in ports_mut(&mut service["spec"]).enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let given = port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if given == 0 {
                let node_port = match by_port.get(&number) {
                    Some(shared) => *shared,
                    None => {
                        let any = allocators.take_any_port().ok_or_else(full)?;
                        self.ports.push(any);
                        any
                    }
                };
                by_port.insert(number, node_port);
                port["nodePort"] = node_port.into();
                continue;
            }
            if !held.contains(&given) && !self.ports.contains(&given) {
                match allocators.take_port(given) {
                    Ok(()) => self.ports.push(given),
                    Err(message) => {
                        invalid.push(FieldError::invalid(&path.index(index).child("nodePort"), given, message));
                    }
                }
            }
            by_port.insert(number, given);
        }
        let spec = &mut service["spec"];
        let health = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
        if health && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            let any = allocators.take_any_port().ok_or_else(full)?;
            self.ports.push(any);
            spec["healthCheckNodePort"] = any.into();
        }
        Ok(())
    }
}

fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// What the client left out stays as it is; what the new type has no use for goes.
fn carry_over(new: &mut Value, old: &Value) {
    if !new["spec"].is_object() {
        return;
    }
    let (external, was_external) = (service_type(new) == "ExternalName", service_type(old) == "ExternalName");
    let ports_wanted = wants_node_ports(new);
    let had_ports = wants_node_ports(old);
    let spec = &mut new["spec"];
    if external && !was_external {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if spec[field] == old["spec"][field]
                && let Some(fields) = spec.as_object_mut()
            {
                fields.remove(field);
            }
        }
    } else if !external && !was_external {
        let empty = |value: &Value| value.as_str().unwrap_or("").is_empty();
        if empty(&spec["clusterIP"]) && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec[field].is_null() || empty(&spec["clusterIP"]) {
                    spec[field] = old["spec"][field].clone();
                }
            }
        }
    }
    let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
    for port in ports_mut(spec) {
        let mut before = old["spec"]["ports"].as_array().into_iter().flatten();
        let Some(same) = before.find(|one| one["port"] == port["port"] && protocol(one) == protocol(port)) else {
            continue;
        };
        if ports_wanted && had_ports && port["nodePort"].as_u64().unwrap_or(0) == 0 {
            port["nodePort"] = same["nodePort"].clone();
        } else if !ports_wanted
            && had_ports
            && port["nodePort"] == same["nodePort"]
            && let Some(fields) = port.as_object_mut()
        {
            fields.remove("nodePort");
        }
    }
    carry_over_type_fields(spec, &old["spec"], ports_wanted, had_ports);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}

/// The fields that some types alone have: kept while the type stays, gone with it unless the client changed them.
fn carry_over_type_fields(spec: &mut Value, old: &Value, ports_wanted: bool, had_ports: bool) {
    let same_type = spec["type"] == old["type"];
    if same_type && ports_wanted && spec["healthCheckNodePort"].is_null() && !old["healthCheckNodePort"].is_null() {
        spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
    let balanced = spec["type"] == "LoadBalancer";
    let was_balanced = old["type"] == "LoadBalancer";
    let exposed = balanced || ports_wanted;
    let was_exposed = was_balanced || had_ports;
    let gone = [
        ("externalTrafficPolicy", was_exposed && !exposed),
        ("healthCheckNodePort", was_exposed && !balanced),
        ("allocateLoadBalancerNodePorts", was_balanced && !balanced),
        ("loadBalancerClass", was_balanced && !balanced),
    ];
    for (field, gone) in gone {
        if gone
            && spec[field] == old[field]
            && let Some(fields) = spec.as_object_mut()
        {
            fields.remove(field);
        }
    }
}

fn ports_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten()
}
