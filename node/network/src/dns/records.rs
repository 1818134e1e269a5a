//! What DNS reads of Services and EndpointSlices, and the compact record it makes of them: a pure function.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use informer::kinds::{EndpointSlice, Service, ServiceSpec};

use super::zone::{Endpoint as EndpointRecord, Port, ServiceRecord};

/// Makes the record of a Service; `None` where it has no name in DNS (yet).
pub(super) fn record(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<ServiceRecord> {
    let spec = &service.spec;
    let ports = spec.ports.iter().map(|port| Port {
        name: port.name.to_ascii_lowercase(),
        protocol: protocol(&port.protocol),
        port: port.port,
    });
    let mut record = ServiceRecord { ports: ports.collect(), ..ServiceRecord::default() };
    if spec.r#type == "ExternalName" {
        record.external = Some(spec.external_name.trim_end_matches('.').to_ascii_lowercase());
        return Some(record);
    }
    if spec.cluster_ip == "None" {
        record.headless = true;
        record.endpoints = endpoints(spec, slices);
        return Some(record);
    }
    let first = std::slice::from_ref(&spec.cluster_ip);
    let all = if spec.cluster_ips.is_empty() { first } else { &spec.cluster_ips };
    record.addresses = all.iter().filter_map(|text| text.parse().ok()).collect();
    (!record.addresses.is_empty()).then_some(record)
}

fn protocol(name: &str) -> String {
    if name.is_empty() { "tcp".to_owned() } else { name.to_ascii_lowercase() }
}

/// The endpoints of a headless Service, each address once.
fn endpoints(spec: &ServiceSpec, slices: &[Arc<EndpointSlice>]) -> Vec<EndpointRecord> {
    let mut found = BTreeMap::<IpAddr, EndpointRecord>::new();
    for slice in slices {
        let ports = slice.ports.iter().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default().to_ascii_lowercase(),
                protocol: protocol(port.protocol.as_deref().unwrap_or("")),
                port: port.port?,
            })
        });
        let ports: Vec<Port> = ports.collect();
        for endpoint in &slice.endpoints {
            if !endpoint.conditions.ready.unwrap_or(true) && !spec.publish_not_ready_addresses {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                let host = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
                let record = found.entry(address).or_insert_with(|| EndpointRecord {
                    address,
                    host: host.map_or_else(|| dashed(&address), str::to_ascii_lowercase),
                    ports: Vec::new(),
                });
                record
                    .ports
                    .extend(ports.iter().filter(|port| !record.ports.contains(port)).cloned().collect::<Vec<_>>());
            }
        }
    }
    found.into_values().collect()
}

/// The name of an endpoint that has no host name.
fn dashed(address: &IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "called with JSON literals")]
    fn of(spec: Value, slices: &[Value]) -> Option<ServiceRecord> {
        let service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap();
        let slices: Vec<_> =
            slices.iter().map(|slice| Arc::new(serde_json::from_value(slice.clone()).unwrap())).collect();
        record(&service, &slices)
    }

    #[test]
    fn records() {
        let slice = json!({"ports": [{"name": "", "port": 80}], "endpoints": [
            {"addresses": ["10.0.0.1"], "hostname": "One"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["fd00::2"]},
        ]});
        let hosts = |found: Option<ServiceRecord>| -> Vec<String> {
            found.unwrap().endpoints.into_iter().map(|endpoint| endpoint.host).collect()
        };
        let headless = json!({"clusterIP": "None", "ports": [{"port": 80}]});
        assert_eq!(hosts(of(headless, &[slice.clone(), slice.clone()])), ["one", "fd00--2"]);
        let all = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
        assert_eq!(hosts(of(all, &[slice])), ["one", "10-0-0-2", "fd00--2"]);
        assert_eq!(of(json!({"clusterIP": ""}), &[]), None);
        let external = of(json!({"type": "ExternalName", "externalName": "Example.org."}), &[]).unwrap();
        assert_eq!(external.external.as_deref(), Some("example.org"));
        let plain = of(json!({"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80}]}), &[]).unwrap();
        assert_eq!((plain.addresses.len(), plain.ports[0].protocol.as_str()), (1, "tcp"));
    }
}
