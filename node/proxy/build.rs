//! Builds the eBPF programs (`ebpf/programs`) for the kernel's target and leaves the object in `OUT_DIR/programs.o`.
//!
//! The kernel's target has no precompiled `core`, so this needs the sources of one compiler and `bpf-linker`; see
//! [`toolchain`]. The result is kept beside the target directory by a hash of all that goes in, so that check, clippy,
//! test and build share one.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};
use toolchain::Toolchain;

mod toolchain;

/// What tells the programs and their layouts apart; everything else is the toolchain.
const SOURCES: &[&str] = &[
    "ebpf/abi/Cargo.toml",
    "ebpf/abi/src",
    "ebpf/programs/Cargo.toml",
    "ebpf/programs/Cargo.lock",
    "ebpf/programs/src",
];

const REMEDY: &str = "run `cargo xtask setup`, which installs what building the eBPF programs needs";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error=eBPF programs: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..");
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=toolchain.rs");
    let mut hasher = DefaultHasher::new();
    hasher.write(include_bytes!("build.rs"));
    hasher.write(include_bytes!("toolchain.rs"));
    for source in SOURCES {
        let path = root.join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        digest(&path, &mut hasher)?;
    }
    let cache = cache_directory(&out_dir);
    let object = cache.join(format!("programs-{:016x}.o", hasher.finish()));
    if !object.exists() {
        let built = compile(&root, &cache)?;
        // Another cargo may be doing the same: whoever renames last leaves the same bytes.
        let half = cache.join(format!("programs-{}.half", std::process::id()));
        copy(&built, &half)?;
        fs::rename(&half, &object).map_err(|e| format!("{}: {e}", object.display()))?;
    }
    copy(&object, &out_dir.join("programs.o"))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|e| format!("copying {} to {}: {e}", from.display(), to.display()))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// Feeds a file, or every file below a directory, to the hasher.
fn digest(path: &Path, hasher: &mut DefaultHasher) -> Result<(), String> {
    let fail = |e| format!("{}: {e}", path.display());
    if !path.is_dir() {
        hasher.write(path.to_string_lossy().as_bytes());
        hasher.write(&fs::read(path).map_err(fail)?);
        return Ok(());
    }
    let mut entries: Vec<_> = fs::read_dir(path)
        .map_err(fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?
        .iter()
        .map(fs::DirEntry::path)
        .collect();
    entries.sort();
    entries.iter().try_for_each(|entry| digest(entry, hasher))
}

/// `TARGET_DIRECTORY/ebpf`: cargo marks its target directory with a CACHEDIR.TAG.
fn cache_directory(out_dir: &Path) -> PathBuf {
    let target = out_dir.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    target.unwrap_or(out_dir).join("ebpf")
}

/// Runs cargo for the programs and returns where the object is.
fn compile(root: &Path, cache: &Path) -> Result<PathBuf, String> {
    let toolchain =
        Toolchain::find().ok_or_else(|| format!("no compiler with the sources of `core` is here: {REMEDY}"))?;
    if !toolchain::has_linker() {
        return Err(format!("bpf-linker is not on PATH nor in cargo's bin directory: {REMEDY}"));
    }
    let target = cache.join("build");
    fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
    let mut command = toolchain.cargo();
    command
        .args(["build", "--release", "-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        // aya-ebpf declares a newer compiler than it needs.
        .args(["--ignore-rust-version", "--locked"])
        .current_dir(root.join("ebpf/programs"))
        .env("CARGO_TARGET_DIR", &target)
        // Without BTF no socket storage map can be made.
        .env("RUSTFLAGS", "-C link-arg=--btf -C debuginfo=2");
    let output = command.output().map_err(|e| format!("{}: {e}", toolchain.name))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        // A build script's error is one line a message.
        text.lines().for_each(|line| println!("cargo::warning={line}"));
        return Err(format!("{} could not build them (output above); if a tool is missing, {REMEDY}", toolchain.name));
    }
    Ok(target.join("bpfel-unknown-none/release/programs"))
}
