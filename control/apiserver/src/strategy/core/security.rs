//! Security contexts of pods and containers.

use super::volume::local_path;
use crate::strategy::tools::{Problems, flag, indexed, int, one_of, some, strings, supported, text};
use apimachinery::field::{FieldError, Path};
use serde_json::Value;

const MAX_ID: i64 = 2_147_483_647;

/// A pod's security context.
pub(super) fn pod(path: &Path, spec: &Value, context: &Value, problems: &mut Problems) {
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&path.child(field), int(context, field), problems);
    }
    for (path, group) in indexed(context, "supplementalGroups", path) {
        id(&path, group.as_i64(), problems);
    }
    if flag(spec, "shareProcessNamespace") == Some(true) && flag(spec, "hostPID") == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        problems.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(path, spec, context, problems);
    let mut choice = |field: &'static str, allowed: &[&str]| {
        one_of(&path.child(field), text(context, field), allowed, false, problems);
    };
    choice("fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    choice("supplementalGroupsPolicy", &["Merge", "Strict"]);
    choice("seLinuxChangePolicy", &["MountOption", "Recursive"]);
    profiles(path, context, problems);
}

fn sysctls(path: &Path, spec: &Value, context: &Value, problems: &mut Problems) {
    let mut seen = Vec::new();
    for (path, sysctl) in indexed(context, "sysctls", path) {
        let (name, at) = (text(sysctl, "name"), path.child("name"));
        if name.is_empty() {
            problems.push(FieldError::required(&at, ""));
        } else if !sysctl_name(name) {
            let detail = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            problems.push(FieldError::invalid(&at, name, detail));
        } else if seen.contains(&name) {
            problems.push(FieldError::duplicate(&at, name));
        }
        if let Some(host) = namespace_of(name).filter(|host| flag(spec, host) == Some(true)) {
            problems.push(FieldError::invalid(&at, name, format!("may not be specified when '{host}' is true")));
        }
        seen.push(name);
    }
}

/// The field by which a pod shares the node's namespace that a sysctl belongs to.
fn namespace_of(sysctl: &str) -> Option<&'static str> {
    let dotted = sysctl.replace('/', ".");
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    match () {
        () if dotted.starts_with("net.") => Some("hostNetwork"),
        () if ipc.iter().any(|prefix| dotted.starts_with(prefix)) => Some("hostIPC"),
        () => None,
    }
}

fn sysctl_name(name: &str) -> bool {
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|byte| plain(*byte))
                && bytes.last().is_some_and(|byte| plain(*byte))
                && bytes.iter().all(|byte| plain(*byte) || *byte == b'-' || *byte == b'_')
        })
}

/// A container's security context.
pub(super) fn container(path: &Path, context: &Value, host_users: bool, problems: &mut Problems) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&path.child(field), int(context, field), problems);
    }
    one_of(&path.child("procMount"), text(context, "procMount"), &["Default", "Unmasked"], false, problems);
    if text(context, "procMount") == "Unmasked" && host_users {
        problems.push(FieldError::invalid(
            &path.child("procMount"),
            "Unmasked",
            "`hostUsers` must be false to use `Unmasked`",
        ));
    }
    let escalates = flag(context, "allowPrivilegeEscalation");
    if escalates == Some(false) {
        let adds_admin =
            some(context, "capabilities").is_some_and(|caps| strings(caps, "add").any(|cap| cap == "CAP_SYS_ADMIN"));
        if flag(context, "privileged") == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            problems.push(FieldError::invalid(path, context.clone(), detail));
        }
        if adds_admin {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            problems.push(FieldError::invalid(path, context.clone(), detail));
        }
    }
    profiles(path, context, problems);
}

fn profiles(path: &Path, context: &Value, problems: &mut Problems) {
    for (field, what) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let Some(profile) = some(context, field) else { continue };
        let path = path.child(field);
        let (at, kind) = (path.child("localhostProfile"), text(profile, "type"));
        if kind.is_empty() {
            problems.push(FieldError::required(&path.child("type"), format!("type is required when {field} is set")));
        } else {
            supported(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"], problems);
        }
        let file = some(profile, "localhostProfile").and_then(Value::as_str);
        match file {
            None if kind == "Localhost" => {
                problems.push(FieldError::required(&at, format!("must be set when {what} type is Localhost")));
            }
            Some(file) if kind == "Localhost" && field == "seccompProfile" => local_path(&at, file, problems),
            Some(file) if kind == "Localhost" && file != file.trim() => {
                problems.push(FieldError::invalid(&at, file, "must not be padded with whitespace"));
            }
            Some(file) if kind != "Localhost" => {
                let detail = format!("can only be set when {what} type is Localhost");
                problems.push(FieldError::invalid(&at, file, detail));
            }
            _ => {}
        }
    }
}

fn id(path: &Path, id: Option<i64>, problems: &mut Problems) {
    if let Some(id) = id
        && !(0..=MAX_ID).contains(&id)
    {
        problems.push(FieldError::invalid(path, id, format!("must be between 0 and {MAX_ID}, inclusive")));
    }
}
