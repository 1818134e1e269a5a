//! `cargo xtask test`: everything that must hold before a change lands. Its last line says how many passed and failed.

use crate::{arrows, build, codegen, run, setup, sh, tidy};
use anyhow::Context;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

/// How many whole-cluster tests run at once: each has a containerd and a server of its own.
const CLUSTERS_AT_ONCE: &str = "--test-threads=3";

/// What has been counted so far.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// A step that passes or fails as a whole.
    fn step(&mut self, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("FAILED {name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// A step that names its violations.
    fn findings(&mut self, name: &str, problems: anyhow::Result<Vec<String>>) {
        let outcome = problems.and_then(|problems| {
            problems.iter().for_each(|problem| eprintln!("{name}: {problem}"));
            anyhow::ensure!(problems.is_empty(), "{} problems", problems.len());
            Ok(())
        });
        self.step(name, outcome);
    }
}

/// Runs it all, or only tests with a name that contains the filter.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    timed("set-up", || setup::run(false))?;
    if filter.is_none() {
        timed("checks", || checks(&mut tally));
    }
    timed("tests", || tests(&mut tally, filter))?;
    report(&tally)
}

fn checks(tally: &mut Tally) {
    tally.step("formatting", sh::run(&mut sh::cargo(&["fmt", "--all", "--check"])));
    tally.findings("arrows", arrows::check());
    tally.findings("tidy", tidy::check());
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    tally.step("clippy", sh::run(&mut sh::cargo(&clippy)));
    tally.step("generated files", codegen::run(true));
}

fn tests(tally: &mut Tally, filter: Option<&str>) -> anyhow::Result<()> {
    let skips = sh::target_dir()?.join(format!("skips-{}", std::process::id()));
    run::use_binary(build::Profile::Dev)?;
    run::test_images()?;
    cluster_tests::sweep()?;
    let unit = ["test", "--locked", "--workspace", "--exclude", "cluster-tests", "--no-fail-fast", "--quiet"];
    cargo_test(tally, "unit tests", &unit, filter, &[], &skips)?;
    let cluster = ["test", "--locked", "--package", "cluster-tests", "--no-fail-fast", "--quiet"];
    cargo_test(tally, "whole-cluster tests", &cluster, filter, &[CLUSTERS_AT_ONCE], &skips)?;
    if let Ok(text) = std::fs::read_to_string(&skips) {
        tally.skipped = text.lines().map(str::to_owned).collect();
        std::fs::remove_file(&skips)?;
    }
    Ok(())
}

/// Runs `cargo test` and adds up what its programs say.
fn cargo_test(
    tally: &mut Tally,
    name: &str,
    args: &[&str],
    filter: Option<&str>,
    harness: &[&str],
    skips: &std::path::Path,
) -> anyhow::Result<()> {
    let mut cargo = sh::cargo(args);
    cargo.arg("--").args(filter).args(harness).env(cluster_tests::SKIP_FILE, skips).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot run {cargo:?}"))?;
    let output = child.stdout.take().context("cargo's output was piped")?;
    let before = (tally.passed, tally.failed.len());
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        match counts(&line) {
            Some((passed, failed)) => {
                tally.passed += passed;
                tally.failed.extend((0..failed).map(|_| format!("a test of the {name}")));
            }
            None => continue,
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed.len() == before.1 {
        tally.failed.push(format!("{name} ended with {status}"));
    }
    Ok(())
}

/// Passed and failed of libtest's closing line.
fn counts(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = &rest[..rest.find(word)?];
        before.split_whitespace().next_back()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

fn report(tally: &Tally) -> anyhow::Result<()> {
    let Tally { passed, failed, skipped } = tally;
    skipped.iter().for_each(|line| println!("skipped {line}"));
    failed.iter().for_each(|name| println!("failed: {name}"));
    // A skipped test returns early and counts as passed with libtest.
    let passed = passed.saturating_sub(skipped.len());
    println!("{passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    anyhow::ensure!(failed.is_empty(), "{} failed", failed.len());
    let ci = std::env::var_os("CI").is_some();
    anyhow::ensure!(!ci || skipped.is_empty(), "a skipped test fails in CI");
    Ok(())
}

fn timed<T>(name: &str, step: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    eprintln!("== {name}");
    let result = step();
    eprintln!("== {name} took {:.0} s", begun.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn closing_lines() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.52s";
        assert_eq!(counts(line), Some((12, 0)));
        assert_eq!(counts("test result: FAILED. 1 passed; 2 failed; 0 ignored"), Some((1, 2)));
        assert_eq!(counts("running 3 tests"), None);
    }
}
