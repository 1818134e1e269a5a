//! Builds the pause image that keelson carries: one static program of a few kilobytes in an OCI archive.

use std::path::{Path, PathBuf};

#[path = "../images/builder/mod.rs"]
mod builder;

fn main() {
    let dir = Path::new("../images/pause");
    for input in ["../images/pause/recipe", "../images/pause/pause.rs", "../images/builder", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(rustc), Some(out), Ok(target)) = (variable("RUSTC"), variable("OUT_DIR"), std::env::var("TARGET")) else {
        println!("cargo::error=cargo sets RUSTC, OUT_DIR and TARGET");
        return;
    };
    let toolchain = builder::Toolchain { rustc, target, work_dir: out.clone() };
    let written = builder::build(dir, &toolchain)
        .and_then(|(_, archive)| std::fs::write(out.join("pause.tar"), archive).map_err(|error| error.to_string()));
    if let Err(error) = written {
        println!("cargo::error=the pause image: {}", error.replace('\n', " | "));
    }
}
