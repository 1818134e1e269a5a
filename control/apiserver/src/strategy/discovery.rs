//! How endpoints and liveness are told: EndpointSlice and Lease.

use super::Strategy;
use std::net::IpAddr;

use super::core::not_special;
use super::tools::{Problems, default_to, each_mut, immutable, indexed, items, labels, map, named, one_of, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

/// The strategy of EndpointSlices.
#[derive(Debug)]
pub(super) struct EndpointSlice;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;

impl Strategy for EndpointSlice {
    fn defaults(&self, slice: &mut Value) {
        each_mut(slice, "ports", |port| {
            if some(port, "name").is_none() {
                port["name"] = "".into();
            }
            default_to(port, "protocol", "TCP");
        });
    }

    fn validate(&self, slice: &Value) -> Problems {
        let mut problems = Vec::new();
        let kind = text(slice, "addressType");
        one_of(&Path::new("addressType"), kind, &ADDRESS_TYPES, true, &mut problems);
        let endpoints = items(slice, "endpoints").len();
        if endpoints > MAX_ENDPOINTS {
            problems.push(FieldError::too_many(&Path::new("endpoints"), endpoints, MAX_ENDPOINTS));
        } else {
            for (path, one) in indexed(slice, "endpoints", &Path::root()) {
                endpoint(&path, one, kind, &mut problems);
            }
        }
        ports(slice, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        immutable(&Path::root(), new, old, "addressType", &mut problems);
        problems
    }
}

fn endpoint(path: &Path, endpoint: &Value, kind: &str, problems: &mut Problems) {
    addresses(path, endpoint, kind, problems);
    if let Some(host) = some(endpoint, "hostname").and_then(Value::as_str) {
        problems.extend(named(&path.child("hostname"), host, names::is_dns1123_label(host)));
    }
    if let Some(node) = some(endpoint, "nodeName").and_then(Value::as_str) {
        problems.extend(named(&path.child("nodeName"), node, names::is_dns1123_subdomain(node)));
    }
    let at = path.child("deprecatedTopology");
    let topology = map(endpoint, "deprecatedTopology");
    let size = topology.map_or(0, serde_json::Map::len);
    if size > 16 {
        problems.push(FieldError::too_many(&at, size, 16));
    }
    labels(&at, topology, problems);
    let hints = path.child("hints");
    for list in ["forZones", "forNodes"] {
        let mut seen = std::collections::BTreeSet::new();
        let all = items(&endpoint["hints"], list);
        if all.len() > 8 {
            problems.push(FieldError::too_many(&hints.child(list), all.len(), 8));
        }
        for (path, hint) in indexed(&endpoint["hints"], list, &hints) {
            let (name, path) = (text(hint, "name"), path.child("name"));
            if !seen.insert(name) {
                problems.push(FieldError::duplicate(&path, name));
            }
            let wrong =
                if list == "forZones" { names::is_label_value(name) } else { names::is_dns1123_subdomain(name) };
            problems.extend(named(&path, name, wrong));
        }
    }
}

fn ports(slice: &Value, problems: &mut Problems) {
    let count = items(slice, "ports").len();
    if count > MAX_PORTS {
        problems.push(FieldError::too_many(&Path::new("ports"), count, MAX_PORTS));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (path, port) in indexed(slice, "ports", &Path::root()) {
        let name = text(port, "name");
        if !name.is_empty() {
            problems.extend(named(&path.child("name"), name, names::is_dns1123_label(name)));
        }
        if !seen.insert(name) {
            problems.push(FieldError::duplicate(&path.child("name"), name));
        }
        one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
        if let Some(protocol) = some(port, "appProtocol").and_then(Value::as_str) {
            problems.extend(named(&path.child("appProtocol"), protocol, names::is_qualified_name(protocol)));
        }
    }
}

fn addresses(path: &Path, endpoint: &Value, kind: &str, problems: &mut Problems) {
    let all = items(endpoint, "addresses");
    if all.is_empty() {
        problems.push(FieldError::required(&path.child("addresses"), "must contain at least 1 address"));
    } else if all.len() > 100 {
        problems.push(FieldError::too_many(&path.child("addresses"), all.len(), 100));
    }
    for (path, address) in indexed(endpoint, "addresses", path) {
        let text = address.as_str().unwrap_or_default();
        let fits = |address: IpAddr| if kind == "IPv4" { address.is_ipv4() } else { address.is_ipv6() };
        match (kind, text.parse::<IpAddr>()) {
            ("IPv4" | "IPv6", Ok(address)) if fits(address) => not_special(&path, text, problems),
            ("IPv4" | "IPv6", _) => {
                problems.push(FieldError::invalid(&path, text, format!("must be a valid {kind} address")));
            }
            ("FQDN", _) => full_name(&path, text, problems),
            _ => {}
        }
    }
}

fn full_name(path: &Path, name: &str, problems: &mut Problems) {
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::is_dns1123_subdomain(name);
    if !wrong.is_empty() {
        problems.push(FieldError::invalid(path, name, wrong.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        problems.push(FieldError::invalid(path, name, detail));
    }
}

/// The strategy of Leases.
#[derive(Debug)]
pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, lease: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("spec");
        let spec = &lease["spec"];
        let number = |field: &str| spec.get(field).and_then(Value::as_i64);
        if let Some(seconds) = number("leaseDurationSeconds")
            && seconds <= 0
        {
            problems.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(transitions) = number("leaseTransitions")
            && transitions < 0
        {
            let detail = "must be greater than or equal to 0";
            problems.push(FieldError::invalid(&path.child("leaseTransitions"), transitions, detail));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices() {
        let cases = [
            ("IPv4", json!({"addresses": ["10.0.0.1"], "nodeName": "n", "hints": {"forZones": [{"name": "z"}]}}), ""),
            (
                "IPv4",
                json!({"addresses": ["::1"]}),
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
            ),
            (
                "IPv4",
                json!({"addresses": ["127.0.0.1"]}),
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            ("IPv4", json!({}), "endpoints[0].addresses: Required value: must contain at least 1 address"),
            (
                "FQDN",
                json!({"addresses": ["host"]}),
                "endpoints[0].addresses[0]: Invalid value: \"host\": should be a domain with at least two segments separated by dots",
            ),
            (
                "IPv4",
                json!({"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}),
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"z\"",
            ),
        ];
        for (kind, endpoint, expected) in cases {
            let mut slice = json!({ "addressType": kind, "endpoints": [endpoint], "ports": [{ "port": 80 }] });
            EndpointSlice.defaults(&mut slice);
            let said: Vec<_> = EndpointSlice.validate(&slice).iter().map(ToString::to_string).collect();
            assert_eq!(said.join("; "), expected, "{endpoint}");
        }
    }
}
