//! `cargo xtask image`: OCI archives from the recipes in `images/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::setup;

#[path = "../../images/builder/mod.rs"]
mod builder;

/// Builds the images of these recipes (all of them if none is named) into `out_dir/NAME.tar`; answers the files.
pub(crate) fn build(names: &[String], out_dir: &Path) -> Result<Vec<PathBuf>> {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let known = recipes(&images)?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!("there is no image {unknown:?}, only {}", known.join(", "));
    }
    setup::for_images()?;
    let work_dir = out_dir.join(".work");
    std::fs::create_dir_all(&work_dir).with_context(|| format!("create {}", work_dir.display()))?;
    let toolchain = builder::Toolchain { rustc: rustc(), target: target()?, work_dir };
    let mut built = Vec::new();
    for name in if names.is_empty() { &known[..] } else { names } {
        let (reference, archive) = builder::build(&images.join(name), &toolchain).map_err(|error| anyhow!(error))?;
        let file = out_dir.join(format!("{name}.tar"));
        // An image that keelson is just importing must not change under it.
        let part = out_dir.join(format!(".{name}.part"));
        std::fs::write(&part, &archive).with_context(|| format!("write {}", part.display()))?;
        std::fs::rename(&part, &file).with_context(|| format!("write {}", file.display()))?;
        println!("{reference} {} ({} KiB)", file.display(), archive.len() / 1024);
        built.push(file);
    }
    std::fs::remove_dir_all(&toolchain.work_dir).context("remove the work directory")?;
    Ok(built)
}

/// The directories below `images/` that have a recipe.
fn recipes(images: &Path) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(images).with_context(|| format!("list {}", images.display()))? {
        let entry = entry?;
        if entry.path().join("recipe").is_file() {
            out.extend(entry.file_name().into_string());
        }
    }
    out.sort();
    Ok(out)
}

fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()).into()
}

/// musl where its target is installed: smaller, and static on every distribution. Else this machine's own.
fn target() -> Result<String> {
    let print = |what: &[&str]| -> Result<String> {
        let output = Command::new(rustc()).args(what).output().context("run rustc")?;
        Ok(String::from_utf8(output.stdout).context("rustc's output")?.trim().to_owned())
    };
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let library = PathBuf::from(print(&["--print", "sysroot"])?).join("lib/rustlib").join(&musl).join("lib");
    if library.is_dir() {
        return Ok(musl);
    }
    print(&["--print", "host-tuple"])
}
