//! Security contexts of pods and containers.

use crate::strategy::tools::{Problems, flag, indexed, int, one_of, some, strings, text};
use apimachinery::field::{FieldError, Path};
use serde_json::Value;

const MAX_ID: i64 = 2_147_483_647;

/// A pod's security context.
pub(super) fn pod(path: &Path, context: &Value, problems: &mut Problems) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&path.child(field), int(context, field), problems);
    }
    for (path, group) in indexed(context, "supplementalGroups", path) {
        id(&path, group.as_i64(), problems);
    }
    one_of(
        &path.child("fsGroupChangePolicy"),
        text(context, "fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
        false,
        problems,
    );
    one_of(
        &path.child("supplementalGroupsPolicy"),
        text(context, "supplementalGroupsPolicy"),
        &["Merge", "Strict"],
        false,
        problems,
    );
    let mut seen = Vec::new();
    for (path, sysctl) in indexed(context, "sysctls", path) {
        let name = text(sysctl, "name");
        if name.is_empty() {
            problems.push(FieldError::required(&path.child("name"), ""));
        } else if !sysctl_name(name) {
            problems.push(FieldError::invalid(
                &path.child("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if seen.contains(&name) {
            problems.push(FieldError::duplicate(&path.child("name"), name));
        }
        seen.push(name);
    }
    profiles(path, context, problems);
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
    for field in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = some(context, field) else { continue };
        let path = path.child(field);
        one_of(
            &path.child("type"),
            text(profile, "type"),
            &["Localhost", "RuntimeDefault", "Unconfined"],
            true,
            problems,
        );
        let local = some(profile, "localhostProfile");
        if text(profile, "type") == "Localhost" {
            match local.and_then(Value::as_str) {
                None => problems.push(FieldError::required(
                    &path.child("localhostProfile"),
                    "must be set when seccomp type is Localhost",
                )),
                Some(file) if file.starts_with('/') || file.split('/').any(|part| part == "..") => problems.push(
                    FieldError::invalid(&path.child("localhostProfile"), file, "must be a relative path without '..'"),
                ),
                Some(_) => {}
            }
        } else if let Some(value) = local {
            let detail = "can only be set when seccomp type is Localhost";
            problems.push(FieldError::invalid(&path.child("localhostProfile"), value.clone(), detail));
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
