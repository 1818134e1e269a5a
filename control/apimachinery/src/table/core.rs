//! Rows of the core group.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    age, at, condition, containers, count, created_at, first, labels, list, name, number, or, scalar, text,
};
use super::duration::since;
use super::{AGE, Column, NAME, Printer, Row, number as integer, pod, text as column, wide};
use crate::meta;

pub(super) const EVENT_COLUMNS: &[Column] = &[
    column("Last Seen"),
    column("Type"),
    column("Reason"),
    column("Object"),
    wide("Subobject"),
    wide("Source"),
    column("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { priority: 1, ..NAME },
];

const CLAIM_COLUMNS: &[Column] = &[
    NAME,
    column("Status"),
    column("Volume"),
    column("Capacity"),
    column("Access Modes"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];

const VOLUME_COLUMNS: &[Column] = &[
    NAME,
    column("Capacity"),
    column("Access Modes"),
    column("Reclaim Policy"),
    column("Status"),
    column("Claim"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    column("Reason"),
    AGE,
    wide("VolumeMode"),
];

const NODE_COLUMNS: &[Column] = &[
    NAME,
    column("Status"),
    column("Roles"),
    AGE,
    column("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

const SERVICE_COLUMNS: &[Column] =
    &[NAME, column("Type"), column("Cluster-IP"), column("External-IP"), column("Port(s)"), AGE, wide("Selector")];

const CONTROLLER_COLUMNS: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) fn printer(resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match resource {
        "pods" => (pod::COLUMNS, pod::row),
        "services" => (SERVICE_COLUMNS, service),
        "nodes" => (NODE_COLUMNS, node),
        "events" => (EVENT_COLUMNS, event),
        "persistentvolumes" => (VOLUME_COLUMNS, volume),
        "persistentvolumeclaims" => (CLAIM_COLUMNS, claim),
        "replicationcontrollers" => (CONTROLLER_COLUMNS, replication_controller),
        "namespaces" => (const { &[NAME, column("Status"), AGE] }, namespace),
        "configmaps" => (const { &[NAME, integer("Data"), AGE] }, config_map),
        "secrets" => (const { &[NAME, column("Type"), integer("Data"), AGE] }, secret),
        "serviceaccounts" => (const { &[NAME, integer("Secrets"), AGE] }, service_account),
        "endpoints" => (const { &[NAME, column("Endpoints"), AGE] }, endpoints),
        "limitranges" => (const { &[NAME, column("Created At")] }, |object, _| vec![name(object), created_at(object)]),
        "resourcequotas" => (const { &[NAME, column("Request"), column("Limit"), AGE] }, quota),
        "podtemplates" => {
            (const { &[NAME, column("Containers"), column("Images"), column("Pod Labels")] }, pod_template)
        }
        "componentstatuses" => {
            (const { &[NAME, column("Status"), column("Message"), column("Error")] }, component_status)
        }
        _ => return None,
    };
    Some(Printer { columns, row })
}

fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "status.phase").into(), age(object, now)]
}

fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), (count(object, "data") + count(object, "binaryData")).into(), age(object, now)]
}

fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "type").into(), count(object, "data").into(), age(object, now)]
}

fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), list(object, "secrets").len().into(), age(object, now)]
}

fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(object, "template.spec"));
    vec![name(object), names, images, labels(at(object, "template.metadata.labels")).into()]
}

fn component_status(object: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = list(object, "conditions").iter().find(|one| text(one, "type") == "Healthy");
    let get = |key| healthy.map_or("", |one| text(one, key));
    let status = match get("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![name(object), status.into(), get("message").into(), get("error").into()]
}

fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(object, "spec.template.spec"));
    vec![
        name(object),
        number(object, "spec.replicas").into(),
        number(object, "status.replicas").into(),
        number(object, "status.readyReplicas").into(),
        age(object, now),
        names,
        images,
        labels(at(object, "spec.selector")).into(),
    ]
}

fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in at(object, "status.hard").as_object().into_iter().flatten() {
        let used = scalar(&at(object, "status.used")[resource], "0");
        let entry = format!("{resource}: {used}/{}", scalar(hard, "0"));
        if resource.starts_with("limits") { limits.push(entry) } else { requests.push(entry) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = || list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = number(port, "port");
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
    }
    vec![name(object), first(&all, 3, "<none>").into(), age(object, now)]
}

fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = list(object, "spec.clusterIPs").first().and_then(Value::as_str);
    let port = |port: &Value| {
        let (number, node, protocol) = (number(port, "port"), number(port, "nodePort"), text(port, "protocol"));
        if node > 0 { format!("{number}:{node}/{protocol}") } else { format!("{number}/{protocol}") }
    };
    let ports: Vec<String> = list(object, "spec.ports").iter().map(port).collect();
    vec![
        name(object),
        text(object, "spec.type").into(),
        or(cluster_ip.unwrap_or(text(object, "spec.clusterIP")), "<none>").into(),
        external_ip(object).into(),
        or(&ports.join(","), "<none>").into(),
        age(object, now),
        labels(at(object, "spec.selector")).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let external = list(service, "spec.externalIPs").iter().filter_map(Value::as_str);
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => or(&external.collect::<Vec<_>>().join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let assigned = load_balancer(service);
            let all: Vec<&str> = assigned.iter().map(String::as_str).chain(external).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses that a load balancer has assigned.
pub(super) fn load_balancer(object: &Value) -> Vec<String> {
    let ingress = list(object, "status.loadBalancer.ingress").iter();
    let addresses = ingress.map(|one| or(text(one, "ip"), text(one, "hostname")).to_owned());
    let sorted: BTreeSet<String> = addresses.filter(|one| !one.is_empty()).collect();
    sorted.into_iter().collect()
}

fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(object, "Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    }
    .to_owned();
    if at(object, "spec.unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |ty: &str| {
        let found = list(object, "status.addresses").iter().find(|one| text(one, "type") == ty);
        Value::from(found.map_or("<none>", |one| text(one, "address")))
    };
    let info = |key: &str| Value::from(or(text(at(object, "status.nodeInfo"), key), "<unknown>"));
    vec![
        name(object),
        status.into(),
        roles(object).into(),
        age(object, now),
        text(object, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in meta::labels(node).into_iter().flatten() {
        let role = match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if label == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => continue,
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

/// Events of the core group and of `events.k8s.io`, whose fields have other names.
pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |a, b| or(text(object, a), text(object, b));
    let about = [at(object, "involvedObject"), at(object, "regarding")].into_iter().find(|one| !one.is_null());
    let about = about.unwrap_or(&Value::Null);
    let first_seen = or(either("firstTimestamp", "deprecatedFirstTimestamp"), text(object, "eventTime"));
    let last_seen = or(either("lastTimestamp", "deprecatedLastTimestamp"), first_seen);
    let series = at(object, "series");
    let (last_seen, occurrences) = if series.is_null() {
        (last_seen, number(object, "count").max(number(object, "deprecatedCount")).max(1))
    } else {
        (text(series, "lastObservedTime"), number(series, "count"))
    };
    let kind = text(about, "kind").to_lowercase();
    let target = match text(about, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = or(
        either("source.component", "deprecatedSource.component"),
        either("reportingComponent", "reportingController"),
    );
    let host = or(either("source.host", "deprecatedSource.host"), text(object, "reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        since(last_seen, now).into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(about, "fieldPath").into(),
        source.into(),
        either("message", "note").trim().into(),
        since(first_seen, now).into(),
        occurrences.into(),
        name(object),
    ]
}

fn access_modes(modes: &[Value]) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let mut modes: Vec<&str> = modes.iter().map(short).filter(|mode| !mode.is_empty()).collect();
    modes.dedup();
    modes.join(",")
}

fn phase(object: &Value) -> &str {
    if meta::deletion_timestamp(object).is_some() { "Terminating" } else { text(object, "status.phase") }
}

fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match at(object, "spec.claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")),
    };
    vec![
        name(object),
        text(object, "spec.capacity.storage").into(),
        access_modes(list(object, "spec.accessModes")).into(),
        text(object, "spec.persistentVolumeReclaimPolicy").into(),
        phase(object).into(),
        claim.into(),
        text(object, "spec.storageClassName").into(),
        scalar(at(object, "spec.volumeAttributesClassName"), "<unset>").into(),
        text(object, "status.reason").into(),
        age(object, now),
        scalar(at(object, "spec.volumeMode"), "<unset>").into(),
    ]
}

fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !text(object, "spec.volumeName").is_empty();
    let (capacity, modes) = match bound {
        true => (text(object, "status.capacity.storage"), access_modes(list(object, "status.accessModes"))),
        false => ("", String::new()),
    };
    vec![
        name(object),
        phase(object).into(),
        text(object, "spec.volumeName").into(),
        capacity.into(),
        modes.into(),
        text(object, "spec.storageClassName").into(),
        scalar(at(object, "spec.volumeAttributesClassName"), "<unset>").into(),
        age(object, now),
        scalar(at(object, "spec.volumeMode"), "<unset>").into(),
    ]
}
