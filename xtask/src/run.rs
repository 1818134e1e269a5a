//! `cargo xtask run`: a throw-away cluster with a command in it.

use crate::{build, image, sh};
use anyhow::Context;
use cluster_tests::{Cluster, ClusterOptions};
use std::path::PathBuf;

/// Founds a cluster in network namespaces of its own, runs the command in its node's, and removes it again.
pub(crate) fn run(images: Vec<PathBuf>, words: &[String]) -> anyhow::Result<()> {
    use_binary(build::Profile::Dev)?;
    let images = if images.is_empty() { test_images()? } else { images };
    let cluster = Cluster::start(ClusterOptions { images, ..ClusterOptions::default() })?;
    let shell = ["sh".to_owned()];
    let words = if words.is_empty() { shell.as_slice() } else { words };
    let mut command = cluster.node().command(&words[0]);
    command.args(&words[1..]).env("KUBECONFIG", cluster.data_dir().join("kubeconfig"));
    sh::run(&mut command)
}

/// Builds the program and tells the cluster tests where it is.
#[expect(unsafe_code, reason = "the environment is how tests and benchmarks learn of the program")]
pub(crate) fn use_binary(profile: build::Profile) -> anyhow::Result<PathBuf> {
    let binary = build::keelson(profile)?;
    // SAFETY: nothing else runs in this process yet.
    unsafe { std::env::set_var("KEELSON_BIN", &binary) };
    Ok(binary)
}

/// Builds the archives that tests and `run` import, and tells the cluster tests where they are.
#[expect(unsafe_code, reason = "the environment is how tests and benchmarks learn of the images")]
pub(crate) fn test_images() -> anyhow::Result<Vec<PathBuf>> {
    let out = sh::target_dir()?.join("images");
    image::build(&[], &out)?;
    // SAFETY: nothing else runs in this process yet.
    unsafe { std::env::set_var(cluster_tests::IMAGES, &out) };
    let mut archives: Vec<PathBuf> = std::fs::read_dir(&out)
        .with_context(|| format!("{}: cannot be read", out.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    archives.sort();
    Ok(archives)
}
