//! The downward API: fields and resources of a pod as text, for environment variables and volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use crate::{pod, resources};

/// What the node gives where a container sets no limit of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeCapacity {
    /// Thousandths.
    pub(crate) cpu_milli: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes.
    pub(crate) ephemeral_storage: i64,
}

/// Facts about a pod that are not (or not yet) in its API object.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveFacts {
    /// Addresses of the pod, the primary first.
    pub(crate) pod_ips: Vec<String>,
    /// Address of the node.
    pub(crate) host_ip: String,
    /// What the node allots.
    pub(crate) capacity: NodeCapacity,
}

/// A field of the pod, by the path that `fieldRef` gives.
pub(crate) fn field(pod: &Pod, facts: &LiveFacts, path: &str) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod::spec(pod);
    Ok(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` a line, sorted, as volumes show labels and annotations.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

/// As Go quotes a string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            '\0'..' ' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(char))),
            control if control.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            plain => out.push(plain),
        }
    }
    out + "\""
}

/// A resource of a container, in units of the divisor, rounded up.
pub(crate) fn resource(
    pod: &Pod,
    facts: &LiveFacts,
    own: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own);
    let container = pod::container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let value = match kind {
        "limits" => resources::limit(container, resource).filter(|v| *v > 0).unwrap_or(match resource {
            "cpu" => facts.capacity.cpu_milli,
            "memory" => facts.capacity.memory,
            "ephemeral-storage" => facts.capacity.ephemeral_storage,
            _ => 0,
        }),
        "requests" => resources::request(container, resource).unwrap_or(0),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let unit = if resource == "cpu" { 1000 } else { 1 };
    let divisor = selector.divisor.as_ref().and_then(|q| resources::amount(resource, q)).filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(unit);
    Ok(((value + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    fn sample() -> (Pod, LiveFacts) {
        let limits = BTreeMap::from([("cpu".to_owned(), Quantity("1500m".into()))]);
        let container = Container {
            name: "c".into(),
            resources: Some(ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() }),
            ..Container::default()
        };
        let mut pod =
            Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() };
        pod.metadata.name = Some("p".into());
        pod.metadata.labels = Some(BTreeMap::from([("a".into(), "1".into()), ("b/c".into(), "x\"y".into())]));
        let capacity = NodeCapacity { cpu_milli: 2000, memory: 1 << 30, ephemeral_storage: 0 };
        (pod, LiveFacts { pod_ips: vec!["10.0.0.2".into(), "fd::2".into()], host_ip: "10.1.1.1".into(), capacity })
    }

    #[test]
    fn fields() {
        let (pod, facts) = sample();
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"1\"\nb/c=\"x\\\"y\""),
            ("metadata.labels['b/c']", "x\"y"),
            ("metadata.annotations['none']", ""),
            ("status.podIP", "10.0.0.2"),
            ("status.podIPs", "10.0.0.2,fd::2"),
            ("status.hostIP", "10.1.1.1"),
        ] {
            assert_eq!(field(&pod, &facts, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod, &facts, "spec.nope").is_err());
        assert_eq!(quoted("a\tb\u{1b}\u{7f}\0\u{85}e\u{301}\\"), "\"a\\tb\\x1b\\x7f\\x00\\u0085e\u{301}\\\\\"");
    }

    #[test]
    fn resources_round_up_and_fall_back_to_the_node() {
        let (pod, facts) = sample();
        for (name, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.cpu", Some("1"), "2"),
            ("limits.memory", Some("1Mi"), "1024"),
            ("requests.memory", None, "0"),
        ] {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
                container_name: None,
            };
            assert_eq!(resource(&pod, &facts, "c", &selector).unwrap(), expected, "{name} {divisor:?}");
        }
    }
}
