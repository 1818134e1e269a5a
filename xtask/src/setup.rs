//! `cargo xtask setup`: installs what building and testing need and this machine lacks.
//!
//! eBPF programs are Rust for a target that rustup has no prebuilt core library for: the compiler needs the sources of
//! `core`, and the linker an LLVM as new as the compiler's. [`toolchain`] says what will do.

use crate::sh;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use toolchain::Toolchain;

#[path = "../../node/proxy/toolchain.rs"]
mod toolchain;

/// Packages (by Debian's names) that tests, images and generated files need, with the program that shows each is there.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
    ("protoc", "protobuf-compiler"),
];

/// The release of `bpf-linker` that is installed, and the newest LLVM that it can be built with.
const LINKER: &str = "0.13.0";
const NEWEST_LLVM: u32 = 23;

/// Installs what is missing; does nothing, quickly, where nothing is.
pub(crate) fn run(build_only: bool) -> anyhow::Result<()> {
    ebpf_toolchain()?;
    c_tools()?;
    if build_only { Ok(()) } else { programs(|_| true) }
}

/// Installs what images are built from.
pub(crate) fn for_images() -> anyhow::Result<()> {
    c_tools()?;
    programs(|program| program == "busybox")
}

/// Installs what generated files are made with.
pub(crate) fn for_codegen() -> anyhow::Result<()> {
    programs(|program| program == "protoc")
}

/// Installs those of [`PROGRAMS`] that are wanted and missing.
fn programs(wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let lacking = |(program, _): &&(&str, &str)| wanted(program) && sh::find(program).is_none();
    let missing: Vec<&str> = PROGRAMS.iter().filter(lacking).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing).with_context(|| format!("install {} by hand, then run this again", missing.join(", ")))
}

/// A compiler for SQLite, aws-lc and jemalloc (the last is built by make), and a C library that static programs of images
/// link: Debian's compiler comes with one, Fedora's does not.
fn c_tools() -> anyhow::Result<()> {
    let there = sh::find("cc").is_some() && sh::find("make").is_some() && has_static_libc();
    if there { Ok(()) } else { install(&["gcc", "libc6-dev", "make"]) }
}

/// The compiler answers with the name alone where it has no such file.
fn has_static_libc() -> bool {
    let path = sh::output(&mut sh::command("cc", &["-print-file-name=libc.a"]));
    path.is_ok_and(|path| Path::new(path.trim()).is_absolute())
}

fn ebpf_toolchain() -> anyhow::Result<()> {
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => {
            add_sources()?;
            Toolchain::find()
                .context("rustc still has no sources of `core`; rustup component add rust-src adds them")?
        }
    };
    if toolchain::has_linker() { Ok(()) } else { linker(toolchain.llvm) }
}

/// Gives the compiler that is here the library's sources; where rustup cannot, takes the distribution's.
fn add_sources() -> anyhow::Result<()> {
    eprintln!("setup: adding rust-src");
    if sh::find("rustup").is_some() {
        match sh::output(&mut sh::command("rustup", &["component", "add", "rust-src"])) {
            Ok(_) => return Ok(()),
            Err(why) => eprintln!("setup: {why:#}; trying the distribution's compiler"),
        }
    }
    install(&["rustc-web", "rust-web-src"]).context(
        "eBPF programs need the sources of `core` (rustup component add rust-src), or Debian's rustc-web with rust-web-src",
    )
}

/// Installs `bpf-linker` for bitcode of that LLVM: built against the distribution's LLVM where it has one that reads it,
/// else, or where that fails, as its authors publish it.
fn linker(llvm: u32) -> anyhow::Result<()> {
    if let Some((major, bin)) = (llvm..=NEWEST_LLVM).find_map(|major| Some((major, distribution_llvm(major)?))) {
        match built_linker(major, &bin) {
            Ok(()) => return Ok(()),
            Err(why) => eprintln!("setup: bpf-linker cannot be built with LLVM {major}: {why:#}"),
        }
    }
    published_linker()
}

fn built_linker(llvm: u32, bin: &Path) -> anyhow::Result<()> {
    eprintln!("setup: building bpf-linker {LINKER} with LLVM {llvm}");
    let feature = format!("llvm-{llvm}");
    let mut cargo =
        sh::cargo(&["install", "bpf-linker", "--version", LINKER, "--no-default-features", "--features", &feature]);
    let path = std::env::var("PATH").unwrap_or_default();
    cargo.env("PATH", format!("{}:{path}", bin.display())).env_remove("CARGO_TARGET_DIR");
    sh::run(&mut cargo)
}

/// The directory of that LLVM's `llvm-config`, installed if the distribution has it.
fn distribution_llvm(major: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}/bin"));
    let package = format!("llvm-{major}-dev");
    if debian.join("llvm-config").exists() || (sh::find("apt-get").is_some() && install(&[&package]).is_ok()) {
        return Some(debian);
    }
    let is_it = || {
        let version = sh::output(&mut sh::command("llvm-config", &["--version"])).ok()?;
        (version.split('.').next() == Some(&major.to_string())).then(|| PathBuf::from("/usr/bin"))
    };
    is_it().or_else(|| if sh::find("dnf").is_some() && install(&["llvm-devel"]).is_ok() { is_it() } else { None })
}

fn published_linker() -> anyhow::Result<()> {
    eprintln!("setup: fetching bpf-linker {LINKER}");
    let bin = toolchain::cargo_bin().context("there is no home directory to install bpf-linker in")?;
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER}/bpf-linker-{}-unknown-linux-musl.tar.zst",
        std::env::consts::ARCH
    );
    let missing: Vec<&str> = ["curl", "zstd"].into_iter().filter(|program| sh::find(program).is_none()).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    let fetch = format!(
        "set -o pipefail; curl --proto '=https' -sSfL --connect-timeout 20 {url} | tar --zstd -x -C '{}'",
        bin.display()
    );
    sh::output(&mut sh::command("bash", &["-c", &fetch])).map(drop).with_context(|| {
        format!("bpf-linker is missing: install {LINKER} from {url}, or an LLVM that reads the compiler's bitcode")
    })
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
        let packages = packages.iter().map(|package| fedora_name(package));
        return sh::output(sh::command("dnf", &["install", "-y"]).args(packages)).map(drop);
    }
    bail!("this machine has neither apt-get nor dnf; install {} by hand", packages.join(", "))
}

/// Fedora's name for one of Debian's packages.
fn fedora_name(package: &str) -> &str {
    match package {
        "iproute2" => "iproute",
        "busybox-static" => "busybox",
        // With the static library, for images; it brings glibc-devel.
        "libc6-dev" => "glibc-static",
        same => same,
    }
}
