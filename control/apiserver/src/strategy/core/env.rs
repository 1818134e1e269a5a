//! A container's environment, and the fields of the pod and its containers that the downward API tells.

use super::resources;
use super::volume::{self, Volumes};
use crate::strategy::tools::{Problems, empty, indexed, named, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;

/// `env`.
pub(super) fn variables(path: &Path, container: &Value, volumes: &Volumes<'_>, problems: &mut Problems) {
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
                file_key(&path.child("fileKeyRef"), reference, volumes, problems);
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
fn file_key(path: &Path, reference: &Value, volumes: &Volumes<'_>, problems: &mut Problems) {
    for field in ["key", "path", "volumeName"] {
        if empty(reference, field) {
            problems.push(FieldError::required(&path.child(field), ""));
        }
    }
    let (name, at) = (text(reference, "volumeName"), path.child("volumeName"));
    match volumes.get(name) {
        _ if name.is_empty() => {}
        None => problems.push(FieldError::not_found(&at, name)),
        Some(volume) if some(volume, "emptyDir").is_none() => {
            problems.push(FieldError::invalid(&at, name, "referenced volume must be of type emptyDir"));
        }
        Some(_) => {}
    }
    volume::local_path(&path.child("path"), text(reference, "path"), problems);
}

fn key_ref(path: &Path, reference: &Value, problems: &mut Problems) {
    let (name, key) = (text(reference, "name"), text(reference, "key"));
    problems.extend(named(&path.child("name"), name, names::is_dns1123_subdomain(name)));
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("key"), ""));
    } else {
        problems.extend(named(&path.child("key"), key, names::is_config_map_key(key)));
    }
}

/// `envFrom`.
pub(super) fn sources(path: &Path, container: &Value, problems: &mut Problems) {
    let list = path.child("envFrom");
    for (path, source) in indexed(container, "envFrom", path) {
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            problems.extend(named(&path.child("prefix"), prefix, names::is_env_var_name(prefix)));
        }
        let found: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|name| some(source, name).is_some()).collect();
        for reference in &found {
            let (at, name) = (path.child(*reference).child("name"), text(&source[*reference], "name"));
            if name.is_empty() {
                problems.push(FieldError::required(&at, ""));
            } else {
                problems.extend(named(&at, name, names::is_dns1123_subdomain(name)));
            }
        }
        match found.len() {
            0 => problems.push(FieldError::invalid(&list, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => problems.push(FieldError::invalid(&list, "", "may not have more than one field specified at a time")),
        }
    }
}

/// What the conversion of field labels knows; a variable or file is made of some of them.
const KNOWN: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

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
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    let at = path.child("fieldPath");
    if version.is_empty() {
        problems.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if field.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    let unknown = |why: String| FieldError::invalid(&at, field, format!("error converting fieldPath: {why}"));
    if version != "v1" {
        problems.push(unknown(format!("unsupported pod version: {version}")));
        return;
    }
    match subscript(field) {
        Some(("metadata.annotations", key)) => {
            problems.extend(named(path, &key.to_lowercase(), names::is_qualified_name(&key.to_lowercase())));
        }
        Some(("metadata.labels", key)) => problems.extend(named(path, key, names::is_qualified_name(key))),
        Some(_) => problems.push(unknown(format!("field label does not support subscript: {field}"))),
        None if !KNOWN.contains(&field) => problems.push(unknown(format!("field label not supported: {field}"))),
        None => {
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            let supported: &[&str] = if in_volume { &VOLUME } else { &ENV };
            if !supported.contains(&field) {
                problems.push(FieldError::not_supported(&at, field, supported));
            }
        }
    }
}

/// `metadata.labels['key']`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let (base, rest) = field.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

/// A container's own resources by the downward API.
pub(super) fn resource_field_ref(path: &Path, reference: &Value, in_volume: bool, problems: &mut Problems) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && empty(reference, "containerName") {
        problems.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        problems.push(FieldError::required(&path.child("resource"), ""));
    } else if !resources::TOLD.contains(&resource) && !huge {
        problems.push(FieldError::not_supported(&path.child("resource"), resource, &resources::TOLD));
    }
    divisor(&path.child("divisor"), resource, huge, reference.get("divisor"), problems);
}

fn divisor(path: &Path, resource: &str, huge: bool, divisor: Option<&Value>, problems: &mut Problems) {
    const CPU: &str = "1m and 1 are supported with the cpu resource";
    const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Some(divisor) = divisor.and_then(resources::parse).filter(|divisor| !divisor.is_zero()) else { return };
    let divisor = divisor.to_string();
    let what = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" if !["1m", "1"].contains(&&*divisor) => CPU.to_owned(),
        "memory" | "ephemeral-storage" if SIZES.contains(&&*divisor) => return,
        "memory" => format!("{} are supported with the memory resource", SIZES.join(", ")),
        "ephemeral-storage" => format!("{} are supported with the local ephemeral storage resource", SIZES.join(", ")),
        _ if huge && !SIZES.contains(&&*divisor) => {
            format!("{} are supported with the hugepages resource", SIZES.join(", "))
        }
        _ => return,
    };
    problems.push(FieldError::invalid(path, resource, format!("only divisor's values {what}")));
}
