//! Defaults of pod specs, in pods and in every template (pkg/apis/core/v1/defaults.go).

use crate::strategy::tools::{default_to, each_mut, empty, int, items, made, some, text, within};
use apimachinery::quantity::Quantity;
use serde_json::{Value, json};

/// Fills in the spec of a pod: what it would be in a template, and what only the pod itself says. A template that said it, too,
/// would hold on to requests that follow from limits when the limits change.
pub(super) fn pod(spec: &mut Value) {
    pod_spec(spec);
    default_to(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        each_mut(spec, list, |container| {
            requests(container);
            if host_network {
                each_mut(container, "ports", host_port);
            }
        });
    }
    pod_level_requests(spec);
}

/// Fills in a pod's spec, wherever it stands.
pub(in crate::strategy) fn pod_spec(spec: &mut Value) {
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    // The old name of the field is kept in step with the new one.
    let account = text(spec, "serviceAccountName").to_owned();
    let deprecated = text(spec, "serviceAccount").to_owned();
    if account.is_empty() && !deprecated.is_empty() {
        spec["serviceAccountName"] = deprecated.into();
    } else if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each_mut(spec, list, container);
    }
    each_mut(spec, "volumes", volume);
    each_mut(spec, "topologySpreadConstraints", |constraint| {
        default_to(constraint, "nodeAffinityPolicy", "Honor");
        default_to(constraint, "nodeTaintsPolicy", "Ignore");
    });
}

fn container(container: &mut Value) {
    pull_policy(container, "image", "imagePullPolicy");
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    each_mut(container, "ports", |port| default_to(port, "protocol", "TCP"));
    each_mut(container, "env", |variable| {
        within(variable, "valueFrom", |source| {
            within(source, "fieldRef", |field| default_to(field, "apiVersion", "v1"));
            within(source, "resourceFieldRef", |field| default_to(field, "divisor", "0"));
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        within(lifecycle, "postStart", handler);
        within(lifecycle, "preStop", handler);
    });
    within(container, "resources", |resources| {
        for list in ["limits", "requests"] {
            canonical(resources, list);
        }
    });
}

fn pull_policy(holder: &mut Value, image: &str, policy: &str) {
    let value = if pulls_always(text(holder, image)) { "Always" } else { "IfNotPresent" };
    default_to(holder, policy, value);
}

/// On the node's network a port is the node's.
fn host_port(port: &mut Value) {
    if int(port, "hostPort").unwrap_or(0) == 0 {
        port["hostPort"] = port["containerPort"].clone();
    }
}

/// `latest`, spelt out or implied, is pulled each time; a digest never changes.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if int(probe, field).is_none_or(|found| found == 0) {
            probe[field] = value.into();
        }
    }
    handler(probe);
    within(probe, "grpc", |grpc| {
        if some(grpc, "service").is_none() {
            grpc["service"] = "".into();
        }
    });
}

fn handler(handler: &mut Value) {
    within(handler, "httpGet", |get| {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    });
}

/// Limits without requests are requests too.
fn requests(container: &mut Value) {
    within(container, "resources", |resources| {
        let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
        if limits.is_empty() {
            return;
        }
        let requests = made(resources, "requests");
        for (name, limit) in limits {
            if requests.get(&name).is_none() {
                requests[name.as_str()] = limit;
            }
        }
    });
}

/// A pod that says what it needs as a whole asks for what its containers ask for together, or else for its limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(own) = some(spec, "resources").filter(|own| !empty(own, "limits") || !empty(own, "requests")) else {
        return;
    };
    let mut requests = own.get("requests").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["cpu", "memory"].into_iter().filter(|name| !own["requests"][name].is_string()) {
        let amount = containers_request(spec, name).map(|sum| sum.to_string().into());
        if let Some(amount) = amount.or_else(|| own["limits"].get(name).cloned()) {
            requests.insert(name.to_owned(), amount);
        }
    }
    spec["resources"]["requests"] = requests.into();
    for list in ["limits", "requests"] {
        canonical(&mut spec["resources"], list);
    }
}

/// What the containers of a pod ask for at its peak, where any of them does.
pub(super) fn containers_request(spec: &Value, name: &str) -> Option<Quantity> {
    let of = |container: &Value| super::resources::parse(&container["resources"]["requests"][name]);
    let sum = |a: Option<Quantity>, b: Option<Quantity>| a.map_or(b, |a| Some(b.map_or(a, |b| a + b)));
    let (mut sidecars, mut peak) = (None, None);
    for container in items(spec, "initContainers") {
        let during = sum(sidecars, of(container));
        peak = peak.max(during);
        if text(container, "restartPolicy") == "Always" {
            sidecars = during;
        }
    }
    let apps = items(spec, "containers").iter().map(of).fold(None, sum);
    sum(apps, sidecars).max(peak)
}

/// Writes each quantity of a resource list canonically; what cannot be read is left for validation.
pub(in crate::strategy) fn canonical(holder: &mut Value, list: &str) {
    let Some(list) = holder.get_mut(list).and_then(Value::as_object_mut) else { return };
    for value in list.values_mut() {
        let text = match &*value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        if let Ok(quantity) = Quantity::parse(&text) {
            *value = quantity.to_string().into();
        }
    }
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |map| map.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        volume["emptyDir"] = json!({});
    }
    within(volume, "image", |image| pull_policy(image, "reference", "pullPolicy"));
    for (source, field, value) in [
        ("secret", "defaultMode", json!(0o644)),
        ("configMap", "defaultMode", json!(0o644)),
        ("downwardAPI", "defaultMode", json!(0o644)),
        ("projected", "defaultMode", json!(0o644)),
        ("hostPath", "type", json!("")),
        ("iscsi", "iscsiInterface", json!("default")),
        ("rbd", "pool", json!("rbd")),
        ("rbd", "user", json!("admin")),
        ("rbd", "keyring", json!("/etc/ceph/keyring")),
    ] {
        within(volume, source, |found| {
            if some(found, field).is_none() {
                found[field] = value;
            }
        });
    }
    within(volume, "downwardAPI", downward_items);
    within(volume, "projected", |projected| {
        each_mut(projected, "sources", |source| {
            within(source, "downwardAPI", downward_items);
            within(source, "serviceAccountToken", |token| {
                if int(token, "expirationSeconds").is_none() {
                    token["expirationSeconds"] = 3600.into();
                }
            });
        });
    });
    within(volume, "ephemeral", |ephemeral| {
        within(ephemeral, "volumeClaimTemplate", |template| {
            within(template, "spec", |spec| default_to(spec, "volumeMode", "Filesystem"));
        });
    });
}

fn downward_items(source: &mut Value) {
    if empty(source, "items") {
        return;
    }
    each_mut(source, "items", |item| {
        within(item, "fieldRef", |field| default_to(field, "apiVersion", "v1"));
        within(item, "resourceFieldRef", |field| default_to(field, "divisor", "0"));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_by_tag() {
        for (image, always) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:00", false),
        ] {
            assert_eq!(pulls_always(image), always, "{image}");
        }
    }

    #[test]
    fn a_small_pod_is_filled_in_and_stays_so() {
        let mut spec = json!({
            "hostNetwork": true,
            "containers": [{
                "name": "a", "image": "web:1", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
            "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}}],
        });
        let mut template = spec.clone();
        pod_spec(&mut template);
        assert!(template.get("enableServiceLinks").is_none());
        assert_eq!(template["containers"][0]["resources"], json!({"limits": {"cpu": "500m", "memory": "1Gi"}}));
        assert_eq!(template["containers"][0]["ports"][0], json!({"containerPort": 80, "protocol": "TCP"}));
        pod(&mut spec);
        assert_eq!(spec["enableServiceLinks"], true);
        let container = &spec["containers"][0];
        assert_eq!(container["ports"][0], json!({"containerPort": 80, "protocol": "TCP", "hostPort": 80}));
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"port": 80, "path": "/", "scheme": "HTTP"}));
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
        assert_eq!(spec["securityContext"], json!({}));
        let once = spec.clone();
        pod(&mut spec);
        assert_eq!(spec, once);
    }
}
