//! The architecture's arrows: which of our crates may depend on which, one version of each dependency, one crypto provider.

use crate::sh;
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each of our crates may depend on of ours. A crate that is not here, or an arrow that is not, fails the check.
const ARROWS: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("apimachinery", &[]),
    ("supervise", &[]),
    ("cri", &["supervise"]),
    ("store", &["apimachinery", "supervise"]),
    ("informer", &["apimachinery", "supervise"]),
    ("apiserver", &["apimachinery", "store", "supervise"]),
    ("scheduler", &["apimachinery", "informer", "supervise"]),
    ("controllers", &["apimachinery", "informer"]),
    ("kubelet", &["apimachinery", "cri", "informer", "supervise"]),
    ("network", &["apimachinery", "informer", "supervise"]),
    ("proxy", &["abi", "apimachinery", "informer", "supervise"]),
    (
        "keelson",
        &[
            "abi",
            "apimachinery",
            "apiserver",
            "controllers",
            "cri",
            "informer",
            "kubelet",
            "network",
            "proxy",
            "scheduler",
            "store",
            "supervise",
        ],
    ),
    ("cluster-tests", &[]),
    ("bench", &["cluster-tests"]),
    ("xtask", &["cluster-tests"]),
];

/// Crates that must never be linked, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("ring", "aws-lc-rs is the one crypto provider"),
    ("openssl", "rustls is the one TLS library"),
    ("native-tls", "rustls is the one TLS library"),
];

/// Dependencies that others pull in twice, with the reason why that cannot be mended here.
const TWICE: &[(&str, &str)] = &[
    ("base64", "jsonwebtoken, k8s-openapi and tonic are at 0.22"),
    ("pem", "jsonwebtoken is at 3"),
    ("hashbrown", "tokio-util is at 0.15"),
    ("untrusted", "aws-lc-rs and rustls-webpki differ"),
    ("syn", "build time only: half of the derive macros are at 2"),
    ("synstructure", "follows syn"),
];

/// Dependencies that a crate may name without using them, with the reason.
const UNUSED: &[(&str, &str)] = &[("k8s-openapi", "kube builds only where somebody chooses a version")];

/// Checks all of it; each violation is one line.
pub(crate) fn check() -> anyhow::Result<Vec<String>> {
    let metadata = sh::metadata()?;
    let members: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let own: Vec<&Value> =
        packages.iter().filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id))).collect();
    let mut problems = own_arrows(&own);
    let files = sh::files()?;
    for package in own {
        problems.extend(unused(package, &files)?);
    }
    problems.extend(banned(&metadata)?);
    problems.extend(versions()?);
    Ok(problems)
}

fn own_arrows(own: &[&Value]) -> Vec<String> {
    let names: BTreeSet<&str> = own.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut problems = Vec::new();
    for package in own {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            problems.push(format!("crate {name} is not in the table of arrows (xtask/src/arrows.rs)"));
            continue;
        };
        let dependencies = dependencies(package);
        // A test may reach further than the code that it tests.
        let normal = dependencies.iter().filter(|d| d["kind"].as_str() != Some("dev"));
        for target in normal.filter_map(|d| d["name"].as_str()).filter(|target| names.contains(target)) {
            if !allowed.contains(&target) {
                problems.push(format!("{name} must not depend on {target}"));
            }
        }
    }
    problems
}

fn dependencies(package: &Value) -> &[Value] {
    package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Dependencies that no source of the crate mentions.
fn unused(package: &Value, files: &[String]) -> anyhow::Result<Vec<String>> {
    let manifest = Path::new(package["manifest_path"].as_str().context("a package has no manifest")?);
    let directory = manifest.parent().context("a manifest has no directory")?;
    let sources = files.iter().map(|file| sh::root().join(file));
    let sources =
        sources.filter(|path| path.starts_with(directory) && path.extension().is_some_and(|kind| kind == "rs"));
    let code = sources.map(std::fs::read_to_string).collect::<Result<String, _>>()?;
    let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let names = dependencies(package).iter().filter_map(|d| d["rename"].as_str().or(d["name"].as_str()));
    let excused = |name: &str| UNUSED.iter().any(|(known, _)| *known == name);
    let idle = names.filter(|name| !words.contains(name.replace('-', "_").as_str()) && !excused(name));
    Ok(idle.map(|name| format!("{} does not use its dependency {name}", package["name"])).collect())
}

fn banned(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut problems = Vec::new();
    for (name, reason) in BANNED {
        if packages.iter().all(|package| package["name"].as_str() != Some(name)) {
            continue;
        }
        // metadata lists every feature's packages; only what is really built for this target counts.
        let tree =
            sh::cargo(&["tree", "--workspace", "--locked", "--edges", "normal,build", "--invert", name]).output()?;
        if tree.status.success() && !tree.stdout.is_empty() {
            problems.push(format!("{name} is linked: {reason}"));
        }
    }
    Ok(problems)
}

fn versions() -> anyhow::Result<Vec<String>> {
    let tree =
        sh::output(&mut sh::cargo(&["tree", "--workspace", "--locked", "--edges", "normal", "--prefix", "none"]))?;
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            found.entry(name).or_default().insert(version);
        }
    }
    if found.is_empty() {
        bail!("cargo tree printed nothing");
    }
    let mut problems: Vec<String> = found
        .iter()
        .filter(|(name, versions)| versions.len() > 1 && !TWICE.iter().any(|(known, _)| known == *name))
        .map(|(name, versions)| format!("{name} is there in {} versions: {versions:?}", versions.len()))
        .collect();
    let stale = TWICE.iter().filter(|(name, _)| found.get(name).is_none_or(|versions| versions.len() < 2));
    problems.extend(stale.map(|(name, _)| format!("{name} is excused in TWICE but there only once")));
    Ok(problems)
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_str)
}
