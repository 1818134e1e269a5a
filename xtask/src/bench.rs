//! `cargo xtask bench`: builds the program and its benchmarks as users get them, and measures.

use crate::{build, run, sh};

/// Builds what is measured and the benchmarks (`tests/bench`), and runs those with these words.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    run::use_binary(build::Profile::Release)?;
    if words.first().is_some_and(|word| word == "start") {
        run::test_images()?;
    }
    sh::run(&mut sh::cargo(&["build", "--locked", "--release", "--package", "bench"]))?;
    let bench = sh::target_dir()?.join("release/bench");
    // The harness asks for every request to be logged, which costs; this overrides it.
    sh::run(std::process::Command::new(bench).args(words).env("KEELSON_LOG", "info"))
}
