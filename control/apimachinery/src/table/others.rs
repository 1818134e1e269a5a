//! Rows of the groups that are not workloads.

use jiff::Timestamp;
use serde_json::Value;

use super::apps::flag;
use super::cells::{age, at, condition, count, created_at, first, list, name, number, or, scalar, selector, text};
use super::core::{EVENT_COLUMNS, event, load_balancer};
use super::duration::human_duration;
use super::{AGE, Column, NAME, Printer, Row, number as integer, text as column, wide};
use crate::meta;

const BINDING_COLUMNS: &[Column] = &[NAME, column("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];

const STORAGE_CLASS_COLUMNS: &[Column] = &[
    NAME,
    column("Provisioner"),
    column("ReclaimPolicy"),
    column("VolumeBindingMode"),
    Column { ty: "boolean", ..column("AllowVolumeExpansion") },
    AGE,
];

const DRIVER_COLUMNS: &[Column] = &[
    NAME,
    column("AttachRequired"),
    column("PodInfoOnMount"),
    column("StorageCapacity"),
    column("TokenRequests"),
    column("RequiresRepublish"),
    column("Modes"),
    AGE,
];

const REQUEST_COLUMNS: &[Column] =
    &[NAME, AGE, column("SignerName"), column("Requestor"), column("RequestedDuration"), column("Condition")];

const FLOW_COLUMNS: &[Column] = &[
    NAME,
    column("PriorityLevel"),
    integer("MatchingPrecedence"),
    column("DistinguisherMethod"),
    AGE,
    column("MissingPL"),
];

const LEVEL_COLUMNS: &[Column] = &[
    NAME,
    column("Type"),
    integer("NominalConcurrencyShares"),
    column("Queues"),
    column("HandSize"),
    column("QueueLengthLimit"),
    AGE,
];

pub(super) fn printer(group: &str, resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match (group, resource) {
        ("events.k8s.io", _) => (EVENT_COLUMNS, event),
        ("coordination.k8s.io", "leases") => (const { &[NAME, column("Holder"), AGE] }, lease),
        ("discovery.k8s.io", _) => {
            (const { &[NAME, column("AddressType"), column("Ports"), column("Endpoints"), AGE] }, endpoint_slice)
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => (const { &[NAME, column("Created At")] }, created),
        ("rbac.authorization.k8s.io", _) => (BINDING_COLUMNS, binding),
        ("apiextensions.k8s.io", _) => (const { &[NAME, column("Created At")] }, created),
        ("apiregistration.k8s.io", _) => (const { &[NAME, column("Service"), column("Available"), AGE] }, api_service),
        ("scheduling.k8s.io", "priorityclasses") => (
            const {
                &[
                    NAME,
                    integer("Value"),
                    Column { ty: "boolean", ..column("Global-Default") },
                    AGE,
                    column("PreemptionPolicy"),
                ]
            },
            priority_class,
        ),
        ("node.k8s.io", _) => (const { &[NAME, column("Handler"), AGE] }, runtime_class),
        ("certificates.k8s.io", "certificatesigningrequests") => (REQUEST_COLUMNS, certificate_request),
        ("networking.k8s.io", _) => return networking(resource),
        ("storage.k8s.io", _) => return storage(resource),
        ("admissionregistration.k8s.io", _) => return admission(resource),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => (FLOW_COLUMNS, flow_schema),
        ("flowcontrol.apiserver.k8s.io", _) => (LEVEL_COLUMNS, priority_level),
        ("certificates.k8s.io", "clustertrustbundles") => (const { &[NAME, column("SignerName")] }, |object, _| {
            vec![name(object), text(object, "spec.signerName").into()]
        }),
        ("resource.k8s.io", "resourceslices") => {
            (const { &[NAME, column("Node"), column("Driver"), column("Pool"), AGE] }, resource_slice)
        }
        ("resource.k8s.io", "resourceclaims") => (const { &[NAME, column("State"), AGE] }, resource_claim),
        _ => return None,
    };
    Some(Printer { columns, row })
}

fn networking(resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match resource {
        "ingresses" => {
            (const { &[NAME, column("Class"), column("Hosts"), column("Address"), column("Ports"), AGE] }, ingress)
        }
        "ingressclasses" => (const { &[NAME, column("Controller"), column("Parameters"), AGE] }, ingress_class),
        "networkpolicies" => (const { &[NAME, column("Pod-Selector"), AGE] }, |object, now| {
            vec![name(object), selector(at(object, "spec.podSelector")).into(), age(object, now)]
        }),
        "servicecidrs" => (const { &[NAME, column("CIDRs"), AGE] }, |object, now| {
            let cidrs: Vec<&str> = list(object, "spec.cidrs").iter().filter_map(Value::as_str).collect();
            vec![name(object), cidrs.join(",").into(), age(object, now)]
        }),
        "ipaddresses" => (const { &[NAME, column("ParentRef")] }, |object, _| {
            let parent = at(object, "spec.parentRef");
            let resource = crate::gvk::qualified(text(parent, "group"), text(parent, "resource"));
            vec![name(object), format!("{resource}/{}/{}", text(parent, "namespace"), text(parent, "name")).into()]
        }),
        _ => return None,
    };
    Some(Printer { columns, row })
}

fn storage(resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match resource {
        "storageclasses" => (STORAGE_CLASS_COLUMNS, storage_class),
        "volumeattributesclasses" => (const { &[NAME, column("DriverName"), AGE] }, |object, now| {
            vec![
                default_name(object, "storageclass.kubernetes.io/is-default-class"),
                text(object, "driverName").into(),
                age(object, now),
            ]
        }),
        "csidrivers" => (DRIVER_COLUMNS, csi_driver),
        "csinodes" => (const { &[NAME, integer("Drivers"), AGE] }, |object, now| {
            vec![name(object), list(object, "spec.drivers").len().into(), age(object, now)]
        }),
        "csistoragecapacities" => (const { &[NAME, column("StorageClassName"), column("Capacity")] }, |object, _| {
            vec![
                name(object),
                text(object, "storageClassName").into(),
                scalar(at(object, "capacity"), "<unset>").into(),
            ]
        }),
        "volumeattachments" => (
            const {
                &[
                    NAME,
                    column("Attacher"),
                    column("PV"),
                    column("Node"),
                    Column { ty: "boolean", ..column("Attached") },
                    AGE,
                ]
            },
            volume_attachment,
        ),
        _ => return None,
    };
    Some(Printer { columns, row })
}

fn admission(resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match resource {
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => {
            (const { &[NAME, integer("Webhooks"), AGE] }, |object, now| {
                vec![name(object), list(object, "webhooks").len().into(), age(object, now)]
            })
        }
        "validatingadmissionpolicies" => {
            (const { &[NAME, integer("Validations"), column("ParamKind"), AGE] }, |object, now| {
                vec![name(object), list(object, "spec.validations").len().into(), param_kind(object), age(object, now)]
            })
        }
        "mutatingadmissionpolicies" => {
            (const { &[NAME, integer("Mutations"), column("ParamKind"), AGE] }, |object, now| {
                vec![name(object), list(object, "spec.mutations").len().into(), param_kind(object), age(object, now)]
            })
        }
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => {
            (const { &[NAME, column("PolicyName"), column("ParamRef"), AGE] }, |object, now| {
                let param = match at(object, "spec.paramRef") {
                    Value::Null => "<unset>".to_owned(),
                    param => match text(param, "namespace") {
                        "" => text(param, "name").to_owned(),
                        namespace => format!("{namespace}/{}", text(param, "name")),
                    },
                };
                vec![name(object), text(object, "spec.policyName").into(), param.into(), age(object, now)]
            })
        }
        _ => return None,
    };
    Some(Printer { columns, row })
}

fn param_kind(object: &Value) -> Value {
    match at(object, "spec.paramKind") {
        Value::Null => "<unset>".into(),
        kind => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
    }
}

fn created(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), created_at(object)]
}

fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "spec.holderIdentity").into(), age(object, now)]
}

fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "handler").into(), age(object, now)]
}

fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| scalar(at(port, "port"), or(text(port, "name"), "*"));
    let ports: Vec<String> = list(object, "ports").iter().map(port).collect();
    let endpoints = list(object, "endpoints").iter().flat_map(|one| list(one, "addresses"));
    let addresses: Vec<String> = endpoints.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        name(object),
        text(object, "addressType").into(),
        first(&ports, 3, "<unset>").into(),
        first(&addresses, 3, "<unset>").into(),
        age(object, now),
    ]
}

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = at(object, "roleRef");
    let subjects = |kind: &str| {
        let of_kind = list(object, "subjects").iter().filter(|one| text(one, "kind") == kind);
        let names = of_kind.map(|one| match text(one, "namespace") {
            "" => text(one, "name").to_owned(),
            namespace => format!("{namespace}/{}", text(one, "name")),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        name(object),
        format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = match at(object, "spec.service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", text(service, "namespace"), text(service, "name")),
    };
    let conditions = list(object, "status.conditions");
    let available = conditions.iter().find(|one| text(one, "type") == "Available").map(|one| {
        let (status, reason) = (text(one, "status"), text(one, "reason"));
        if status == "True" { status.to_owned() } else { format!("{status} ({reason})") }
    });
    vec![name(object), service.into(), available.unwrap_or_else(|| "Unknown".to_owned()).into(), age(object, now)]
}

fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        number(object, "value").into(),
        (at(object, "globalDefault") == true).into(),
        age(object, now),
        text(object, "preemptionPolicy").into(),
    ]
}

fn certificate_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let holds = |ty| !condition(object, ty).is_empty();
    let mut state = if holds("Denied") {
        "Denied"
    } else if holds("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if holds("Failed") {
        state.push_str(",Failed");
    }
    if !text(object, "status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    let duration = at(object, "spec.expirationSeconds").as_i64().map_or("<none>".to_owned(), human_duration);
    vec![
        name(object),
        age(object, now),
        text(object, "spec.signerName").into(),
        text(object, "spec.username").into(),
        duration.into(),
        state.into(),
    ]
}

fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let hosts = list(object, "spec.rules").iter().map(|rule| text(rule, "host").to_owned());
    let hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).collect();
    let ports = if list(object, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(object),
        scalar(at(object, "spec.ingressClassName"), "<none>").into(),
        first(&hosts, 3, "*").into(),
        load_balancer(object).join(",").into(),
        ports.into(),
        age(object, now),
    ]
}

fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match at(object, "spec.parameters") {
        Value::Null => "<none>".to_owned(),
        target => {
            let kind = crate::gvk::qualified(text(target, "apiGroup"), text(target, "kind"));
            format!("{kind}/{}", text(target, "name"))
        }
    };
    vec![name(object), text(object, "spec.controller").into(), parameters.into(), age(object, now)]
}

/// The name, marked where the object is its kind's default.
fn default_name(object: &Value, annotation: &str) -> Value {
    let name = meta::name(object);
    let default = meta::annotation(object, annotation) == Some("true");
    if default { format!("{name} (default)").into() } else { name.into() }
}

fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        default_name(object, "storageclass.kubernetes.io/is-default-class"),
        text(object, "provisioner").into(),
        or(text(object, "reclaimPolicy"), "Delete").into(),
        or(text(object, "volumeBindingMode"), "Immediate").into(),
        (at(object, "allowVolumeExpansion") == true).into(),
        age(object, now),
    ]
}

fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let join = |path, key: &str| {
        let items = list(object, path).iter();
        let texts = items.map(|one| if key.is_empty() { one.as_str().unwrap_or_default() } else { text(one, key) });
        texts.collect::<Vec<_>>().join(",")
    };
    vec![
        name(object),
        (at(object, "spec.attachRequired") != false).into(),
        (at(object, "spec.podInfoOnMount") == true).into(),
        flag(object, "spec.storageCapacity"),
        or(&join("spec.tokenRequests", "audience"), "<unset>").into(),
        flag(object, "spec.requiresRepublish"),
        or(&join("spec.volumeLifecycleModes", ""), "<none>").into(),
        age(object, now),
    ]
}

fn volume_attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "spec.attacher").into(),
        text(object, "spec.source.persistentVolumeName").into(),
        text(object, "spec.nodeName").into(),
        (at(object, "status.attached") == true).into(),
        age(object, now),
    ]
}

fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = match condition(object, "Dangling") {
        "" => "?",
        status => status,
    };
    vec![
        name(object),
        text(object, "spec.priorityLevelConfiguration.name").into(),
        number(object, "spec.matchingPrecedence").into(),
        or(text(object, "spec.distinguisherMethod.type"), "<none>").into(),
        age(object, now),
        dangling.into(),
    ]
}

fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let queuing = at(object, "spec.limited.limitResponse.queuing");
    let shares = at(object, "spec.limited.nominalConcurrencyShares");
    vec![
        name(object),
        text(object, "spec.type").into(),
        scalar(shares, "<none>").into(),
        scalar(at(queuing, "queues"), "<none>").into(),
        scalar(at(queuing, "handSize"), "<none>").into(),
        scalar(at(queuing, "queueLengthLimit"), "<none>").into(),
        age(object, now),
    ]
}

fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    if meta::deletion_timestamp(object).is_some() {
        states.push("deleted");
    }
    if count(object, "status.allocation") > 0 || !at(object, "status.allocation").is_null() {
        states.push("allocated");
        if !list(object, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else {
        states.push("pending");
    }
    vec![name(object), states.join(",").into(), age(object, now)]
}

fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = at(object, "spec");
    vec![
        name(object),
        or(text(spec, "nodeName"), "<none>").into(),
        text(spec, "driver").into(),
        text(spec, "pool.name").into(),
        age(object, now),
    ]
}
