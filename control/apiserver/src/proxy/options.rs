//! The options of exec, attach and log in the kubelet's spelling.

use apimachinery::field::{FieldError, Path};
use apimachinery::status::Status;
use serde_json::json;

use crate::request::Query;

/// `?command=…&stdin=…` as the kubelet wants it.
pub(super) fn exec(query: &Query) -> Result<String, Status> {
    let mut out = Pairs::default();
    let mut any = false;
    for command in query.all("command") {
        out.push("command", command);
        any = true;
    }
    if !any {
        return Err(Status::bad_request("you must specify at least 1 command"));
    }
    streams(query, &mut out)?;
    Ok(out.0)
}

/// The same without a command.
pub(super) fn attach(query: &Query) -> Result<String, Status> {
    let mut out = Pairs::default();
    streams(query, &mut out)?;
    Ok(out.0)
}

fn streams(query: &Query, out: &mut Pairs) -> Result<(), Status> {
    // Output is on by default, as upstream's defaults have it.
    let on = |name: &str, default: bool| query.get(name).map_or(default, |_| query.flag(name));
    let tty = on("tty", false);
    let chosen = [("input", on("stdin", false)), ("output", on("stdout", true)), ("error", on("stderr", true) && !tty)];
    if chosen.iter().all(|(_, on)| !on) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    for (name, on) in chosen.into_iter().chain([("tty", tty)]) {
        if on {
            out.push(name, "1");
        }
    }
    Ok(())
}

/// Ports, which clients of SPDY do not name here.
pub(super) fn port_forward(query: &Query) -> Result<String, Status> {
    let mut out = Pairs::default();
    let ports: Vec<&str> = query.all("ports").flat_map(|list| list.split(',')).collect();
    if let Some(wrong) = ports.iter().find(|port| port.parse::<u16>().is_err()) {
        return Err(Status::bad_request(format!("invalid value {wrong:?} for query parameter ports")));
    }
    if !ports.is_empty() {
        out.push("port", &ports.join(","));
    }
    Ok(out.0)
}

/// Log options, checked; the kubelet takes them under the same names.
pub(super) fn log(query: &Query, pod: &str) -> Result<String, Status> {
    let mut out = Pairs::default();
    let mut errors = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            out.push(name, "true");
        }
    }
    for (name, least) in [("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)] {
        let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { continue };
        match text.parse::<i64>() {
            Ok(number) if number >= least => out.push(name, text),
            Ok(number) => {
                let detail = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                errors.push(FieldError::invalid(&Path::new(name), json!(number), detail));
            }
            Err(_) => return Err(Status::bad_request(format!("invalid value {text:?} for query parameter {name}"))),
        }
    }
    if let Some(time) = query.get("sinceTime").filter(|text| !text.is_empty()) {
        if time.parse::<jiff::Timestamp>().is_err() {
            return Err(Status::bad_request(format!("invalid value {time:?} for query parameter sinceTime")));
        }
        if query.get("sinceSeconds").is_some_and(|text| !text.is_empty()) {
            errors.push(FieldError::forbidden(
                &Path::new("sinceTime"),
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        out.push("sinceTime", time);
    }
    if let Some(stream) = query.get("stream").filter(|text| !text.is_empty()) {
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            errors.push(FieldError::not_supported(&Path::new("stream"), json!(stream), &["All", "Stderr", "Stdout"]));
        }
        out.push("stream", stream);
    }
    if errors.is_empty() { Ok(out.0) } else { Err(Status::invalid("", "PodLogOptions", pod, errors)) }
}

#[derive(Default)]
struct Pairs(String);

impl Pairs {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encode(value));
    }
}

/// Percent-encodes everything but unreserved characters.
pub(super) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
