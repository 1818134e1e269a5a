//! Volumes and volume mounts.

use super::{env, resources};
use crate::strategy::tools::{Problems, empty, flag, indexed, int, items, named, one_of, some, supported, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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

/// The volumes of a pod that are in order, by their names.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Checks the volumes of a pod.
pub(super) fn volumes<'a>(spec: &'a Value, path: &Path, problems: &mut Problems) -> Volumes<'a> {
    let mut sound = Volumes::new();
    for (path, volume) in indexed(spec, "volumes", path) {
        let (name, at, before) = (text(volume, "name"), path.child("name"), problems.len());
        source(&path, volume, problems);
        if name.is_empty() {
            problems.push(FieldError::required(&at, ""));
        } else {
            problems.extend(named(&at, name, names::is_dns1123_label(name)));
        }
        if sound.contains_key(name) {
            problems.push(FieldError::duplicate(&at, name));
        }
        if problems.len() == before {
            sound.insert(name, volume);
        }
    }
    sound
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
            if !text(source, "path").starts_with('/') {
                let value = text(source, "path");
                problems.push(FieldError::invalid(&at.child("path"), value, "must be an absolute path"));
            }
        }
        "csi" => required(&at, source, "driver", problems),
        "image" => super::container::pull_policy(&at, source, "pullPolicy", problems),
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
    if some(source, "sizeLimit").and_then(resources::parse).is_some_and(Quantity::is_negative) {
        let detail = "SizeLimit field must be a valid resource quantity";
        problems.push(FieldError::forbidden(&path.child("sizeLimit"), detail));
    }
}

fn host_path(path: &Path, source: &Value, problems: &mut Problems) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let host = text(source, "path");
    if host.is_empty() {
        problems.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(&path.child("path"), host, problems);
    supported(&path.child("type"), text(source, "type"), &TYPES, problems);
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
    }
    own_path(&at, file, problems);
}

/// A path within a volume whose names that begin with two dots are the node's.
fn own_path(path: &Path, file: &str, problems: &mut Problems) {
    local_path(path, file, problems);
    if file.starts_with("..") && !file.starts_with("../") {
        problems.push(FieldError::invalid(path, file, "must not start with '..'"));
    }
}

fn downward_items(path: &Path, source: &Value, problems: &mut Problems) {
    for item in items(source, "items") {
        item_path(path, item, problems);
        match (some(item, "fieldRef"), some(item, "resourceFieldRef")) {
            (Some(field), resource) => {
                env::field_ref(&path.child("fieldRef"), field, true, problems);
                if resource.is_some() {
                    let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    problems.push(FieldError::invalid(path, "resource", detail));
                }
            }
            (None, Some(field)) => {
                env::resource_field_ref(&path.child("resourceFieldRef"), field, true, problems);
            }
            (None, None) => {
                problems.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
            }
        }
        mode(&path.child("mode"), int(item, "mode"), problems);
    }
}

fn projected(path: &Path, source: &Value, problems: &mut Problems) {
    const KINDS: [&str; 6] =
        ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    mode(&path.child("defaultMode"), int(source, "defaultMode"), problems);
    let mut seen = BTreeSet::new();
    for (at, each) in indexed(source, "sources", path) {
        let found: Vec<&str> = KINDS.into_iter().filter(|kind| some(each, kind).is_some()).collect();
        for kind in &found {
            projection(path, &at.child(*kind), kind, &each[*kind], &mut seen, problems);
        }
        if found.len() > 1 {
            problems.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn projection<'a>(
    path: &Path,
    at: &Path,
    kind: &str,
    source: &'a Value,
    seen: &mut BTreeSet<&'a str>,
    problems: &mut Problems,
) {
    let mut conflicts = |file: &'a str, value: &str, problems: &mut Problems| {
        if !file.is_empty() && !seen.insert(file) {
            problems.push(FieldError::invalid(path, value, "conflicting duplicate paths"));
        }
    };
    match kind {
        "secret" | "configMap" => {
            required(at, source, "name", problems);
            key_items(at, source, problems);
            for item in items(source, "items") {
                conflicts(text(item, "path"), text(source, "name"), problems);
            }
        }
        "downwardAPI" => {
            downward_items(at, source, problems);
            for item in items(source, "items") {
                conflicts(text(item, "path"), text(item, "path"), problems);
            }
        }
        "serviceAccountToken" => token(path, at, source, problems),
        _ => {}
    }
}

fn token(path: &Path, at: &Path, token: &Value, problems: &mut Problems) {
    let seconds = int(token, "expirationSeconds").unwrap_or(3600);
    let at = at.child("expirationSeconds");
    if seconds < 600 {
        problems.push(FieldError::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    } else if seconds > 1 << 32 {
        problems.push(FieldError::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let file = text(token, "path");
    if file.is_empty() {
        problems.push(FieldError::required(&path.child("path"), ""));
    } else {
        own_path(&path.child("path"), file, problems);
    }
}

/// The volume mounts of a container.
pub(super) fn mounts(container: &Value, path: &Path, volumes: &Volumes<'_>, problems: &mut Problems) {
    let list = path.child("volumeMounts");
    let devices = items(container, "volumeDevices");
    let mut points = BTreeSet::new();
    for (path, mount) in indexed(container, "volumeMounts", path) {
        let (name, point) = (text(mount, "name"), text(mount, "mountPath"));
        let invalid =
            |field: &'static str, value: &str, detail: &str| FieldError::invalid(&path.child(field), value, detail);
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            problems.push(FieldError::not_found(&path.child("name"), name));
        }
        if point.is_empty() {
            problems.push(FieldError::required(&path.child("mountPath"), ""));
        }
        if !points.insert(point) {
            problems.push(invalid("mountPath", point, "must be unique"));
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            problems.push(invalid("name", name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| text(device, "devicePath") == point) {
            problems.push(invalid("mountPath", point, "must not already exist as a path in volumeDevices"));
        }
        sub_paths(&path, &list, mount, problems);
        propagation(&list, mount, container, problems);
        read_only(&list, mount, problems);
    }
}

/// The block devices of a container.
pub(super) fn devices(container: &Value, path: &Path, volumes: &Volumes<'_>, problems: &mut Problems) {
    let mounts = items(container, "volumeMounts");
    let (mut names, mut points) = (BTreeSet::new(), BTreeSet::new());
    for (path, device) in indexed(container, "volumeDevices", path) {
        let (name, point) = (text(device, "name"), text(device, "devicePath"));
        let invalid =
            |field: &'static str, value: &str, detail: &str| FieldError::invalid(&path.child(field), value, detail);
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        } else if !names.insert(name) {
            problems.push(invalid("name", name, "must be unique"));
        }
        match volumes.get(name) {
            None => problems.push(FieldError::not_found(&path.child("name"), name)),
            Some(volume) if some(volume, "persistentVolumeClaim").is_none() && some(volume, "ephemeral").is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                problems.push(invalid("name", name, detail));
            }
            Some(_) => {}
        }
        if point.is_empty() {
            problems.push(FieldError::required(&path.child("devicePath"), ""));
        }
        if point.split('/').any(|part| part == "..") {
            problems.push(invalid("devicePath", point, "can not contain backsteps ('..')"));
        } else if !points.insert(point) {
            problems.push(invalid("devicePath", point, "must be unique"));
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            problems.push(invalid("name", name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == point) {
            problems.push(invalid("devicePath", point, "must not already exist as a path in volumeMounts"));
        }
    }
}

// What is wrong with these fields of a mount is told of the whole list, as upstream does.
fn sub_paths(path: &Path, list: &Path, mount: &Value, problems: &mut Problems) {
    if !empty(mount, "subPath") {
        local_path(&list.child("subPath"), text(mount, "subPath"), problems);
    }
    if empty(mount, "subPathExpr") {
        return;
    }
    let value = text(mount, "subPathExpr");
    if !empty(mount, "subPath") {
        let detail = "subPathExpr and subPath are mutually exclusive";
        problems.push(FieldError::invalid(&path.child("subPathExpr"), value, detail));
    }
    local_path(&list.child("subPathExpr"), value, problems);
}

fn propagation(list: &Path, mount: &Value, container: &Value, problems: &mut Problems) {
    let mode = text(mount, "mountPropagation");
    let at = list.child("mountPropagation");
    one_of(&at, mode, &["Bidirectional", "HostToContainer", "None"], false, problems);
    let privileged = container.pointer("/securityContext/privileged").and_then(Value::as_bool).unwrap_or(false);
    if mode == "Bidirectional" && !privileged {
        problems.push(FieldError::forbidden(
            &at,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
}

fn read_only(list: &Path, mount: &Value, problems: &mut Problems) {
    let (mode, at) = (text(mount, "recursiveReadOnly"), list.child("recursiveReadOnly"));
    one_of(&at, mode, &["Disabled", "Enabled", "IfPossible"], false, problems);
    if !matches!(mode, "Enabled" | "IfPossible") {
        return;
    }
    if flag(mount, "readOnly") != Some(true) {
        problems.push(FieldError::forbidden(&at, "may only be specified when readOnly is true"));
    }
    if !matches!(text(mount, "mountPropagation"), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        problems.push(FieldError::forbidden(&at, detail));
    }
}
