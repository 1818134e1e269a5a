//! Containers: init, sidecar, app and ephemeral ones.

use super::env;
use super::pod_spec::ip;
use super::volume::{self, Volumes};
use super::{probe, resources, security};
use crate::strategy::tools::{
    Problems, empty, flag, indexed, int, items, named, one_of, port_number, some, supported, text,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use serde_json::Value;
use std::collections::BTreeSet;

/// What a container's checks need to know of its pod.
pub(super) struct Context<'a> {
    pub(super) volumes: Volumes<'a>,
    pub(super) host_users: bool,
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
    for (path, container) in indexed(spec, "containers", path) {
        common(&path, container, context, problems);
        unique(&path, container, &mut names, problems);
        handlers(&path, container, context, problems);
        restart_policy(&path, container, problems);
    }
    let mut host_ports = BTreeSet::new();
    for (path, container) in indexed(spec, "containers", path) {
        host_port_conflicts(&path, container, &mut host_ports, problems);
    }
    for (path, container) in indexed(spec, "initContainers", path) {
        init(&path, container, context, &mut names, problems);
    }
    let others = names.clone();
    for (path, container) in indexed(spec, "ephemeralContainers", path) {
        common(&path, container, context, problems);
        image_has_no_margins(&path, container, problems);
        unique(&path, container, &mut names, problems);
        ephemeral(&path, container, &others, problems);
    }
}

fn unique<'a>(path: &Path, container: &'a Value, names: &mut BTreeSet<&'a str>, problems: &mut Problems) {
    let name = text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        problems.push(FieldError::duplicate(&path.child("name"), name));
    }
}

fn init<'a>(
    path: &Path,
    container: &'a Value,
    context: &Context<'_>,
    names: &mut BTreeSet<&'a str>,
    problems: &mut Problems,
) {
    common(path, container, context, problems);
    restart_policy(path, container, problems);
    unique(path, container, names, problems);
    // They run one after another, so that each has the node's ports to itself.
    host_port_conflicts(path, container, &mut BTreeSet::new(), problems);
    if text(container, "restartPolicy") == "Always" {
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

/// Nothing that a pod serves or counts on may lie in a container that was added to look at it.
fn ephemeral(path: &Path, container: &Value, others: &BTreeSet<&str>, problems: &mut Problems) {
    const FORBIDDEN: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let detail = "cannot be set for an Ephemeral Container";
    let target = text(container, "targetContainerName");
    if !target.is_empty() && !others.contains(target) {
        problems.push(FieldError::not_found(&path.child("targetContainerName"), target));
    }
    for field in FORBIDDEN.into_iter().filter(|field| !empty(container, field)) {
        problems.push(FieldError::forbidden(&path.child(field), detail));
    }
    for (path, mount) in indexed(container, "volumeMounts", path) {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|field| !empty(mount, field)) {
            problems.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn restart_policy(path: &Path, container: &Value, problems: &mut Problems) {
    let at = path.child("restartPolicy");
    match some(container, "restartPolicy").and_then(Value::as_str) {
        Some(policy) => supported(&at, policy, &["Always", "Never", "OnFailure"], problems),
        None if !empty(container, "restartPolicyRules") => {
            problems.push(FieldError::required(&at, "must specify restartPolicy when restart rules are used"));
        }
        None => {}
    }
    for (path, rule) in indexed(container, "restartPolicyRules", path) {
        supported(&path.child("action"), text(rule, "action"), &["Restart", "RestartAllContainers"], problems);
        let at = path.child("exitCodes");
        match some(rule, "exitCodes") {
            None => problems.push(FieldError::required(&at, "must be specified")),
            Some(codes) => {
                supported(&at.child("operator"), text(codes, "operator"), &["In", "NotIn"], problems);
                if items(codes, "values").len() > 255 {
                    problems.push(FieldError::too_many(&at.child("values"), items(codes, "values").len(), 255));
                }
            }
        }
    }
}

fn handlers(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    if let Some(lifecycle) = some(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(action) = some(lifecycle, field) {
                probe::lifecycle(&path.child("lifecycle").child(field), action, context.grace, problems);
            }
        }
    }
    for (field, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if let Some(found) = some(container, field) {
            probe::probe(&path.child(field), found, once, problems);
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
    if text(container, "image").is_empty() {
        problems.push(FieldError::required(&path.child("image"), ""));
    }
    one_of(
        &path.child("terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
        true,
        problems,
    );
    ports(path, container, problems);
    env::variables(path, container, &context.volumes, problems);
    env::sources(path, container, problems);
    volume::mounts(container, path, &context.volumes, problems);
    volume::devices(container, path, &context.volumes, problems);
    pull_policy(path, container, "imagePullPolicy", problems);
    if let Some(found) = some(container, "resources") {
        resources::requirements(&path.child("resources"), found, resources::of_container, problems);
    }
    resize_policies(path, container, context, problems);
    if let Some(found) = some(container, "securityContext") {
        security::container(&path.child("securityContext"), found, context.host_users, problems);
    }
}

/// When an image is pulled.
pub(super) fn pull_policy(path: &Path, holder: &Value, field: &'static str, problems: &mut Problems) {
    one_of(&path.child(field), text(holder, field), &["Always", "IfNotPresent", "Never"], true, problems);
}

/// Templates may hold any text for others to fill in; what runs may not.
pub(super) fn image_has_no_margins(path: &Path, container: &Value, problems: &mut Problems) {
    let image = text(container, "image");
    if image != image.trim() {
        problems.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn resize_policies(path: &Path, container: &Value, context: &Context<'_>, problems: &mut Problems) {
    let at = path.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for (path, policy) in indexed(container, "resizePolicy", path) {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            problems.push(FieldError::duplicate(&path, resource));
        }
        one_of(&at, resource, &["cpu", "memory"], true, problems);
        one_of(&at, restart, &["NotRequired", "RestartContainer"], true, problems);
        if context.never_restarts && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            problems.push(FieldError::invalid(&at, restart, detail));
        }
    }
}

fn ports(path: &Path, container: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (path, port) in indexed(container, "ports", path) {
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::is_port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                problems.push(FieldError::duplicate(&path.child("name"), name));
            }
            problems.extend(named(&path.child("name"), name, wrong));
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => problems.push(FieldError::required(&path.child("containerPort"), "")),
            number => port_number(&path.child("containerPort"), number, problems),
        }
        if let Some(number) = int(port, "hostPort").filter(|number| *number != 0) {
            port_number(&path.child("hostPort"), number, problems);
        }
        one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, problems);
        let host = text(port, "hostIP");
        if !host.is_empty() {
            ip(&path.child("hostIP"), host, problems);
        }
    }
}

/// On the node's network a port is the node's; a template may leave it to the pod's defaults.
pub(super) fn ports_of_the_host(path: &Path, spec: &Value, problems: &mut Problems) {
    if flag(spec, "hostNetwork") != Some(true) {
        return;
    }
    for (path, container) in indexed(spec, "containers", path) {
        for (path, port) in indexed(container, "ports", &path) {
            let number = int(port, "hostPort").unwrap_or(0);
            if number != 0 && Some(number) != int(port, "containerPort") {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                problems.push(FieldError::invalid(&path.child("hostPort"), number, detail));
            }
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

/// Whether the pod shares the host's user namespace.
pub(super) fn host_users(spec: &Value) -> bool {
    flag(spec, "hostUsers").unwrap_or(true)
}
