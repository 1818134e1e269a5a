//! The kinds of `networking.k8s.io`.

use std::net::IpAddr;
use std::sync::LazyLock;

use apimachinery::field::{FieldError, Path};
use apimachinery::{meta, names};
use serde_json::{Value, json};

use super::Strategy;
use super::plain::{Plain, defaults};
use super::tools::{
    Problems, default_to, each_mut, empty, indexed, int, items, label_selector, named, one_of, port_number,
    port_number_or_name, some, strings, text, within,
};

pub(super) const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// The strategy of IngressClasses.
pub(super) static INGRESS_CLASS: Plain = Plain {
    defaults: LazyLock::new(|| defaults(&[("spec.parameters.scope", "\"Cluster\"")])),
    immutable: &[("spec.controller", None)],
    validate: |class, problems| {
        let (path, spec) = (Path::new("spec"), &class["spec"]);
        let controller = text(spec, "controller");
        let at = path.child("controller");
        if controller.len() > 250 {
            problems.push(FieldError::too_long(&at, 250));
        } else if !domain_prefixed(controller) {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            problems.push(FieldError::invalid(&at, controller, detail));
        }
        let Some(parameters) = some(spec, "parameters") else { return };
        let path = path.child("parameters");
        match (text(parameters, "scope"), empty(parameters, "namespace")) {
            ("Cluster", false) => {
                let detail = "parameters.namespace should not be set when parameters.scope is set to 'Cluster'";
                problems.push(FieldError::forbidden(&path.child("namespace"), detail));
            }
            ("Namespace", true) => {
                let detail = "parameters.namespace is required when parameters.scope is set to 'Namespace'";
                problems.push(FieldError::required(&path.child("namespace"), detail));
            }
            (scope, _) => one_of(&path.child("scope"), scope, &["Cluster", "Namespace"], true, problems),
        }
    },
};

fn domain_prefixed(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(domain, rest)| !rest.is_empty() && names::is_dns1123_subdomain(domain).is_empty())
}

/// The strategy of IPAddresses.
pub(super) static ADDRESS: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("spec.parentRef", None)],
    validate: |address, problems| {
        let name = meta::name(address);
        if name.parse::<IpAddr>().map_or(true, |parsed| parsed.to_string() != name) {
            let detail = "must be a valid IP address in canonical form";
            problems.push(FieldError::invalid(&Path::new("metadata").child("name"), name, detail));
        }
        let (path, parent) = (Path::new("spec").child("parentRef"), &address["spec"]["parentRef"]);
        for field in ["resource", "name"] {
            if empty(parent, field) {
                problems.push(FieldError::required(&path.child(field), ""));
            }
        }
    },
};

/// The strategy of ServiceCIDRs.
pub(super) static SERVICE_CIDR: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("spec.cidrs", None)],
    validate: |object, problems| {
        let path = Path::new("spec").child("cidrs");
        let cidrs: Vec<&str> = strings(&object["spec"], "cidrs").collect();
        match cidrs.len() {
            0 => problems.push(FieldError::required(&path, "at least one CIDR required")),
            1 | 2 => {}
            _ => problems.push(FieldError::invalid(&path, cidrs.clone(), "may only hold up to 2 values")),
        }
        for (index, cidr) in cidrs.iter().enumerate().filter(|(_, cidr)| network(cidr).is_none()) {
            problems.push(FieldError::invalid(&path.index(index), *cidr, NOT_A_CIDR));
        }
    },
};

/// A network's address and prefix length.
pub(super) fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// Whether one network holds another.
fn holds(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let ((outer_bits, width), (inner_bits, inner_width)) = (number(outer.0), number(inner.0));
    let shift = 128 - u32::from(outer.1);
    width == inner_width && outer.1 <= inner.1 && (shift >= 128 || outer_bits >> shift == inner_bits >> shift)
}

/// The strategy of NetworkPolicies.
#[derive(Debug)]
pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn defaults(&self, policy: &mut Value) {
        within(policy, "spec", |spec| {
            if empty(spec, "policyTypes") {
                let egress = !empty(spec, "egress");
                spec["policyTypes"] = if egress { vec!["Ingress", "Egress"] } else { vec!["Ingress"] }.into();
            }
            for rules in ["ingress", "egress"] {
                each_mut(spec, rules, |rule| each_mut(rule, "ports", |port| default_to(port, "protocol", "TCP")));
            }
        });
    }

    fn validate(&self, policy: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &policy["spec"]);
        label_selector(&path.child("podSelector"), &spec["podSelector"], &mut problems);
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for (path, rule) in indexed(spec, rules, &path) {
                indexed(rule, "ports", &path).for_each(|(path, port)| policy_port(&path, port, &mut problems));
                indexed(rule, peers, &path).for_each(|(path, one)| peer(&path, one, &mut problems));
            }
        }
        let types = items(spec, "policyTypes");
        if types.len() > 2 {
            let detail = "may not specify more than two policyTypes";
            problems.push(FieldError::invalid(&path.child("policyTypes"), types.to_vec(), detail));
        }
        for (path, kind) in indexed(spec, "policyTypes", &path) {
            one_of(&path, kind.as_str().unwrap_or_default(), &["Egress", "Ingress"], true, &mut problems);
        }
        problems
    }
}

fn policy_port(path: &Path, port: &Value, problems: &mut Problems) {
    one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
    let end = int(port, "endPort");
    match some(port, "port") {
        Some(number) => {
            port_number_or_name(&path.child("port"), number, problems);
            let Some(end) = end else { return };
            let at = path.child("endPort");
            match number.as_i64() {
                None => problems.push(FieldError::invalid(&at, end, "may not be specified when `port` is non-numeric")),
                Some(start) if end < start => {
                    problems.push(FieldError::invalid(&at, end, "must be greater than or equal to `port`"));
                }
                Some(_) => port_number(&at, end, problems),
            }
        }
        None if end.is_some() => {
            let detail = "may not be specified when `port` is not specified";
            problems.push(FieldError::invalid(&path.child("endPort"), end, detail));
        }
        None => {}
    }
}

fn peer(path: &Path, peer: &Value, problems: &mut Problems) {
    let mut parts = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = some(peer, field) {
            parts += 1;
            label_selector(&path.child(field), selector, problems);
        }
    }
    if let Some(block) = some(peer, "ipBlock") {
        ip_block(&path.child("ipBlock"), block, problems);
        if parts > 0 {
            problems.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        parts += 1;
    }
    if parts == 0 {
        problems.push(FieldError::required(path, "must specify a peer"));
    }
}

fn ip_block(path: &Path, block: &Value, problems: &mut Problems) {
    let cidr = text(block, "cidr");
    let at = path.child("cidr");
    if cidr.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    let Some(outer) = network(cidr) else {
        problems.push(FieldError::invalid(&at, cidr, NOT_A_CIDR));
        return;
    };
    for (index, except) in strings(block, "except").enumerate() {
        let at = path.child("except").index(index);
        match network(except) {
            None => problems.push(FieldError::invalid(&at, except, NOT_A_CIDR)),
            Some(inner) if inner.1 <= outer.1 || !holds(outer, inner) => {
                problems.push(FieldError::invalid(&at, except, "must be a strict subset of `cidr`"));
            }
            Some(_) => {}
        }
    }
}

/// The strategy of Ingresses.
#[derive(Debug)]
pub(super) struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, ingress: &mut Value) {
        ingress["status"] = json!({ "loadBalancer": {} });
    }

    fn validate(&self, ingress: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &ingress["spec"]);
        match some(spec, "defaultBackend") {
            Some(found) => backend(&path.child("defaultBackend"), found, &mut problems),
            None if empty(spec, "rules") => {
                let rules = items(spec, "rules").to_vec();
                let detail = "either `defaultBackend` or `rules` must be specified";
                problems.push(FieldError::invalid(&path, rules, detail));
            }
            None => {}
        }
        for (path, rule) in indexed(spec, "rules", &path) {
            host(&path.child("host"), text(rule, "host"), &mut problems);
            let Some(http) = some(rule, "http") else { continue };
            let path = path.child("http");
            if empty(http, "paths") {
                problems.push(FieldError::required(&path.child("paths"), ""));
            }
            indexed(http, "paths", &path).for_each(|(path, one)| http_path(&path, one, &mut problems));
        }
        for (path, tls) in indexed(spec, "tls", &path) {
            for (index, name) in strings(tls, "hosts").enumerate() {
                host(&path.child("hosts").index(index), name, &mut problems);
            }
        }
        let class = text(spec, "ingressClassName");
        if !class.is_empty() {
            let at = path.child("ingressClassName");
            problems.extend(named(&at, class, names::is_dns1123_subdomain(class)));
        }
        problems
    }
}

fn host(path: &Path, host: &str, problems: &mut Problems) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        problems.push(FieldError::invalid(path, host, "must be a DNS name, not an IP address"));
    }
    let wild = host.contains('*');
    let messages = if wild { names::is_wildcard_dns1123_subdomain(host) } else { names::is_dns1123_subdomain(host) };
    problems.extend(named(path, host, messages));
}

fn http_path(path: &Path, rule: &Value, problems: &mut Problems) {
    let (kind, url) = (text(rule, "pathType"), text(rule, "path"));
    let at = path.child("path");
    match kind {
        "" => problems.push(FieldError::required(&path.child("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !url.starts_with('/') {
                problems.push(FieldError::invalid(&at, url, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| url.contains(**part)) {
                problems.push(FieldError::invalid(&at, url, format!("must not contain '{part}'")));
            }
            for end in ["/..", "/."].iter().filter(|end| url.ends_with(**end)) {
                problems.push(FieldError::invalid(&at, url, format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" => {
            if !url.is_empty() && !url.starts_with('/') {
                problems.push(FieldError::invalid(&at, url, "must be an absolute path"));
            }
        }
        other => {
            let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
            problems.push(FieldError::not_supported(&path.child("pathType"), other, &kinds));
        }
    }
    backend(&path.child("backend"), &rule["backend"], problems);
}

fn backend(path: &Path, backend: &Value, problems: &mut Problems) {
    let service = match (some(backend, "service"), some(backend, "resource")) {
        (Some(service), None) => service,
        (None, Some(_)) => return,
        (None, None) => {
            problems.push(FieldError::required(path, "resource or service backend is required"));
            return;
        }
        (Some(_), Some(_)) => {
            problems.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
            return;
        }
    };
    let path = path.child("service");
    let name = text(service, "name");
    if name.is_empty() {
        problems.push(FieldError::required(&path.child("name"), ""));
    } else {
        problems.extend(named(&path.child("name"), name, names::is_dns1035_label(name)));
    }
    let port = &service["port"];
    let (label, number) = (text(port, "name"), int(port, "number").unwrap_or(0));
    match (label.is_empty(), number) {
        (false, 0) => problems.extend(named(&path.child("port").child("name"), label, names::is_port_name(label))),
        (false, _) => problems.push(FieldError::invalid(&path, "", "cannot set both port name & port number")),
        (true, 0) => problems.push(FieldError::required(&path, "port name or number is required")),
        (true, number) => port_number(&path.child("port").child("number"), number, problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(strategy: &dyn Strategy, spec: &Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
        strategy.defaults(&mut object);
        strategy.validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ingresses() {
        let path = |path: Value| json!({"rules": [{"http": {"paths": [path]}}]});
        let service = json!({"service": {"name": "s", "port": {"number": 80}}});
        let cases = [
            (path(json!({"path": "/", "pathType": "Prefix", "backend": service})), vec![]),
            (json!({"defaultBackend": service}), vec![]),
            (json!({}), vec!["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
            (
                path(json!({"path": "a//b", "pathType": "Exact", "backend": {"service": {"name": "s"}}})),
                vec![
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                    "spec.rules[0].http.paths[0].backend.service: Required value: port name or number is required",
                ],
            ),
            (
                path(json!({"backend": service})),
                vec!["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                json!({"defaultBackend": service, "rules": [{"host": "1.2.3.4"}]}),
                vec!["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(said(&Ingress, &spec), expected, "{spec}");
        }
    }

    #[test]
    fn network_policies() {
        let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
        let cases = [
            (from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})), vec![]),
            (from(json!({})), vec!["spec.ingress[0].from[0]: Required value: must specify a peer"]),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "podSelector": {}})),
                vec![
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                    "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
                ],
            ),
            (
                json!({"podSelector": {}, "egress": [{"ports": [{"port": 90, "endPort": 80}]}]}),
                vec!["spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(said(&NetworkPolicy, &spec), expected, "{spec}");
        }
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}});
        NetworkPolicy.defaults(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn networks_hold_networks() {
        for (outer, inner, expected) in [
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.255.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("::/0", "10.0.0.0/8", false),
            ("2001:db8::/32", "2001:db8:1::/48", true),
        ] {
            assert_eq!(holds(network(outer).unwrap(), network(inner).unwrap()), expected, "{outer} {inner}");
        }
        assert!(network("10.0.0.0/33").is_none() && network("x").is_none());
    }
}
