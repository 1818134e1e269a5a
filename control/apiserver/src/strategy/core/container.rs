//! Containers: init, sidecar, app and ephemeral ones.

use super::pod_spec::ip;
use super::{probe, resources, security, volume};
use crate::strategy::tools::{Problems, empty, flag, indexed, int, named, one_of, port_number, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;
use std::collections::BTreeSet;

/// What a container's checks need to know of its pod.
pub(super) struct Context<'a> {
    pub(super) volumes: BTreeSet<&'a str>,
    pub(super) host_network: bool,
    pub(super) host_users: bool,
    /// Volumes that are files of the pod's own, empty at first.
    pub(super) empty_dirs: BTreeSet<&'a str>,
    /// How long the pod may take to end.
    pub(super) grace: Option<i64>,
    /// Whether what has ended stays so.
    pub(super) never_restarts: bool,
}

/// All containers of a pod's spec.
pub(super) fn containers(spec: &Value, path: &Path, context: &Context<'_>, problems: &mut Problems) {
    if empty(spec, "containers") {
        problems.push(FieldError::required(&path.child("containers"), ""));
    }
    let mut names = BTreeSet::new();
    for (path, container) in indexed(spec, "initContainers", path) {
        unique(&path, container, &mut names, problems);
        init(&path, container, context, problems);
    }
    let mut host_ports = BTreeSet::new();
    for (path, container) in indexed(spec, "containers", path) {
        unique(&path, container, &mut names, problems);
        common(&path, container, context, problems);
        app(&path, container, context, problems);
        host_port_conflicts(&path, container, &mut host_ports, problems);
    }
}

fn unique<'a>(path: &Path, container: &'a Value, names: &mut BTreeSet<&'a str>, problems: &mut Problems) {
    let name = text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        problems.push(FieldError::duplicate(&path.child("name"), name));
    }
}

fn app(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    let policy = text(container, "restartPolicy");
    one_of(&path.child("restartPolicy"), policy, &["Always", "OnFailure", "Never"], false, problems);
    handlers(path, container, context, problems);
}

fn init(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    common(path, container, context, problems);
    let policy = text(container, "restartPolicy");
    one_of(&path.child("restartPolicy"), policy, &["Always", "OnFailure", "Never"], false, problems);
    if policy == "Always" {
        handlers(path, container, context, problems);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if some(container, field).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            problems.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn handlers(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    for (field, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if let Some(found) = some(container, field) {
            probe::probe(&path.child(field), found, once, problems);
        }
    }
    if let Some(lifecycle) = some(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(action) = some(lifecycle, field) {
                probe::lifecycle(&path.child("lifecycle").child(field), action, context.grace, problems);
            }
        }
    }
}

fn common(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    let name = text(container, "name");
    if name.is_empty() {
        problems.push(FieldError::required(&path.child("name"), ""));
    } else {
        problems.extend(named(&path.child("name"), name, names::is_dns1123_label(name)));
    }
    let image = text(container, "image");
    if image.is_empty() {
        problems.push(FieldError::required(&path.child("image"), ""));
    } else if image != image.trim() {
        problems.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    one_of(
        &path.child("terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
        true,
        problems,
    );
    one_of(
        &path.child("imagePullPolicy"),
        text(container, "imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        true,
        problems,
    );
    ports(path, container, context.host_network, problems);
    env(path, container, context, problems);
    env_from(path, container, problems);
    volume::mounts(container, path, &context.volumes, problems);
    if let Some(found) = some(container, "resources") {
        resources::requirements(&path.child("resources"), found, problems);
    }
    if let Some(found) = some(container, "securityContext") {
        security::container(&path.child("securityContext"), found, context.host_users, problems);
    }
    let mut resized = BTreeSet::new();
    for (path, policy) in indexed(container, "resizePolicy", path) {
        if !resized.insert(text(policy, "resourceName")) {
            problems.push(FieldError::duplicate(&path, text(policy, "resourceName")));
        }
        one_of(&path.child("resourceName"), text(policy, "resourceName"), &["cpu", "memory"], true, problems);
        let restart = text(policy, "restartPolicy");
        one_of(&path.child("restartPolicy"), restart, &["NotRequired", "RestartContainer"], true, problems);
        if context.never_restarts && restart == "RestartContainer" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            problems.push(FieldError::invalid(&path.child("restartPolicy"), restart, detail));
        }
    }
}

fn ports(path: &Path, container: &Value, host_network: bool, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (path, port) in indexed(container, "ports", path) {
        let name = text(port, "name");
        if !name.is_empty() {
            probe::port_name(&path.child("name"), name, problems);
            if !seen.insert(name) {
                problems.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => problems.push(FieldError::required(&path.child("containerPort"), "")),
            number => port_number(&path.child("containerPort"), number, problems),
        }
        if let Some(number) = int(port, "hostPort").filter(|number| *number != 0) {
            port_number(&path.child("hostPort"), number, problems);
            if host_network && Some(number) != int(port, "containerPort") {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                problems.push(FieldError::invalid(&path.child("hostPort"), number, detail));
            }
        }
        one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
        let host = text(port, "hostIP");
        if !host.is_empty() {
            ip(&path.child("hostIP"), host, problems);
        }
    }
}

fn host_port_conflicts(
    path: &Path,
    container: &Value,
    taken: &mut BTreeSet<(String, String, i64)>,
    problems: &mut Problems,
) {
    for (path, port) in indexed(container, "ports", path) {
        let Some(number) = int(port, "hostPort").filter(|number| *number != 0) else { continue };
        let key = (text(port, "protocol").to_owned(), text(port, "hostIP").to_owned(), number);
        if !taken.insert(key) {
            let value = format!("{}/{}/{}", text(port, "protocol"), text(port, "hostIP"), number);
            problems.push(FieldError::duplicate(&path.child("hostPort"), value));
        }
    }
}

fn env(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    for (path, variable) in indexed(container, "env", path) {
        let name = text(variable, "name");
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        } else {
            problems.extend(named(&path.child("name"), name, names::is_env_var_name(name)));
        }
        if let Some(source) = some(variable, "valueFrom") {
            let path = path.child("valueFrom");
            value_from(&path, source, !text(variable, "value").is_empty(), problems);
            if let Some(reference) = some(source, "fileKeyRef") {
                file_key(&path.child("fileKeyRef"), reference, context, problems);
            }
        }
    }
}

fn value_from(path: &Path, source: &Value, has_value: bool, problems: &mut Problems) {
    const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let found: Vec<&str> = SOURCES.into_iter().filter(|name| some(source, name).is_some()).collect();
    for name in &found {
        let at = path.child(*name);
        let reference = &source[*name];
        match *name {
            "fieldRef" => field_ref(&at, reference, false, problems),
            "resourceFieldRef" => resource_field_ref(&at, reference, false, problems),
            "configMapKeyRef" | "secretKeyRef" => key_ref(&at, reference, problems),
            _ => {}
        }
    }
    if found.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        problems.push(FieldError::invalid(path, "", detail));
    } else if has_value {
        problems.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if found.len() > 1 {
        problems.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

/// A variable of a file, which lies in a volume of the pod's own.
fn file_key(path: &Path, reference: &Value, context: &Context<'_>, problems: &mut Problems) {
    for field in ["key", "path", "volumeName"] {
        if empty(reference, field) {
            problems.push(FieldError::required(&path.child(field), ""));
        }
    }
    let (volume, at) = (text(reference, "volumeName"), path.child("volumeName"));
    if !volume.is_empty() && !context.volumes.contains(volume) {
        problems.push(FieldError::not_found(&at, volume));
    } else if !volume.is_empty() && !context.empty_dirs.contains(volume) {
        problems.push(FieldError::invalid(&at, volume, "referenced volume must be of type emptyDir"));
    }
    volume::local_path(&path.child("path"), text(reference, "path"), problems);
}

fn key_ref(path: &Path, reference: &Value, problems: &mut Problems) {
    if empty(reference, "name") {
        problems.push(FieldError::required(&path.child("name"), ""));
    }
    let key = text(reference, "key");
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("key"), ""));
    } else {
        problems.extend(named(&path.child("key"), key, names::is_config_map_key(key)));
    }
}

fn env_from(path: &Path, container: &Value, problems: &mut Problems) {
    for (path, source) in indexed(container, "envFrom", path) {
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            problems.extend(named(&path.child("prefix"), prefix, names::is_env_var_name(prefix)));
        }
        let found: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|name| some(source, name).is_some()).collect();
        for name in &found {
            if empty(&source[*name], "name") {
                problems.push(FieldError::required(&path.child(*name).child("name"), ""));
            }
        }
        match found.len() {
            0 => problems.push(FieldError::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => problems.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
    }
}

/// A downward API field: in a volume, or in the environment.
pub(super) fn field_ref(path: &Path, reference: &Value, in_volume: bool, problems: &mut Problems) {
    const ENV: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    const VOLUME: [&str; 5] =
        ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    if empty(reference, "apiVersion") {
        problems.push(FieldError::required(&path.child("apiVersion"), ""));
    }
    let field = text(reference, "fieldPath");
    let at = path.child("fieldPath");
    if field.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    if let Some((base, key)) = subscript(field) {
        let messages = match base {
            "metadata.annotations" => names::is_qualified_name(&key.to_lowercase()),
            "metadata.labels" => names::is_qualified_name(key),
            _ => vec!["does not support subscript".to_owned()],
        };
        problems.extend(named(&at, key, messages));
        return;
    }
    let supported: &[&str] = if in_volume { &VOLUME } else { &ENV };
    if !supported.contains(&field) {
        problems.push(FieldError::not_supported(&at, field, supported));
    }
}

/// `metadata.labels['key']`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (base, rest) = field.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

/// A container's own resources by the downward API.
pub(super) fn resource_field_ref(path: &Path, reference: &Value, in_volume: bool, problems: &mut Problems) {
    const FIELDS: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if in_volume && empty(reference, "containerName") {
        problems.push(FieldError::required(&path.child("containerName"), ""));
    }
    let resource = text(reference, "resource");
    if resource.is_empty() {
        problems.push(FieldError::required(&path.child("resource"), ""));
    } else if !FIELDS.contains(&resource) && !resource.contains("hugepages-") {
        problems.push(FieldError::not_supported(&path.child("resource"), resource, &FIELDS));
    }
}

/// Whether the pod shares the host's user namespace.
pub(super) fn host_users(spec: &Value) -> bool {
    flag(spec, "hostUsers").unwrap_or(true)
}
