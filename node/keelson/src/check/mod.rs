//! `keelson check`: can this machine be a node, and if not, what mends it.
//!
//! Each check is a function from what the host shows to one [`Finding`]. They read the host below a root directory, so that the
//! tests can show them other machines.

mod host;
mod kernel;
mod listener;
mod surroundings;

use crate::cli::{CheckArgs, Output};
use host::Host;
use serde::Serialize;
use std::process::ExitCode;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// Works, with a limit that the detail names.
    Warning,
    /// Must be mended before `keelson server` can work.
    Failed,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn warning(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, detail: detail.into(), remedy: remedy.into() }
    }

    fn failed(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Failed, detail: detail.into(), remedy: remedy.into() }
    }
}

/// Runs every check on this machine.
pub(crate) fn findings(args: &CheckArgs) -> Vec<Finding> {
    let host = Host::this();
    let mut findings = kernel::findings(&host);
    findings.extend(surroundings::findings(&host, args));
    findings
}

/// Prints the report; exit code 1 if something must be mended.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let findings = findings(args);
    match args.output {
        Output::Table => print!("{}", table(&findings)),
        Output::Json => match serde_json::to_string_pretty(&findings) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("keelson: the report cannot be written as JSON: {error}");
                return ExitCode::FAILURE;
            }
        },
    }
    if findings.iter().any(|finding| finding.level == Level::Failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    findings
        .iter()
        .map(|Finding { check, level, detail, remedy }| {
            let level = match level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Failed => "FAILED ",
            };
            let remedy = if remedy.is_empty() { String::new() } else { format!("  → {remedy}") };
            format!("{check:width$}  {level}  {detail}{remedy}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_on_its_finding_s_line() {
        let report = table(&[Finding::ok("kernel", "6.18"), Finding::failed("btf", "missing", "boot another kernel")]);
        assert_eq!(report, "kernel  ok       6.18\nbtf     FAILED   missing  → boot another kernel\n");
    }
}
