//! Builds container images from recipes into OCI archives, byte for byte the same each time, with no registry and no crates:
//! `cri/build.rs` includes this for the embedded pause image, `cargo xtask image` for the others.
//!
//! A recipe is `images/NAME/recipe`, one instruction a line:
//!
//! ```text
//! name REFERENCE                    what the image is called
//! rust SOURCE PATH [nostd]          compile a single-file Rust program to a static executable
//! host PATH PACKAGE FILE…           copy the first FILE of this machine that exists (PACKAGE has it, for the error)
//! file SOURCE PATH MODE             copy a file beside the recipe
//! dir PATH MODE                     an empty directory
//! link PATH TARGET                  a symbolic link
//! links DIR TARGET NAME…            many of them
//! entrypoint WORD… / cmd WORD… / env NAME=VALUE / user USER / workdir PATH / port N/PROTOCOL
//! ```

#![allow(dead_code, reason = "each of the two users needs a part of this")]

mod compile;
mod oci;
mod recipe;
mod sha256;
mod ustar;

use std::path::{Path, PathBuf};

pub(crate) use recipe::Recipe;

/// What compiles the programs in images.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// rustc.
    pub(crate) rustc: PathBuf,
    /// Target triple of the images' programs.
    pub(crate) target: String,
    /// A directory for intermediate files.
    pub(crate) work_dir: PathBuf,
}

/// The OCI archive of the recipe in `dir`, and the image's name.
pub(crate) fn build(dir: &Path, toolchain: &Toolchain) -> Result<(String, Vec<u8>), String> {
    let recipe = Recipe::load(dir)?;
    let layer = layer(dir, &recipe, toolchain)?;
    Ok((recipe.name.clone(), oci::archive(&recipe, &toolchain.target, layer)))
}

fn layer(dir: &Path, recipe: &Recipe, toolchain: &Toolchain) -> Result<Vec<u8>, String> {
    let mut tar = ustar::Tar::default();
    for content in &recipe.contents {
        match content {
            recipe::Content::Rust { source, path, no_std } => {
                tar.file(path, 0o755, compile::program(&dir.join(source), *no_std, toolchain)?);
            }
            recipe::Content::Host { path, package, files } => {
                let file = files.iter().find(|file| Path::new(file).is_file()).ok_or_else(|| {
                    format!("image {}: this machine has none of {}: install {package}", recipe.name, files.join(", "))
                })?;
                tar.file(path, 0o755, read(Path::new(file))?);
            }
            recipe::Content::File { source, path, mode } => tar.file(path, *mode, read(&dir.join(source))?),
            recipe::Content::Dir { path, mode } => tar.dir(path, *mode),
            recipe::Content::Link { path, target } => tar.link(path, target),
        }
    }
    Ok(tar.finish())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))
}
