//! `cargo xtask setup`: installs what building and testing need and this machine lacks.
//!
//! eBPF programs are Rust for a target that rustup has no prebuilt core library for. On most machines a nightly with
//! `rust-src` builds it. Where rustup cannot fetch that, Debian's `rustc-web` with its sources and LLVM 22 does.

use crate::sh;
use anyhow::{Context, bail};
use std::path::Path;

/// Debian packages that whole-cluster tests and images need, with the program that shows each is there.
const PROGRAMS: [(&str, &str); 6] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
];

/// Where Debian puts what builds eBPF programs without a nightly.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Installs what is missing; does nothing, quickly, where nothing is.
pub(crate) fn run(build_only: bool) -> anyhow::Result<()> {
    ebpf_toolchain()?;
    c_tools()?;
    if !build_only {
        programs()?;
    }
    Ok(())
}

fn programs() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| sh::find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing).with_context(|| format!("install {} by hand, then run this again", missing.join(", ")))
}

/// A compiler for SQLite, aws-lc and jemalloc; the last is built by make.
fn c_tools() -> anyhow::Result<()> {
    let there = sh::find("cc").is_some() && sh::find("make").is_some();
    if there { Ok(()) } else { install(&["gcc", "libc6-dev", "make"]) }
}

fn ebpf_toolchain() -> anyhow::Result<()> {
    let debian = || Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_LLVM).exists();
    let nightly = nightly_has_source();
    if !nightly && !debian() && !add_nightly_source() {
        eprintln!("setup: rustup has no nightly with rust-src here; using the distribution's compiler");
        install(&["rustc-web", "rust-web-src", "llvm-22-dev"]).context(
            "eBPF programs need a nightly with rust-src (rustup toolchain install nightly --component rust-src), or Debian's rustc-web",
        )?;
    }
    if sh::find("bpf-linker").is_some() || home_has_linker() {
        return Ok(());
    }
    eprintln!("setup: building bpf-linker");
    let mut cargo = sh::cargo(&["install", "bpf-linker"]);
    if Path::new(DEBIAN_LLVM).exists() {
        cargo.args(["--no-default-features", "--features", "llvm-22"]);
        let path = std::env::var("PATH").unwrap_or_default();
        cargo.env("PATH", format!("{DEBIAN_LLVM}/bin:{path}"));
    }
    cargo.env_remove("CARGO_TARGET_DIR");
    sh::run(&mut cargo)
}

/// cargo's own bin directory may not be on the path.
fn home_has_linker() -> bool {
    let home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    home.is_some_and(|home| home.join("bin/bpf-linker").is_file())
}

fn nightly_has_source() -> bool {
    let sysroot = sh::output(&mut sh::command("rustc", &["+nightly", "--print", "sysroot"]));
    sysroot.is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

fn add_nightly_source() -> bool {
    if sh::find("rustup").is_none() {
        return false;
    }
    let args = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
    let installed = sh::output(&mut sh::command("rustup", &args)).is_ok();
    installed && nightly_has_source()
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("missing: {}; run `cargo xtask setup` as root once", packages.join(", "));
    }
    eprintln!("setup: installing {}", packages.join(", "));
    if sh::find("apt-get").is_some() {
        let quiet = ["-q", "-y", "--no-install-recommends"];
        let mut update = sh::command("apt-get", &["-q", "update"]);
        sh::output(&mut update)?;
        let mut apt = sh::command("apt-get", &["install"]);
        apt.args(quiet).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
        return sh::output(&mut apt).map(drop);
    }
    if sh::find("dnf").is_some() {
        return sh::output(sh::command("dnf", &["install", "-y"]).args(packages)).map(drop);
    }
    bail!("this machine has neither apt-get nor dnf; install {} by hand", packages.join(", "))
}
