//! What is allowed of a pod or a template and nevertheless hardly meant: told in `Warning` headers (pkg/api/pod/warnings.go).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::resources;
use crate::strategy::tools::{empty, indexed, int, items, map, some, text};
use apimachinery::field::Path;
use apimachinery::names;
use serde_json::Value;

/// Labels of nodes that have other names now.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Annotations that nothing looks at any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Volumes that are gone or going.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const USE_SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// What to say of a pod, or of the template at `path`.
pub(in crate::strategy) fn pod(path: &Path, pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let (spec, at) = (&pod["spec"], path.child("spec"));
    old_labels(&at, spec, &mut warnings);
    annotations(path, pod, &mut warnings);
    for (path, volume) in indexed(spec, "volumes", &at) {
        for (field, said) in OLD_VOLUMES.iter().filter(|(field, _)| some(volume, field).is_some()) {
            let field = if *field == "storageos" { "storageOS" } else { field };
            warnings.push(format!("{}: {said}", path.child(field)));
        }
        overlaps(volume, &mut warnings);
    }
    repeated(&at, spec, "hostAliases", "ip", &mut warnings);
    repeated(&at, spec, "imagePullSecrets", "name", &mut warnings);
    for (path, _) in indexed(spec, "imagePullSecrets", &at).filter(|(_, secret)| empty(secret, "name")) {
        warnings.push(format!("{}: invalid empty name \"\"", path.child("name")));
    }
    fractions(&at.child("overhead"), spec.get("overhead"), &mut warnings);
    for (path, container) in containers(&at, spec) {
        let resources = path.child("resources");
        for list in ["limits", "requests"] {
            fractions(&resources.child(list), container["resources"].get(list), &mut warnings);
        }
        hidden_variables(&path, container, &mut warnings);
    }
    ports(&at, spec, &mut warnings);
    port_names(&at, spec, &mut warnings);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let at = at.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    selectors(&at.child("affinity"), &spec["affinity"], &mut warnings);
    for (path, server) in indexed(&spec["dnsConfig"], "nameservers", &at.child("dnsConfig")) {
        warnings.extend(ip(&path, server.as_str().unwrap_or_default()));
    }
    for (path, alias) in indexed(spec, "hostAliases", &at) {
        warnings.extend(ip(&path.child("ip"), text(alias, "ip")));
    }
    warnings
}

/// What to say of the name of something whose pods are named after it.
pub(in crate::strategy) fn name(name: &str, used: &str) -> Option<String> {
    let wrong = names::is_dns1123_label(name);
    let said =
        format!("{used}, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" "));
    (!wrong.is_empty()).then(|| format!("metadata.name: {said}"))
}

/// What to say of an address that others may read differently.
pub(in crate::strategy) fn ip(path: &Path, value: &str) -> Option<String> {
    let IpAddr::V6(address) = value.parse().ok()? else { return None };
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Some(format!("{path}: non-standard IP address {value:?} is invalid: use \"{mapped}\""));
    }
    let canonical = address.to_string();
    let said = format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})");
    (canonical != value).then_some(said)
}

/// What to say of the label of a node by which something is selected.
pub(in crate::strategy) fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(label, _)| *label == key).map(|(_, said)| *said)
}

/// Init containers, sidecars among them, app containers and ephemeral ones.
fn containers<'a>(path: &Path, spec: &'a Value) -> impl Iterator<Item = (Path, &'a Value)> {
    let path = path.clone();
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| indexed(spec, list, &path))
}

fn old_labels(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    for (key, _) in map(spec, "nodeSelector").into_iter().flatten() {
        let at = path.child("nodeSelector").key(key.as_str());
        warnings.extend(old_label(key).map(|said| format!("{at}: {said}")));
    }
    let at = path.child("affinity").child("nodeAffinity");
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    let affinity = &spec["affinity"]["nodeAffinity"];
    for (path, term) in indexed(&affinity[required], "nodeSelectorTerms", &at.child(required)) {
        old_labels_of(&path, term, false, warnings);
    }
    for (path, weighted) in indexed(affinity, preferred, &at) {
        old_labels_of(&path.child("preference"), &weighted["preference"], true, warnings);
    }
    for (path, constraint) in indexed(spec, "topologySpreadConstraints", path) {
        let key = text(constraint, "topologyKey");
        warnings.extend(old_label(key).map(|said| format!("{}: {key} is {said}", path.child("topologyKey"))));
        if some(constraint, "labelSelector").is_none() {
            warnings.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
}

fn old_labels_of(path: &Path, term: &Value, checks_values: bool, warnings: &mut Vec<String>) {
    for (path, expression) in indexed(term, "matchExpressions", path) {
        let key = text(expression, "key");
        warnings.extend(old_label(key).map(|said| format!("{}: {key} is {said}", path.child("key"))));
        for (path, value) in indexed(expression, "values", &path).filter(|_| checks_values) {
            let value = value.as_str().unwrap_or_default();
            warnings.extend(
                names::is_label_value(value).iter().map(|wrong| format!("{path}: {value} is invalid, {wrong}")),
            );
        }
    }
}

fn annotations(path: &Path, pod: &Value, warnings: &mut Vec<String>) {
    let Some(annotations) = map(&pod["metadata"], "annotations") else { return };
    let at = path.child("metadata").child("annotations");
    let mut say = |key: &str, said: &str| {
        if annotations.contains_key(key) {
            warnings.push(format!("{}: {said}", at.key(key)));
        }
    };
    OLD_ANNOTATIONS.iter().for_each(|(key, said)| say(key, said));
    let profiled = |holder: &Value| some(&holder["securityContext"], "seccompProfile").is_some();
    if !profiled(&pod["spec"]) {
        say(SECCOMP_OF_POD, USE_SECCOMP_FIELD);
    }
    for (_, container) in containers(&at, &pod["spec"]).filter(|(_, container)| !profiled(container)) {
        say(&format!("{SECCOMP_OF_CONTAINER}{}", text(container, "name")), USE_SECCOMP_FIELD);
    }
}

fn repeated(path: &Path, spec: &Value, list: &'static str, field: &'static str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (path, item) in indexed(spec, list, path) {
        let value = text(item, field);
        if !seen.insert(value) {
            warnings.push(format!("{}: duplicate {field} {value:?}", path.child(field)));
        }
    }
}

/// There is no half a byte.
fn fractions(path: &Path, list: Option<&Value>, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Some(amount) = list.and_then(|list| list.get(name)).and_then(resources::parse) else { continue };
        if amount.as_milli() % 1000 != 0 {
            let amount = amount.to_string();
            let said = format!("fractional byte value {amount:?} is invalid, must be an integer");
            warnings.push(format!("{}: {said}", path.key(name)));
        }
    }
}

fn hidden_variables(path: &Path, container: &Value, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (path, variable) in indexed(container, "env", path) {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        let reference = format!("$({name})");
        // One that is made of the former one hides nothing.
        let builds = some(variable, "valueFrom").is_none() && value != reference && value.contains(&reference);
        if !seen.insert(name) && !builds {
            warnings
                .push(format!("{path}: hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

fn ports(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    let mut all: BTreeMap<(i64, &str), Vec<(Path, &Value)>> = BTreeMap::new();
    let host = |port: &Value| (text(port, "hostIP").to_owned(), int(port, "hostPort").unwrap_or(0));
    for (path, container) in containers(path, spec) {
        for (path, port) in indexed(container, "ports", &path) {
            let (number, protocol) = (int(port, "containerPort").unwrap_or(0), text(port, "protocol"));
            let (host_ip, host_port) = host(port);
            if !host_ip.is_empty() && host_port == 0 {
                let name = text(port, "name");
                warnings.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{host_ip}}}"
                ));
            }
            let same = all.entry((number, protocol)).or_default();
            for (other, theirs) in same.iter().map(|(path, port)| (path, host(port))) {
                let clash = match theirs {
                    theirs if theirs == (host_ip.clone(), host_port) => "duplicate",
                    (_, 0) => "overlapping",
                    _ if host_port == 0 => "overlapping",
                    (ip, port) if port == host_port && ip.is_empty() != host_ip.is_empty() => "dangerously ambiguous",
                    _ => continue,
                };
                warnings.push(format!("{path}: {clash} port definition with {other}"));
            }
            same.push((path, port));
        }
    }
}

fn port_names(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    let sidecars = indexed(spec, "initContainers", path).filter(|(_, one)| text(one, "restartPolicy") == "Always");
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    for (path, container) in indexed(spec, "containers", path).chain(sidecars) {
        for (path, port) in indexed(container, "ports", &path).filter(|(_, port)| !empty(port, "name")) {
            let name = text(port, "name");
            if let Some(other) = seen.get(name) {
                warnings.push(format!(
                    "{path}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                ));
            } else {
                seen.insert(name, path);
            }
        }
    }
}

fn selectors(path: &Path, affinity: &Value, warnings: &mut Vec<String>) {
    for field in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (&affinity[field], path.child(field));
        let required = indexed(terms, "requiredDuringSchedulingIgnoredDuringExecution", &path);
        let preferred = indexed(terms, "preferredDuringSchedulingIgnoredDuringExecution", &path)
            .map(|(path, weighted)| (path.child("podAffinityTerm"), &weighted["podAffinityTerm"]));
        for (path, _) in required.chain(preferred).filter(|(_, term)| some(term, "labelSelector").is_none()) {
            warnings.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
}

/// A file of a volume that lies where another one or its directory does.
fn overlaps(volume: &Value, warnings: &mut Vec<String>) {
    let name = text(volume, "name");
    for (source, of) in [("configMap", "name"), ("secret", "secretName"), ("downwardAPI", "")] {
        let Some(found) = some(volume, source) else { continue };
        let mut files = Files { volume: name, source: described(source, text(found, of)), seen: Vec::new() };
        items(found, "items").iter().for_each(|item| files.add(text(item, "path"), "", warnings));
    }
    let mut files = Files { volume: name, source: "Projected".to_owned(), seen: Vec::new() };
    for projection in items(&volume["projected"], "sources") {
        let Some((kind, source)) = projection.as_object().and_then(|kinds| kinds.iter().next()) else {
            warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
            continue;
        };
        let of = if empty(source, "name") { text(source, "signerName") } else { text(source, "name") };
        let paths = items(source, "items").iter().map(|item| text(item, "path"));
        let own = ["path", "certificateChainPath", "keyPath", "credentialBundlePath"].map(|field| text(source, field));
        for path in paths.chain(own).filter(|path| !path.is_empty()) {
            files.add(path, &described(kind, of), warnings);
        }
    }
}

/// A source of files as messages call it: `ConfigMap "a"`.
fn described(kind: &str, name: &str) -> String {
    let (first, rest) = kind.split_at(1);
    let kind = format!("{}{rest}", first.to_uppercase());
    if name.is_empty() { kind } else { format!("{kind} {name:?}") }
}

struct Files<'a> {
    volume: &'a str,
    source: String,
    /// Paths, as messages show them beside.
    seen: Vec<(&'a str, String)>,
}

impl<'a> Files<'a> {
    fn add(&mut self, path: &'a str, source: &str, warnings: &mut Vec<String>) {
        let path = path.trim_end_matches('/');
        let shown = if source.is_empty() { format!("{path:?}") } else { format!("{path:?} ({source})") };
        let below = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        for (other, other_shown) in self.seen.iter().filter(|(other, _)| below(path, other) || below(other, path)) {
            if other.is_empty() || path.is_empty() {
                continue;
            }
            let (volume, source) = (self.volume, &self.source);
            warnings.push(format!("volume {volume:?} ({source}): overlapping paths: {shown} with {other_shown}"));
        }
        self.seen.push((path, shown));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn each_is_told(cases: &[(Value, &[&str])]) {
        for (spec, expected) in cases {
            assert_eq!(pod(&Path::root(), &json!({ "spec": spec })), *expected, "{spec}");
        }
    }

    #[test]
    fn what_is_hardly_meant_in_containers_is_told() {
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        let container = |extra: Value| {
            let mut container = json!({"name": "a", "image": "x"});
            container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        each_is_told(&[
            (container(json!({"env": [env("A", "1"), env("A", "$(A)2")]})), &[]),
            (
                container(json!({"env": [env("A", "1"), env("B", ""), env("A", "2")]})),
                &[
                    "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                ],
            ),
            (
                container(
                    json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}),
                ),
                &["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
            ),
            (
                container(
                    json!({"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 1}, {"containerPort": 80, "protocol": "TCP"}]}),
                ),
                &["spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"],
            ),
            (
                container(
                    json!({"ports": [{"name": "n", "containerPort": 80, "protocol": "TCP", "hostIP": "10.0.0.1"}]}),
                ),
                &[
                    "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:n HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}",
                ],
            ),
            (
                json!({"containers": [{"ports": [{"name": "n", "containerPort": 80}]}, {"ports": [{"name": "n", "containerPort": 81}]}]}),
                &[
                    "spec.containers[1].ports[0]: duplicate port name \"n\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
                ],
            ),
            (
                container(json!({"resources": {"limits": {"memory": "100m", "cpu": "100m"}}})),
                &[
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                ],
            ),
        ]);
    }

    #[test]
    fn what_is_hardly_meant_in_the_rest_of_a_pod_is_told() {
        each_is_told(&[
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                &["spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead"],
            ),
            (
                json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
                &[
                    "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                    "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                ],
            ),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                &[
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
            (
                json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {}}]}}}),
                &[
                    "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
            (
                json!({"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"path": "a"}, {"path": "a/b"}, {"path": "ab"}]}}]}),
                &["volume \"v\" (ConfigMap \"c\"): overlapping paths: \"a/b\" with \"a\""],
            ),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s", "items": [{"path": "t"}]}}, {"serviceAccountToken": {"path": "t"}}, {}]}}]}),
                &[
                    "volume \"v\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (Secret \"s\")",
                    "volume \"v\" (Projected) has no sources provided",
                ],
            ),
            (
                json!({"volumes": [{"name": "v", "gitRepo": {}}]}),
                &["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
            ),
            (
                json!({"dnsConfig": {"nameservers": ["fe80:0::1", "::ffff:1.2.3.4"]}}),
                &[
                    "spec.dnsConfig.nameservers[0]: IPv6 address \"fe80:0::1\" should be in RFC 5952 canonical format (\"fe80::1\")",
                    "spec.dnsConfig.nameservers[1]: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"",
                ],
            ),
        ]);
    }

    #[test]
    fn annotations_without_effect_are_told() {
        let key = format!("{SECCOMP_OF_CONTAINER}a");
        let template = json!({
            "metadata": {"annotations": {"security.alpha.kubernetes.io/sysctls": "x", SECCOMP_OF_POD: "y", key: "z"}},
            "spec": {"containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}]},
        });
        assert_eq!(
            pod(&Path::new("spec").child("template"), &template),
            [
                "spec.template.metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" field instead",
                "spec.template.metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            ]
        );
        assert_eq!(
            name("a.b", "this is used in the Pod's hostname").unwrap(),
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
        );
        assert_eq!(name("a-b", ""), None);
    }
}
