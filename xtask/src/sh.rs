//! Running other programs from the repository's root.

use anyhow::{Context, bail};
use cluster_tests::words;
pub(crate) use cluster_tests::{find, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// A command in the repository's root.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// cargo, as this program was run by it, without what it set for us alone.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = command("cargo", args);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs with our own streams.
///
/// # Errors
/// It cannot be run or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let words = words(command);
    let status = command.status().with_context(|| format!("cannot run `{words}`"))?;
    if !status.success() {
        bail!("`{words}` ended with {status}");
    }
    Ok(())
}

/// Cargo's target directory.
///
/// # Errors
/// cargo cannot tell.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(dir.into())
}

/// The files of the tree, committed or about to be, by their paths below [`root`].
pub(crate) fn files() -> anyhow::Result<Vec<String>> {
    let listed = output(&mut command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(listed.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect())
}

/// What `cargo metadata` tells of the workspace, its dependencies included.
///
/// # Errors
/// cargo fails.
pub(crate) fn metadata() -> anyhow::Result<serde_json::Value> {
    let text = output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata is no JSON")
}
