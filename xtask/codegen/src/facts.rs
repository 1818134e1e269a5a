//! The facts of the API in the compact form that `apimachinery` embeds.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::output::Output;
use crate::{resources, types};

/// Reads `types.json` and `resources.json`, writes `types.txt` and `resources.txt`.
pub fn run(source: &Path, target: &Path, output: &mut Output) -> Result<()> {
    let all = read(&source.join("types.json"))?;
    let types = types::Types::new(all.as_object().context("types.json is no object")?);
    output.file(&target.join("types.txt"), &types.text()?)?;
    let all = read(&source.join("resources.json"))?;
    let text = resources::text(all.as_array().context("resources.json is no list")?, &types)?;
    output.file(&target.join("resources.txt"), &text)
}

fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}
