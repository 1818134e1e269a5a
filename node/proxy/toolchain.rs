//! What builds the eBPF programs: a compiler with the sources of `core`, and `bpf-linker`. Shared by this crate's build
//! script, which uses them, and `cargo xtask setup`, which installs them.
#![allow(dead_code, reason = "each of the two needs a part")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler that can build `core`, and how to call its cargo.
pub(crate) struct Toolchain {
    /// What to call it in messages.
    pub(crate) name: &'static str,
    cargo: Vec<&'static str>,
    environment: Vec<(&'static str, OsString)>,
    /// Major version of its LLVM: the linker reads bitcode of its own LLVM and of older ones.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// The first of: the compiler that builds the rest, rustup's nightly, the distribution's.
    ///
    /// Only a nightly may build `core`; `RUSTC_BOOTSTRAP` allows it to the others, so that one compiler does for all.
    pub(crate) fn find() -> Option<Self> {
        let bootstrap = || ("RUSTC_BOOTSTRAP", OsString::from("1"));
        let system = Path::new("/usr/bin/cargo");
        let candidates = [
            ("rustc", vec!["rustc"], vec!["cargo"], vec![bootstrap()]),
            (
                "rustup's nightly",
                vec!["rustup", "run", "nightly", "rustc"],
                vec!["rustup", "run", "nightly", "cargo"],
                vec![],
            ),
            (
                "the distribution's rustc",
                vec!["/usr/bin/rustc"],
                vec![if system.exists() { "/usr/bin/cargo" } else { "cargo" }],
                vec![("RUSTC", OsString::from("/usr/bin/rustc")), bootstrap()],
            ),
        ];
        candidates.into_iter().find_map(|(name, rustc, cargo, environment)| {
            let llvm = llvm_with_sources(&rustc)?;
            Some(Self { name, cargo, environment, llvm })
        })
    }

    /// Its cargo, in an environment of its own.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(self.cargo[0]);
        clear(&mut command);
        command.args(&self.cargo[1..]).env("PATH", search_path()).envs(self.environment.iter().cloned());
        command
    }
}

/// The major version of the compiler's LLVM, if it runs and has the library's sources.
fn llvm_with_sources(rustc: &[&str]) -> Option<u32> {
    let print = |what: &[&str]| {
        let mut command = Command::new(rustc[0]);
        clear(&mut command);
        let output = command.args(&rustc[1..]).args(what).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = print(&["--print", "sysroot"])?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").exists() {
        return None;
    }
    let version = print(&["-vV"])?;
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// Whether `bpf-linker` is on [`search_path`].
pub(crate) fn has_linker() -> bool {
    env::split_paths(&search_path()).any(|directory| directory.join("bpf-linker").exists())
}

/// cargo's own bin directory, which may not be on PATH.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    home.map(|home| home.join("bin"))
}

/// PATH, and where cargo installs the linker.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(cargo_bin());
    env::join_paths(directories).unwrap_or(path)
}

/// Takes away what an outer cargo says about its own build: compiler, wrappers (clippy's!), flags, target directory.
fn clear(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = ["CARGO_HOME", "RUSTUP_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];
        let outer = text.starts_with("CARGO") || text.starts_with("RUST") || text.starts_with("CLIPPY");
        if outer && !keep.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}
