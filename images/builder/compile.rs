//! Single-file Rust programs as static executables.

use std::path::Path;
use std::process::Command;

use super::Toolchain;

/// Compiles `source`. With `no_std` the program brings its own entry point and needs no libc at all.
pub(super) fn program(source: &Path, no_std: bool, toolchain: &Toolchain) -> Result<Vec<u8>, String> {
    let name = source.file_stem().and_then(|stem| stem.to_str()).ok_or("a source has a name")?.replace('-', "_");
    let out = toolchain.work_dir.join(&name);
    let mut command = Command::new(&toolchain.rustc);
    command
        .arg(source)
        .args(["--edition", "2024", "--crate-type", "bin", "--crate-name", &name, "--target", &toolchain.target])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        // No path of this machine gets into the image.
        .arg(format!("--remap-path-prefix={}=.", source.parent().unwrap_or(Path::new("")).display()))
        .arg("-o")
        .arg(&out)
        // Flags meant for the workspace (another linker, instrumentation) are not for these.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    if no_std {
        command.args(["-C", "relocation-model=static", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"]);
        command.args(["-C", "link-arg=-static", "-C", "link-arg=-Wl,--build-id=none", "-C", "link-arg=-Wl,-n"]);
    } else {
        command.args(["-C", "target-feature=+crt-static", "-C", "link-arg=-Wl,--build-id=none"]);
    }
    // What cargo tells a build script where the target has a linker of its own: cross-compiling.
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let output = command.output().map_err(|error| format!("run {}: {error}", toolchain.rustc.display()))?;
    if !output.status.success() {
        return Err(format!("compile {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)));
    }
    super::read(&out)
}
