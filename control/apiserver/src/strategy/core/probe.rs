//! Probes and lifecycle handlers.

use crate::strategy::tools::{
    Problems, empty, int, items, non_negative, port_number, port_number_or_name, some, supported, text,
};
use apimachinery::field::{FieldError, Path};
use serde_json::Value;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// A probe. Liveness and startup probes have one success.
pub(super) fn probe(path: &Path, probe: &Value, once: bool, problems: &mut Problems) {
    handler(path, probe, &HANDLERS[..4], problems);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(&path.child(field), int(probe, field).unwrap_or(0), problems);
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds")
        && seconds <= 0
    {
        problems.push(FieldError::invalid(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    if once && int(probe, "successThreshold").is_some_and(|value| value != 1) {
        let value = probe["successThreshold"].clone();
        problems.push(FieldError::invalid(&path.child("successThreshold"), value, "must be 1"));
    }
    if !once && some(probe, "terminationGracePeriodSeconds").is_some() {
        let value = probe["terminationGracePeriodSeconds"].clone();
        let path = path.child("terminationGracePeriodSeconds");
        problems.push(FieldError::invalid(&path, value, "must not be set for readinessProbes"));
    }
}

/// `postStart` or `preStop`.
pub(super) fn lifecycle(path: &Path, action: &Value, grace: Option<i64>, problems: &mut Problems) {
    handler(path, action, &["exec", "httpGet", "tcpSocket", "sleep"], problems);
    let seconds = some(action, "sleep").map_or(0, |sleep| int(sleep, "seconds").unwrap_or(0));
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        problems.push(FieldError::invalid(&path.child("sleep"), seconds, detail));
    }
}

fn handler(path: &Path, handler: &Value, allowed: &[&'static str], problems: &mut Problems) {
    let mut count = 0;
    for name in HANDLERS.iter().filter(|name| some(handler, name).is_some()) {
        let at = path.child(*name);
        if count > 0 || !allowed.contains(name) {
            problems.push(FieldError::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        count += 1;
        let action = &handler[*name];
        match *name {
            "exec" if empty(action, "command") => problems.push(FieldError::required(&at.child("command"), "")),
            "httpGet" => http_get(&at, action, problems),
            "tcpSocket" => port_number_or_name(&at.child("port"), &action["port"], problems),
            "grpc" => port_number(&at.child("port"), int(action, "port").unwrap_or(0), problems),
            _ => {}
        }
    }
    if count == 0 {
        problems.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(path: &Path, get: &Value, problems: &mut Problems) {
    if empty(get, "path") {
        problems.push(FieldError::required(&path.child("path"), ""));
    }
    port_number_or_name(&path.child("port"), &get["port"], problems);
    supported(&path.child("scheme"), text(get, "scheme"), &["HTTP", "HTTPS"], problems);
    for header in items(get, "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            problems.push(FieldError::invalid(&path.child("httpHeaders"), name, message));
        }
    }
}
