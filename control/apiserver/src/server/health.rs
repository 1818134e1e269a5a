//! `/healthz`, `/livez`, `/readyz` and `/version`.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::respond;
use crate::request::{Query, ResponseBody};

/// The Kubernetes version whose API is served.
pub(crate) const KUBERNETES_VERSION: &str = "v1.36.0";

/// One named check: `Err` says what is wrong.
pub(crate) struct Check {
    /// Its path below the endpoint.
    pub(crate) name: &'static str,
    /// What it found.
    pub(crate) result: Result<(), String>,
}

/// Answers `/livez`, `/livez/NAME` and their like.
pub(crate) fn answer(endpoint: &str, rest: &str, query: &Query, checks: &[Check]) -> Option<Response<ResponseBody>> {
    if !rest.is_empty() {
        let check = checks.iter().find(|check| check.name == rest)?;
        return Some(match &check.result {
            Ok(()) => respond::text(StatusCode::OK, "ok"),
            Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {error}")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut report = String::new();
    let mut healthy = true;
    for check in checks {
        let line = match &check.result {
            _ if excluded.contains(&check.name) => format!("[+]{} excluded: ok\n", check.name),
            Ok(()) => format!("[+]{} ok\n", check.name),
            Err(error) => {
                healthy = false;
                format!("[-]{} failed: {error}\n", check.name)
            }
        };
        report.push_str(&line);
    }
    Some(match (healthy, query.get("verbose").is_some()) {
        (true, false) => respond::text(StatusCode::OK, "ok"),
        (true, true) => respond::text(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
        (false, _) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n")),
    })
}

/// The document at `/version`.
pub(crate) fn version(own: &str) -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": format!("{KUBERNETES_VERSION}+keelson-{own}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}
