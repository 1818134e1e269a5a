//! `cargo xtask build`: the program itself. The eBPF programs are built by node/proxy/build.rs on the way.

use crate::sh;
use std::path::PathBuf;

/// Which profile to build with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; what the tests run.
    Dev,
    /// What users run and benchmarks measure.
    Release,
}

/// Builds `keelson`; where it is.
pub(crate) fn keelson(profile: Profile) -> anyhow::Result<PathBuf> {
    let mut args = vec!["build", "--locked", "--package", "keelson"];
    let dir = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            args.push("--release");
            "release"
        }
    };
    sh::run(&mut sh::cargo(&args))?;
    Ok(sh::target_dir()?.join(dir).join("keelson"))
}
