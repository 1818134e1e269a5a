//! Services. Addresses and node ports are allocated around the write by the registry; what a client chose is checked there.

use super::pod_spec::ip;
use super::warnings;
use crate::strategy::Strategy;
use crate::strategy::networking::{NOT_A_CIDR, network};
use crate::strategy::tools::{
    Problems, always, changed, default_to, each_mut, empty, indexed, int, items, keep, labels, map, named, one_of,
    port_number, port_number_or_name, some, strings, supported, text, within,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::{meta, names};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How a Service asked for endpoints nearby, and how it does now.
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// The strategy of Services.
#[derive(Debug)]
pub(in crate::strategy) struct Service;

impl Strategy for Service {
    fn defaults(&self, service: &mut Value) {
        always(service, "spec", spec_defaults);
        if text(&service["spec"], "type") == "LoadBalancer" {
            within(service, "status", |status| {
                within(status, "loadBalancer", |balancer| {
                    each_mut(balancer, "ingress", |ingress| {
                        if !empty(ingress, "ip") {
                            default_to(ingress, "ipMode", "VIP");
                        }
                    });
                });
            });
        }
    }

    fn prepare_create(&self, service: &mut Value) {
        service["status"] = json!({ "loadBalancer": {} });
    }

    fn validate(&self, service: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &service["spec"]);
        let (kind, headless) = (text(spec, "type"), is_headless(spec));
        topology(service, &mut problems);
        if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
            problems.push(FieldError::required(&path.child("ports"), ""));
        }
        by_type(&path, spec, kind, headless, &mut problems);
        ports(&path, spec, &mut problems);
        labels(&path.child("selector"), map(spec, "selector"), &mut problems);
        affinity(&path, spec, &mut problems);
        problems.extend(cluster_ips(spec));
        external_ips(&path, spec, &mut problems);
        one_of(&path.child("type"), kind, &TYPES, true, &mut problems);
        unique_ports(&path, spec, kind, &mut problems);
        load_balancer(&path, spec, kind, &mut problems);
        policies(&path, spec, kind, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("spec");
        let (after, before) = (&new["spec"], &old["spec"]);
        let both = |kind: &str| text(after, "type") == kind && text(before, "type") == kind;
        if both("LoadBalancer") && after.get("loadBalancerClass") != before.get("loadBalancerClass") {
            let value = after.get("loadBalancerClass").cloned().unwrap_or(Value::Null);
            problems.push(FieldError::invalid(&path.child("loadBalancerClass"), value, "may not change once set"));
        }
        let checked = is_health_checked(after) && is_health_checked(before);
        if checked && changed(after, before, "healthCheckNodePort") {
            problems.push(FieldError::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
        }
        problems.extend(self.validate(new));
        problems
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("status").child("loadBalancer");
        let balancer = &new["status"]["loadBalancer"];
        if text(&new["spec"], "type") != "LoadBalancer" && !empty(balancer, "ingress") {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            return vec![FieldError::forbidden(&path.child("ingress"), detail)];
        }
        for (path, ingress) in indexed(balancer, "ingress", &path) {
            let (address, mode, host) = (text(ingress, "ip"), text(ingress, "ipMode"), text(ingress, "hostname"));
            if !address.is_empty() {
                ip(&path.child("ip"), address, &mut problems);
            } else if !mode.is_empty() {
                problems
                    .push(FieldError::forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set"));
            }
            one_of(&path.child("ipMode"), mode, &["Proxy", "VIP"], false, &mut problems);
            if !host.is_empty() {
                problems.extend(named(&path.child("hostname"), host, names::is_dns1123_subdomain(host)));
                if host.parse::<IpAddr>().is_ok() {
                    let detail = "must be a DNS name, not an IP address";
                    problems.push(FieldError::invalid(&path.child("hostname"), host, detail));
                }
            }
        }
        problems
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut all = Vec::new();
        let (path, spec) = (Path::new("spec"), &new["spec"]);
        if meta::annotation(new, TOPOLOGY_HINTS).is_some() {
            all.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
        }
        let headless = text(spec, "type") == "ClusterIP" && text(spec, "clusterIP") == "None";
        let external = text(spec, "type") == "ExternalName";
        for list in ["clusterIPs", "externalIPs"] {
            let addresses = indexed(spec, list, &path).filter_map(|(path, one)| Some((path, one.as_str()?)));
            all.extend(addresses.filter_map(|(path, address)| warnings::ip(&path, address)));
        }
        all.extend(warnings::ip(&path.child("loadBalancerIP"), text(spec, "loadBalancerIP")));
        let mut say = |applies: bool, said: &str| all.extend(applies.then(|| said.to_owned()));
        say(headless && !empty(spec, "loadBalancerIP"), "spec.loadBalancerIP is ignored for headless services");
        say(headless && !empty(spec, "externalIPs"), "spec.externalIPs is ignored for headless services");
        let sticky = text(spec, "sessionAffinity") != "None";
        say(headless && sticky, "spec.SessionAffinity is ignored for headless services");
        let deprecated = !headless && !external && !empty(spec, "externalIPs");
        say(deprecated, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
        let said = "spec.externalIPs is ignored when spec.type is \"ExternalName\"";
        say(external && !empty(spec, "externalIPs"), said);
        let said = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        say(!external && !empty(spec, "externalName"), said);
        let said = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        say(text(spec, "trafficDistribution") == "PreferClose", said);
        all
    }
}

fn spec_defaults(spec: &mut Value) {
    default_to(spec, "sessionAffinity", "None");
    default_to(spec, "type", "ClusterIP");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let timeout = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
            if timeout.is_none_or(Value::is_null) {
                spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10800 } });
            }
        }
        "None" => keep(spec, &Value::Null, "sessionAffinityConfig"),
        _ => {}
    }
    each_mut(spec, "ports", |port| {
        default_to(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_null() || target == 0 || target == "") {
            port["targetPort"] = port["port"].clone();
        }
    });
    let kind = text(spec, "type").to_owned();
    if is_reachable_from_outside(spec) {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" && some(spec, "allocateLoadBalancerNodePorts").is_none() {
        spec["allocateLoadBalancerNodePorts"] = true.into();
    }
}

fn is_reachable_from_outside(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !empty(spec, "externalIPs"),
        _ => false,
    }
}

fn is_health_checked(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_headless(spec: &Value) -> bool {
    items(spec, "clusterIPs") == ["None"]
}

fn topology(service: &Value, problems: &mut Problems) {
    let (hints, mode) = (meta::annotation(service, TOPOLOGY_HINTS), meta::annotation(service, TOPOLOGY_MODE));
    if let (Some(hints), Some(mode)) = (hints, mode)
        && hints != mode
    {
        let path = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE);
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        problems.push(FieldError::invalid(&path, mode, detail));
    }
}

fn by_type(path: &Path, spec: &Value, kind: &str, headless: bool, problems: &mut Problems) {
    match kind {
        "NodePort" | "LoadBalancer" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            problems.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| !empty(spec, field))
            {
                let detail = "may not be set for ExternalName services";
                problems.push(FieldError::forbidden(&path.child(field), detail));
            }
            let (name, at) = (text(spec, "externalName"), path.child("externalName"));
            match name.strip_suffix('.').unwrap_or(name) {
                "" => problems.push(FieldError::required(&at, "")),
                name => problems.extend(named(&at, name, names::is_dns1123_subdomain(name))),
            }
        }
        _ => {}
    }
}

fn ports(path: &Path, spec: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    let several = items(spec, "ports").len() > 1;
    for (path, port) in indexed(spec, "ports", path) {
        let (name, at) = (text(port, "name"), path.child("name"));
        if !name.is_empty() {
            problems.extend(named(&at, name, names::is_dns1123_label(name)));
            if !seen.insert(name) {
                problems.push(FieldError::duplicate(&at, name));
            }
        } else if several {
            problems.push(FieldError::required(&at, ""));
        }
        port_number(&path.child("port"), int(port, "port").unwrap_or(0), problems);
        one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
        port_number_or_name(&path.child("targetPort"), &port["targetPort"], problems);
        if let Some(protocol) = some(port, "appProtocol").and_then(Value::as_str) {
            problems.extend(named(&path.child("appProtocol"), protocol, names::is_qualified_name(protocol)));
        }
    }
}

/// No two ports of a protocol are the same, nor are their node ports.
fn unique_ports(path: &Path, spec: &Value, kind: &str, problems: &mut Problems) {
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (path, port) in indexed(spec, "ports", path) {
        let (number, protocol) = (int(port, "nodePort").unwrap_or(0), text(port, "protocol"));
        let at = path.child("nodePort");
        if number != 0 && kind == "ClusterIP" {
            problems.push(FieldError::forbidden(&at, "may not be used when `type` is 'ClusterIP'"));
        }
        if number != 0 && !node_ports.insert((protocol, number)) {
            problems.push(FieldError::duplicate(&at, number));
        }
    }
    for (path, port) in indexed(spec, "ports", path) {
        let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
        if !ports.insert((protocol, number)) {
            problems.push(FieldError::duplicate(&path, json!({ "protocol": protocol, "port": number })));
        }
    }
}

fn affinity(path: &Path, spec: &Value, problems: &mut Problems) {
    let kind = text(spec, "sessionAffinity");
    one_of(&path.child("sessionAffinity"), kind, &["ClientIP", "None"], true, problems);
    let seconds = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").and_then(Value::as_i64);
    if kind == "ClientIP"
        && let Some(seconds) = seconds
        && !(1..=86400).contains(&seconds)
    {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        problems.push(FieldError::invalid(&at, seconds, "must be greater than 0 and less than 86400"));
    }
}

/// What is wrong with the addresses and IP families of a Service's spec as they stand: they are looked at before any
/// address is claimed, too.
pub(crate) fn cluster_ips(spec: &Value) -> Problems {
    let mut problems = Vec::new();
    if text(spec, "type") == "ExternalName" {
        return problems;
    }
    let path = Path::new("spec");
    let (at, all) = (path.child("clusterIPs"), items(spec, "clusterIPs"));
    let wrong = |detail: &str| FieldError::invalid(&at, all.to_vec(), detail);
    match (text(spec, "clusterIP"), all.first()) {
        ("", Some(_)) => problems.push(wrong("must be empty when `clusterIP` is not specified")),
        ("", None) => {}
        (_, None) => problems.push(FieldError::required(&at, "")),
        (single, Some(first)) if first != single => problems.push(wrong("first value must match `clusterIP`")),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (path, family) in indexed(spec, "ipFamilies", &path) {
        let family = family.as_str().unwrap_or_default();
        supported(&path, family, &["IPv4", "IPv6"], &mut problems);
        if !seen.insert(family) {
            problems.push(FieldError::duplicate(&path, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&path.child("ipFamilyPolicy"), text(spec, "ipFamilyPolicy"), &policies, false, &mut problems);
    let before = problems.len();
    for (index, address) in strings(spec, "clusterIPs").enumerate() {
        match address {
            "None" if index == 0 && all.len() > 1 => problems.push(wrong("'None' must be the first and only value")),
            "None" if index == 0 => {}
            address => ip(&at.index(index), address, &mut problems),
        }
    }
    if all.len() > 2 {
        problems.push(wrong("may only hold up to 2 values"));
    }
    if problems.len() > before {
        return problems;
    }
    let is_v6 = |address: &str| address.contains(':');
    let of_v6 = strings(spec, "clusterIPs").filter(|address| is_v6(address)).count();
    if all.len() == 2 && of_v6 != 1 {
        problems.push(wrong("may specify no more than one IP for each IP family"));
    }
    if is_headless(spec) {
        return problems;
    }
    for (index, (address, family)) in strings(spec, "clusterIPs").zip(strings(spec, "ipFamilies")).enumerate() {
        if matches!((family, is_v6(address)), ("IPv4", true) | ("IPv6", false)) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            problems.push(FieldError::invalid(&at.index(index), address, detail));
        }
    }
    problems
}

fn external_ips(path: &Path, spec: &Value, problems: &mut Problems) {
    for (path, address) in indexed(spec, "externalIPs", path) {
        let (before, address) = (problems.len(), address.as_str().unwrap_or_default());
        ip(&path, address, problems);
        if problems.len() == before {
            not_special(&path, address, problems);
        }
    }
}

/// An address that means one machine or one link cannot stand for something of the cluster.
pub(in crate::strategy) fn not_special(path: &Path, value: &str, problems: &mut Problems) {
    let Ok(address) = value.parse::<IpAddr>() else { return };
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut say = |applies: bool, detail: &str| {
        if applies {
            problems.push(FieldError::invalid(path, value, detail));
        }
    };
    say(address.is_unspecified(), &format!("may not be unspecified ({value})"));
    say(address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    say(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    say(multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
}

fn load_balancer(path: &Path, spec: &Value, kind: &str, problems: &mut Problems) {
    let detail = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind == "LoadBalancer";
    // The field's name is upstream's in the messages alone.
    let at = path.child("LoadBalancerSourceRanges");
    if !balanced && !empty(spec, "loadBalancerSourceRanges") {
        problems.push(FieldError::forbidden(&at, detail));
    }
    for (index, range) in strings(spec, "loadBalancerSourceRanges").map(str::trim).enumerate() {
        if network(range).is_none() {
            problems.push(FieldError::invalid(&at.index(index), range, NOT_A_CIDR));
        }
    }
    if !balanced && some(spec, "allocateLoadBalancerNodePorts").is_some() {
        problems.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), detail));
    }
    if let Some(class) = some(spec, "loadBalancerClass").and_then(Value::as_str) {
        let at = path.child("loadBalancerClass");
        if balanced {
            problems.extend(named(&at, class, names::is_qualified_name(class)));
        } else {
            problems.push(FieldError::forbidden(&at, detail));
        }
    }
}

fn policies(path: &Path, spec: &Value, kind: &str, problems: &mut Problems) {
    let (external, at) = (text(spec, "externalTrafficPolicy"), path.child("externalTrafficPolicy"));
    if is_reachable_from_outside(spec) {
        one_of(&at, external, &["Cluster", "Local"], true, problems);
    } else if !external.is_empty() {
        problems.push(FieldError::invalid(&at, external, "may only be set for externally-accessible services"));
    }
    let (health, at) = (int(spec, "healthCheckNodePort").unwrap_or(0), path.child("healthCheckNodePort"));
    if is_health_checked(spec) {
        port_number(&at, health, problems);
    } else if health != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        problems.push(FieldError::invalid(&at, health, detail));
    }
    let (internal, at) = (text(spec, "internalTrafficPolicy"), path.child("internalTrafficPolicy"));
    one_of(&at, internal, &["Cluster", "Local"], TYPES.contains(&kind) && kind != "ExternalName", problems);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    let distribution = text(spec, "trafficDistribution");
    one_of(&path.child("trafficDistribution"), distribution, &distributions, false, problems);
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
                json!({ "ports": [{ "port": 0, "targetPort": 80 }] }),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({ "type": "ExternalName", "externalName": "a", "ipFamilyPolicy": "SingleStack" }),
                "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            ),
            (
                json!({ "ports": [{ "port": 1 }], "clusterIPs": ["10.0.0.1"] }),
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({ "ports": [{ "port": 1 }], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"] }),
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({ "ports": [{ "port": 1 }], "externalIPs": ["169.254.1.1"] }),
                "spec.externalIPs[0]: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
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
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/40\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
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
    #[test]
    fn what_is_accepted_and_what_is_told() {
        let cases = [
            // Endpoints of one's own may listen elsewhere.
            (
                json!({ "ports": [{ "port": 80, "targetPort": 8080 }], "clusterIP": "None", "clusterIPs": ["None"] }),
                vec![],
            ),
            (
                json!({ "type": "ExternalName", "externalName": "a.", "ports": [{ "port": 80, "nodePort": 30000 }] }),
                vec![],
            ),
            (
                json!({ "ports": [{ "port": 80 }], "externalIPs": ["192.0.2.1"], "externalName": "x", "trafficDistribution": "PreferClose" }),
                vec![
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
            (
                json!({ "ports": [{ "port": 80 }], "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP" }),
                vec!["spec.SessionAffinity is ignored for headless services"],
            ),
        ];
        for (spec, told) in cases {
            let mut service = json!({ "spec": spec });
            Service.defaults(&mut service);
            let said: Vec<String> = Service.validate(&service).iter().map(ToString::to_string).collect();
            assert_eq!(said, Vec::<String>::new(), "{spec}");
            assert_eq!(Service.warnings(&service, None), told, "{spec}");
        }
    }

    #[test]
    fn a_status_tells_of_load_balancers_alone() {
        let said = |kind: &str, ingress: Value| {
            let mut service = json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [ingress]}}});
            Service.defaults(&mut service);
            let problems = Service.validate_status_update(&service, &Value::Null);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said("LoadBalancer", json!({"ip": "192.0.2.1"})), "");
        assert_eq!(
            said("ClusterIP", json!({"ip": "192.0.2.1"})),
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
        );
        assert_eq!(
            said("LoadBalancer", json!({"hostname": "192.0.2.1", "ipMode": "VIP"})),
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set; status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address"
        );
    }
}
