//! How endpoints and liveness are told: EndpointSlice and Lease.

use super::Strategy;
use super::tools::{Problems, default_to, each_mut, immutable, indexed, items, named, one_of, port_number, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

/// The strategy of EndpointSlices.
#[derive(Debug)]
pub(super) struct EndpointSlice;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

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
        if endpoints > 1000 {
            problems.push(FieldError::too_many(&Path::new("endpoints"), endpoints, 1000));
        }
        for (path, endpoint) in indexed(slice, "endpoints", &Path::root()) {
            addresses(&path, endpoint, kind, &mut problems);
            let host = text(endpoint, "hostname");
            if !host.is_empty() {
                problems.extend(named(&path.child("hostname"), host, names::is_dns1123_label(host)));
            }
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
            if let Some(number) = some(port, "port").and_then(Value::as_i64) {
                port_number(&path.child("port"), number, &mut problems);
            }
            one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, &mut problems);
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        immutable(&Path::root(), new, old, "addressType", &mut problems);
        problems
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
        let wrong = match (kind, text.parse::<std::net::IpAddr>()) {
            ("IPv4", Ok(std::net::IpAddr::V4(_))) | ("IPv6", Ok(std::net::IpAddr::V6(_))) => continue,
            ("IPv4", _) => vec!["must be an IPv4 address".to_owned()],
            ("IPv6", _) => vec!["must be an IPv6 address".to_owned()],
            ("FQDN", _) => names::is_dns1123_subdomain(text),
            _ => continue,
        };
        problems.extend(named(&path, text, wrong));
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
        let slice =
            json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["::1"] }], "ports": [{ "protocol": "TCP" }] });
        let problems = EndpointSlice.validate(&slice);
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["endpoints[0].addresses[0]: Invalid value: \"::1\": must be an IPv4 address"]
        );
    }
}
