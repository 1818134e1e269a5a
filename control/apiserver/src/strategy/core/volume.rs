//! Volumes and volume mounts.

use super::resources;
use crate::strategy::tools::{Problems, empty, indexed, int, named, one_of, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every kind of volume that the API knows.
const SOURCES: [&str; 30] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

/// The volumes of a pod; their names.
pub(super) fn volumes<'a>(spec: &'a Value, path: &Path, problems: &mut Problems) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (path, volume) in indexed(spec, "volumes", path) {
        let name = text(volume, "name");
        let at = path.child("name");
        if name.is_empty() {
            problems.push(FieldError::required(&at, ""));
        } else {
            problems.extend(named(&at, name, names::is_dns1123_label(name)));
        }
        if !name.is_empty() && !seen.insert(name) {
            problems.push(FieldError::duplicate(&at, name));
        }
        source(&path, volume, problems);
    }
    seen
}

fn source(path: &Path, volume: &Value, problems: &mut Problems) {
    let mut found = SOURCES.iter().filter(|source| some(volume, source).is_some());
    let Some(name) = found.next() else {
        problems.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for second in found {
        problems.push(FieldError::forbidden(&path.child(*second), "may not specify more than 1 volume type"));
    }
    let at = path.child(*name);
    let source = &volume[*name];
    match *name {
        "emptyDir" => empty_dir(&at, source, problems),
        "hostPath" => host_path(&at, source, problems),
        "secret" => {
            required(&at, source, "secretName", problems);
            mode(&at.child("defaultMode"), int(source, "defaultMode"), problems);
            key_items(&at, source, problems);
        }
        "configMap" => {
            required(&at, source, "name", problems);
            mode(&at.child("defaultMode"), int(source, "defaultMode"), problems);
            key_items(&at, source, problems);
        }
        "downwardAPI" => {
            mode(&at.child("defaultMode"), int(source, "defaultMode"), problems);
            downward_items(&at, source, problems);
        }
        "projected" => projected(&at, source, problems),
        "persistentVolumeClaim" => required(&at, source, "claimName", problems),
        "nfs" => {
            required(&at, source, "server", problems);
            required(&at, source, "path", problems);
        }
        "csi" => required(&at, source, "driver", problems),
        "image" => {
            required(&at, source, "reference", problems);
            let policy = text(source, "pullPolicy");
            one_of(&at.child("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"], false, problems);
        }
        "ephemeral" => required(&at, source, "volumeClaimTemplate", problems),
        _ => {}
    }
}

fn required(path: &Path, source: &Value, field: &'static str, problems: &mut Problems) {
    if empty(source, field) {
        problems.push(FieldError::required(&path.child(field), ""));
    }
}

fn empty_dir(path: &Path, source: &Value, problems: &mut Problems) {
    if let Some(limit) = some(source, "sizeLimit") {
        resources::quantity(&path.child("sizeLimit"), "sizeLimit", limit, problems);
    }
    let medium = text(source, "medium");
    if !medium.is_empty() && medium != "Memory" && !medium.starts_with("HugePages") {
        problems.push(FieldError::not_supported(&path.child("medium"), medium, &["", "HugePages", "Memory"]));
    }
}

fn host_path(path: &Path, source: &Value, problems: &mut Problems) {
    const TYPES: [&str; 7] =
        ["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let host = text(source, "path");
    if host.is_empty() {
        problems.push(FieldError::required(&path.child("path"), ""));
    } else {
        no_backsteps(&path.child("path"), host, problems);
    }
    one_of(&path.child("type"), text(source, "type"), &TYPES, false, problems);
}

fn no_backsteps(path: &Path, value: &str, problems: &mut Problems) {
    if value.split('/').any(|part| part == "..") {
        problems.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

pub(super) fn local_path(path: &Path, value: &str, problems: &mut Problems) {
    if value.starts_with('/') {
        problems.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(path, value, problems);
}

fn mode(path: &Path, mode: Option<i64>, problems: &mut Problems) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        problems.push(FieldError::invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn key_items(path: &Path, source: &Value, problems: &mut Problems) {
    for (path, item) in indexed(source, "items", path) {
        required(&path, item, "key", problems);
        item_path(&path, item, problems);
        mode(&path.child("mode"), int(item, "mode"), problems);
    }
}

fn item_path(path: &Path, item: &Value, problems: &mut Problems) {
    let at = path.child("path");
    let file = text(item, "path");
    if file.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    local_path(&at, file, problems);
    if file.starts_with("..") && !file.starts_with("../") && file != ".." {
        problems.push(FieldError::invalid(&at, file, "must not start with '..'"));
    }
}

fn downward_items(path: &Path, source: &Value, problems: &mut Problems) {
    for (path, item) in indexed(source, "items", path) {
        item_path(&path, item, problems);
        mode(&path.child("mode"), int(item, "mode"), problems);
        match (some(item, "fieldRef"), some(item, "resourceFieldRef")) {
            (Some(_), Some(_)) => problems.push(FieldError::invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (None, None) => {
                problems.push(FieldError::required(&path, "one of fieldRef and resourceFieldRef is required"));
            }
            (Some(field), None) => super::container::field_ref(&path.child("fieldRef"), field, true, problems),
            (None, Some(field)) => {
                super::container::resource_field_ref(&path.child("resourceFieldRef"), field, true, problems);
            }
        }
    }
}

fn projected(path: &Path, source: &Value, problems: &mut Problems) {
    const KINDS: [&str; 6] =
        ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    mode(&path.child("defaultMode"), int(source, "defaultMode"), problems);
    for (path, each) in indexed(source, "sources", path) {
        let mut found = KINDS.iter().filter(|kind| some(each, kind).is_some());
        let Some(kind) = found.next() else {
            problems.push(FieldError::required(&path, "must specify a projected volume type"));
            continue;
        };
        for second in found {
            problems.push(FieldError::forbidden(
                &path.child(*second),
                "may not specify more than 1 volume type per source",
            ));
        }
        let at = path.child(*kind);
        let inner = &each[*kind];
        match *kind {
            "secret" | "configMap" => {
                required(&at, inner, "name", problems);
                key_items(&at, inner, problems);
            }
            "downwardAPI" => downward_items(&at, inner, problems),
            "serviceAccountToken" => token(&at, inner, problems),
            _ => {}
        }
    }
}

fn token(path: &Path, token: &Value, problems: &mut Problems) {
    let seconds = int(token, "expirationSeconds").unwrap_or(3600);
    let at = path.child("expirationSeconds");
    if seconds < 600 {
        problems.push(FieldError::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > 1 << 32 {
        problems.push(FieldError::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let file = text(token, "path");
    if file.is_empty() {
        problems.push(FieldError::required(&path.child("path"), ""));
    } else {
        local_path(&path.child("path"), file, problems);
    }
}

/// The volume mounts of a container.
pub(super) fn mounts(container: &Value, path: &Path, volumes: &BTreeSet<&str>, problems: &mut Problems) {
    let mut points = BTreeSet::new();
    for (path, mount) in indexed(container, "volumeMounts", path) {
        let name = text(mount, "name");
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        } else if !volumes.contains(name) {
            problems.push(FieldError::not_found(&path.child("name"), name));
        }
        let point = text(mount, "mountPath");
        if point.is_empty() {
            problems.push(FieldError::required(&path.child("mountPath"), ""));
        }
        if !points.insert(point) {
            problems.push(FieldError::invalid(&path.child("mountPath"), point, "must be unique"));
        }
        sub_paths(&path, mount, problems);
        propagation(&path, mount, container, problems);
    }
    for (path, device) in indexed(container, "volumeDevices", path) {
        if !volumes.contains(text(device, "name")) {
            problems.push(FieldError::not_found(&path.child("name"), text(device, "name")));
        }
        required(&path, device, "devicePath", problems);
    }
}

fn sub_paths(path: &Path, mount: &Value, problems: &mut Problems) {
    for field in ["subPath", "subPathExpr"] {
        if !empty(mount, field) {
            local_path(&path.child(field), text(mount, field), problems);
        }
    }
    if !empty(mount, "subPath") && !empty(mount, "subPathExpr") {
        let value = text(mount, "subPathExpr");
        problems.push(FieldError::invalid(
            &path.child("subPathExpr"),
            value,
            "subPathExpr and subPath are mutually exclusive",
        ));
    }
}

fn propagation(path: &Path, mount: &Value, container: &Value, problems: &mut Problems) {
    let mode = text(mount, "mountPropagation");
    let at = path.child("mountPropagation");
    one_of(&at, mode, &["Bidirectional", "HostToContainer", "None"], false, problems);
    let privileged = container.pointer("/securityContext/privileged").and_then(Value::as_bool).unwrap_or(false);
    if mode == "Bidirectional" && !privileged {
        problems.push(FieldError::forbidden(
            &at,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
}
