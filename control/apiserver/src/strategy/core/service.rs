//! Services. Addresses and node ports are allocated around the write by the registry; what a client chose is checked there.

use super::pod_spec::ip;
use crate::strategy::Strategy;
use crate::strategy::networking::{NOT_A_CIDR, network};
use crate::strategy::tools::{
    Problems, default_to, each_mut, empty, flag, indexed, int, items, labels, map, named, one_of, port_number,
    port_number_or_name, some, strings, text, within,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// The strategy of Services.
#[derive(Debug)]
pub(in crate::strategy) struct Service;

impl Strategy for Service {
    fn defaults(&self, service: &mut Value) {
        within(service, "spec", |spec| {
            default_to(spec, "sessionAffinity", "None");
            default_to(spec, "type", "ClusterIP");
            match text(spec, "sessionAffinity") {
                "ClientIP" => {
                    let timeout = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
                    if timeout.is_none_or(Value::is_null) {
                        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10800 } });
                    }
                }
                _ => {
                    if let Some(map) = spec.as_object_mut() {
                        map.remove("sessionAffinityConfig");
                    }
                }
            }
            each_mut(spec, "ports", |port| {
                default_to(port, "protocol", "TCP");
                let target = port.get("targetPort");
                if target.is_none_or(|target| target.is_null() || target == 0 || target == "") {
                    port["targetPort"] = port["port"].clone();
                }
            });
            let kind = text(spec, "type").to_owned();
            if kind == "NodePort" || kind == "LoadBalancer" {
                default_to(spec, "externalTrafficPolicy", "Cluster");
            }
            if kind != "ExternalName" {
                default_to(spec, "internalTrafficPolicy", "Cluster");
            }
            if kind == "LoadBalancer" && some(spec, "allocateLoadBalancerNodePorts").is_none() {
                spec["allocateLoadBalancerNodePorts"] = true.into();
            }
        });
    }

    fn prepare_create(&self, service: &mut Value) {
        service["status"] = json!({ "loadBalancer": {} });
    }

    fn validate(&self, service: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("spec");
        let spec = &service["spec"];
        let kind = text(spec, "type");
        one_of(&path.child("type"), kind, &TYPES, true, &mut problems);
        let headless =
            strings(spec, "clusterIPs").any(|address| address == "None") || text(spec, "clusterIP") == "None";
        if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
            problems.push(FieldError::required(&path.child("ports"), ""));
        }
        ports(&path, spec, headless, &mut problems);
        labels(&path.child("selector"), map(spec, "selector"), &mut problems);
        affinity(&path, spec, &mut problems);
        addresses(&path, spec, &mut problems);
        by_type(&path, spec, kind, headless, &mut problems);
        policies(&path, spec, kind, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let path = Path::new("spec");
        let (new, old) = (&new["spec"], &old["spec"]);
        let keeps_address = text(new, "type") != "ExternalName" && text(old, "type") != "ExternalName";
        let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP"));
        if keeps_address && !before.is_empty() && before != after {
            let addresses = json!([after]);
            problems.push(FieldError::invalid(
                &path.child("clusterIPs").index(0),
                addresses,
                "may not change once set",
            ));
        }
        problems
    }
}

fn ports(path: &Path, spec: &Value, headless: bool, problems: &mut Problems) {
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
    let several = items(spec, "ports").len() > 1;
    for (path, port) in indexed(spec, "ports", path) {
        let name = text(port, "name");
        if name.is_empty() {
            if several {
                problems.push(FieldError::required(&path.child("name"), ""));
            }
        } else {
            problems.extend(named(&path.child("name"), name, names::is_dns1123_label(name)));
            if !seen_names.insert(name) {
                problems.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        let number = int(port, "port").unwrap_or(0);
        port_number(&path.child("port"), number, problems);
        one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
        // Defaults made it the port itself, which has been checked already.
        if let Some(target) = some(port, "targetPort").filter(|target| target.as_i64() != Some(number)) {
            port_number_or_name(&path.child("targetPort"), target, problems);
            if headless
                && target.is_i64()
                && target.as_i64() != Some(number)
                && text(spec, "clusterIP") == "None"
                && empty(spec, "selector")
            {
                let detail = "must be equal to the value of 'port' when clusterIP = None";
                problems.push(FieldError::invalid(&path.child("targetPort"), target.clone(), detail));
            }
        }
        let protocol = text(port, "appProtocol");
        if !protocol.is_empty() {
            problems.extend(named(&path.child("appProtocol"), protocol, names::is_qualified_name(protocol)));
        }
        if !seen_ports.insert((text(port, "protocol"), number)) {
            let value = json!({ "protocol": text(port, "protocol"), "port": number });
            problems.push(FieldError::duplicate(&path, value));
        }
        let node_port = int(port, "nodePort").unwrap_or(0);
        if node_port != 0 && !seen_node_ports.insert((text(port, "protocol"), node_port)) {
            problems.push(FieldError::duplicate(&path.child("nodePort"), node_port));
        }
    }
}

fn affinity(path: &Path, spec: &Value, problems: &mut Problems) {
    let kind = text(spec, "sessionAffinity");
    one_of(&path.child("sessionAffinity"), kind, &["ClientIP", "None"], true, problems);
    let seconds = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").and_then(Value::as_i64);
    if let Some(seconds) = seconds
        && !(1..=86400).contains(&seconds)
    {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        problems.push(FieldError::invalid(&at, seconds, "must be greater than 0 and less than 86400"));
    }
}

fn addresses(path: &Path, spec: &Value, problems: &mut Problems) {
    for (at, address) in strings(spec, "clusterIPs").enumerate().filter(|(_, address)| *address != "None") {
        ip(&path.child("clusterIPs").index(at), address, problems);
    }
    if let Some(first) = strings(spec, "clusterIPs").next()
        && first != text(spec, "clusterIP")
    {
        let value = json!(strings(spec, "clusterIPs").collect::<Vec<_>>());
        problems.push(FieldError::invalid(&path.child("clusterIPs"), value, "first value must match `clusterIP`"));
    }
    for (at, address) in strings(spec, "externalIPs").enumerate() {
        let path = path.child("externalIPs").index(at);
        ip(&path, address, problems);
        if address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified()) {
            problems.push(FieldError::invalid(
                &path,
                address,
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ));
        }
    }
    let mut families = BTreeSet::new();
    for (at, family) in strings(spec, "ipFamilies").enumerate() {
        if !families.insert(family) {
            problems.push(FieldError::duplicate(&path.child("ipFamilies").index(at), family));
        }
        one_of(&path.child("ipFamilies").index(at), family, &["IPv4", "IPv6"], true, problems);
    }
    let policy = text(spec, "ipFamilyPolicy");
    one_of(
        &path.child("ipFamilyPolicy"),
        policy,
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        false,
        problems,
    );
}

fn by_type(path: &Path, spec: &Value, kind: &str, headless: bool, problems: &mut Problems) {
    match kind {
        "ExternalName" => {
            let name = text(spec, "externalName");
            if strings(spec, "clusterIPs").next().is_some() || !text(spec, "clusterIP").is_empty() {
                let detail = "may not be set when `type` is 'ExternalName'";
                problems.push(FieldError::forbidden(&path.child("clusterIPs"), detail));
            }
            if name.is_empty() {
                problems.push(FieldError::required(&path.child("externalName"), ""));
            } else {
                let plain = name.strip_suffix('.').unwrap_or(name);
                problems.extend(named(&path.child("externalName"), name, names::is_dns1123_subdomain(plain)));
            }
        }
        "NodePort" | "LoadBalancer" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            problems.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        _ => {}
    }
    if kind == "ClusterIP" || kind == "ExternalName" {
        for (path, port) in indexed(spec, "ports", path) {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                let detail = format!("may not be used when `type` is '{kind}'");
                problems.push(FieldError::forbidden(&path.child("nodePort"), detail));
            }
        }
    }
    if kind != "LoadBalancer" && some(spec, "allocateLoadBalancerNodePorts").is_some() {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        problems.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), detail));
    }
    for field in ["loadBalancerSourceRanges", "loadBalancerClass"] {
        if kind != "LoadBalancer" && !empty(spec, field) {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            problems.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
    for (index, range) in strings(spec, "loadBalancerSourceRanges").enumerate() {
        if network(range.trim()).is_none() {
            problems.push(FieldError::invalid(&path.child("loadBalancerSourceRanges").index(index), range, NOT_A_CIDR));
        }
    }
    let class = text(spec, "loadBalancerClass");
    if !class.is_empty() {
        problems.extend(named(&path.child("loadBalancerClass"), class, names::is_qualified_name(class)));
    }
}

fn policies(path: &Path, spec: &Value, kind: &str, problems: &mut Problems) {
    let external = text(spec, "externalTrafficPolicy");
    let reachable = kind == "NodePort" || kind == "LoadBalancer" || !items(spec, "externalIPs").is_empty();
    let at = path.child("externalTrafficPolicy");
    if !external.is_empty() && !reachable {
        problems.push(FieldError::invalid(&at, external, "may only be set for externally-accessible services"));
    } else {
        one_of(&at, external, &["Cluster", "Local"], false, problems);
    }
    let internal = text(spec, "internalTrafficPolicy");
    one_of(&path.child("internalTrafficPolicy"), internal, &["Cluster", "Local"], false, problems);
    let distribution = text(spec, "trafficDistribution");
    let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(&path.child("trafficDistribution"), distribution, &supported, false, problems);
    let health = int(spec, "healthCheckNodePort").unwrap_or(0);
    if health != 0 && !(kind == "LoadBalancer" && external == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        problems.push(FieldError::invalid(&path.child("healthCheckNodePort"), health, detail));
    }
    if flag(spec, "publishNotReadyAddresses").is_none() && some(spec, "publishNotReadyAddresses").is_some() {
        problems.push(FieldError::type_invalid(
            &path.child("publishNotReadyAddresses"),
            Value::Null,
            "must be a boolean",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_problems() {
        let mut service = json!({ "spec": { "ports": [{ "port": 80 }], "sessionAffinity": "ClientIP" } });
        Service.defaults(&mut service);
        assert_eq!(service["spec"]["ports"][0], json!({ "port": 80, "protocol": "TCP", "targetPort": 80 }));
        assert_eq!(service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
        assert!(Service.validate(&service).is_empty());
        let cases = [
            (json!({}), "spec.ports: Required value"),
            (
                json!({ "ports": [{ "port": 0 }] }),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (json!({ "ports": [{ "port": 1 }, { "port": 2, "name": "b" }] }), "spec.ports[0].name: Required value"),
            (
                json!({ "type": "Cluster", "ports": [{ "port": 1 }] }),
                "spec.type: Unsupported value: \"Cluster\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({ "ports": [{ "port": 1, "nodePort": 30000 }] }),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/40"], "ports": [{ "port": 1 }] }),
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/40\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({ "ports": [{ "port": 1 }], "trafficDistribution": "Near" }),
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ),
        ];
        for (spec, expected) in cases {
            let mut service = json!({ "spec": spec });
            Service.defaults(&mut service);
            let said: Vec<String> = Service.validate(&service).iter().map(ToString::to_string).collect();
            assert_eq!(said, [expected], "{spec}");
        }
    }
}
