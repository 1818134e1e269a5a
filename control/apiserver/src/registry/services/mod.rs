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
use crate::strategy::cluster_ips;

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
        let spec = &mut object["spec"];
        if !is_empty(&spec["clusterIP"]) && is_empty(&spec["clusterIPs"]) {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
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
        let mut invalid = cluster_ips(&service["spec"]);
        if invalid.is_empty() && service_type(service) != "ExternalName" {
            families::fill(&mut service["spec"], allocators.family(), &mut invalid);
            if invalid.is_empty() {
                self.claim_addresses(&allocators, service, old, &mut invalid)?;
            }
        }
        if invalid.is_empty() && has_node_ports(&service["spec"]) {
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
        let wanted = spec["clusterIP"].as_str().unwrap_or("").to_owned();
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
        let wants_any = wants_node_ports(service);
        for (index, port) in ports_mut(&mut service["spec"]).enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let given = port["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if given == 0 && !wants_any {
                continue;
            }
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
        self.claim_health_port(allocators, &mut service["spec"], &held, invalid)
    }

    /// The port at which a load balancer asks a node whether it has endpoints.
    fn claim_health_port(
        &mut self,
        allocators: &Allocators,
        spec: &mut Value,
        held: &[u16],
        invalid: &mut Vec<FieldError>,
    ) -> Result<(), Status> {
        if spec["type"] != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local" {
            return Ok(());
        }
        let given = spec["healthCheckNodePort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        if given == 0 {
            let full = || Status::internal("failed to allocate a HealthCheck NodePort: range is full");
            let any = allocators.take_any_port().ok_or_else(full)?;
            self.ports.push(any);
            spec["healthCheckNodePort"] = any.into();
        } else if !held.contains(&given) {
            match allocators.take_port(given) {
                Ok(()) => self.ports.push(given),
                Err(message) => {
                    let path = Path::new("spec").child("healthCheckNodePort");
                    invalid.push(FieldError::invalid(&path, given, message));
                }
            }
        }
        Ok(())
    }
}

fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

/// Whether ports of such a type may have node ports.
fn has_node_ports(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// Whether every port is to have one.
fn wants_node_ports(service: &Value) -> bool {
    has_node_ports(&service["spec"]) && service["spec"]["allocateLoadBalancerNodePorts"] != false
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// What the client left out stays as it is; what the new type has no use for goes, unless the client has changed it.
fn carry_over(new: &mut Value, old: &Value) {
    if !new["spec"].is_object() {
        return;
    }
    const ADDRESSES: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    let (external, was_external) = (service_type(new) == "ExternalName", service_type(old) == "ExternalName");
    let (spec, old) = (&mut new["spec"], &old["spec"]);
    if external && !was_external {
        ADDRESSES.into_iter().chain(["internalTrafficPolicy"]).for_each(|field| drop_unchanged(spec, old, field));
    } else if !external && !was_external {
        for field in ADDRESSES {
            if is_empty(&spec[field]) {
                spec[field] = old[field].clone();
            }
        }
        // Clients older than the list change the single address alone.
        if spec["clusterIP"] != old["clusterIP"] && spec["clusterIPs"] == old["clusterIPs"] {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
    }
    carry_over_node_ports(spec, old);
    carry_over_type_fields(spec, old);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}

/// A port keeps the node port of the one that had its name, unless another port has taken that.
fn carry_over_node_ports(spec: &mut Value, old: &Value) {
    let number = |port: &Value| port["nodePort"].as_u64().unwrap_or(0);
    let all = |spec: &Value| -> Vec<(String, u64)> {
        let name = |port: &Value| port["name"].as_str().unwrap_or("").to_owned();
        spec["ports"].as_array().into_iter().flatten().map(|port| (name(port), number(port))).collect()
    };
    let (before, after) = (all(old), all(spec));
    let had = |wanted: u64| before.iter().any(|(_, port)| *port == wanted);
    match (has_node_ports(spec), has_node_ports(old)) {
        (true, true) => {
            for (port, (name, given)) in ports_mut(spec).zip(&after) {
                let same = before.iter().rev().find(|(other, _)| other == name).map_or(0, |(_, port)| *port);
                let taken = after.iter().any(|(_, port)| *port == same);
                if *given == 0 && same != 0 && !taken {
                    port["nodePort"] = same.into();
                }
            }
        }
        (false, true) if after.iter().all(|(_, port)| *port == 0 || had(*port)) => {
            for port in ports_mut(spec).filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
        }
        _ => {}
    }
}

fn drop_unchanged(spec: &mut Value, old: &Value, field: &str) {
    if spec[field] == old[field]
        && let Some(fields) = spec.as_object_mut()
    {
        fields.remove(field);
    }
}

/// The fields that some types alone have.
fn carry_over_type_fields(spec: &mut Value, old: &Value) {
    let balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    let checked = |spec: &Value| balanced(spec) && spec["externalTrafficPolicy"] == "Local";
    let exposed =
        |spec: &Value| has_node_ports(spec) || (spec["type"] == "ClusterIP" && !is_empty(&spec["externalIPs"]));
    if checked(spec) && checked(old) && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
    let gone = [
        ("healthCheckNodePort", checked(old) && !checked(spec)),
        ("externalTrafficPolicy", exposed(old) && !exposed(spec)),
        ("allocateLoadBalancerNodePorts", balanced(old) && !balanced(spec)),
        ("loadBalancerClass", balanced(old) && !balanced(spec)),
    ];
    for (field, _) in gone.into_iter().filter(|(_, gone)| *gone) {
        drop_unchanged(spec, old, field);
    }
}

fn ports_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten()
}
