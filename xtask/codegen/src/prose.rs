//! `prose.txt.gz`: what each type and field is for, in upstream's words, for `kubectl explain`.
//!
//! The words are in the JSON schemas that k8s-openapi carries as source text. Building it with those schemas, let alone linking it,
//! would cost minutes and megabytes; so its source is found by `cargo metadata` and read. Its generator lays a schema out the
//! same way everywhere: an object's description is 12 columns in, a property's name 16, its description 20.
//!
//! A line a type, sorted: name, description, then `field=description` each, between tabs; `\n`, `\t` and `\\` stand for themselves.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::output::{self, Output};

/// The Kubernetes version's folder in k8s-openapi.
const VERSION: &str = "v1_36";

#[derive(Default)]
struct Prose {
    description: String,
    fields: BTreeMap<String, String>,
}

/// Reads k8s-openapi's source, writes the compressed file.
pub fn run(manifest: &Path, target: &Path, output: &mut Output) -> Result<()> {
    let mut types = BTreeMap::new();
    for (path, text) in output::files(&source(manifest)?.join("src").join(VERSION))? {
        read(&text, &mut types).with_context(|| format!("in {}", path.display()))?;
    }
    if types.len() < 500 {
        bail!("k8s-openapi has {} schemas only; is it laid out in another way?", types.len());
    }
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(text(&types).as_bytes())?;
    output.bytes(&target.join("prose.txt.gz"), &packed.finish()?)
}

/// Where cargo keeps k8s-openapi's source.
fn source(manifest: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--features=prose-source", "--manifest-path"]).arg(manifest);
    let found = command.output().with_context(|| format!("run {command:?}"))?;
    if !found.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&found.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&found.stdout).context("parse cargo's metadata")?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["name"] == "k8s-openapi").context("cargo knows no k8s-openapi")?;
    let manifest = package["manifest_path"].as_str().context("a package has a manifest")?;
    Ok(Path::new(manifest).parent().context("a manifest is in a folder")?.to_owned())
}

fn read(text: &str, types: &mut BTreeMap<String, Prose>) -> Result<()> {
    let mut current: Option<(String, Prose)> = None;
    let (mut named, mut field) = (false, String::new());
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.starts_with("fn schema_name()") {
            types.extend(current.take());
            named = true;
        } else if named {
            let name = line.trim_start_matches('"').trim_end_matches("\".into()");
            current = Some((name.to_owned(), Prose::default()));
            named = false;
        } else if let Some((_, prose)) = &mut current {
            let said = || {
                let plain = line.strip_prefix("\"description\": ").map(|text| text.trim_end_matches(','));
                let referring = line.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), ");
                plain.or_else(|| referring?.strip_suffix(".into());"))
            };
            match indent {
                12 => {
                    if let Some(said) = said() {
                        prose.description = unquote(said)?;
                    }
                }
                16 => {
                    if let Some((name, "{" | "({")) = line.split_once(": ") {
                        field = unquote(name)?;
                    }
                }
                20 => {
                    if let Some(said) = said() {
                        prose.fields.insert(field.clone(), unquote(said)?);
                    }
                }
                _ => {}
            }
        }
    }
    types.extend(current);
    Ok(())
}

/// A Rust string literal's text. What the generator escapes, JSON escapes the same way, but for the apostrophe.
fn unquote(literal: &str) -> Result<String> {
    serde_json::from_str(&literal.replace("\\'", "'")).with_context(|| format!("read the literal {literal}"))
}

fn text(types: &BTreeMap<String, Prose>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
    let mut all = String::new();
    for (name, Prose { description, fields }) in types {
        all.push_str(&format!("{name}\t{}", escaped(description)));
        for (field, said) in fields {
            all.push_str(&format!("\t{field}={}", escaped(said)));
        }
        all.push('\n');
    }
    all
}
