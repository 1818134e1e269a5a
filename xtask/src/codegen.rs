//! `cargo xtask codegen`: runs the generator, a workspace of its own so that what it needs is no user's affair.

use crate::{setup, sh};

/// Regenerates, or checks that nothing would change.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    setup::for_codegen()?;
    let manifest = sh::root().join("xtask/codegen/Cargo.toml");
    let target = sh::target_dir()?.join("codegen");
    let mut cargo = sh::cargo(&["run", "--quiet", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(target).arg("--").arg("all");
    if check {
        cargo.arg("--check");
    }
    sh::run(&mut cargo)
}
