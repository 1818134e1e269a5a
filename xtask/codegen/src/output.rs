//! Writing files, or telling what would change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where generated files go.
pub struct Output {
    check: bool,
    drift: Vec<String>,
}

impl Output {
    /// With `check`, nothing is written.
    pub fn new(check: bool) -> Self {
        Self { check, drift: Vec::new() }
    }

    /// Writes one file.
    pub fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        if self.check {
            let old = std::fs::read_to_string(path).unwrap_or_default();
            self.compare(path, &old, text);
            return Ok(());
        }
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Writes one file that is no text.
    pub fn bytes(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        if self.check {
            if std::fs::read(path).unwrap_or_default() != bytes {
                self.drift.push(format!("{} would be {} bytes of another content", path.display(), bytes.len()));
            }
            return Ok(());
        }
        std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// Runs a generator that writes into a directory by itself.
    pub fn around(&mut self, dir: &Path, generate: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.check {
            return generate();
        }
        let before = files(dir)?;
        let result = generate();
        let after = files(dir)?;
        for (path, text) in &before {
            std::fs::write(path, text).with_context(|| format!("restore {}", path.display()))?;
        }
        result?;
        for (path, text) in &after {
            if !before.contains_key(path) {
                std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
            }
            self.compare(path, before.get(path).map_or("", String::as_str), text);
        }
        Ok(())
    }

    /// Whether nothing would change; says what would.
    pub fn finish(&self) -> bool {
        for line in &self.drift {
            println!("{line}");
        }
        if !self.drift.is_empty() {
            println!("generated files are stale: run `cargo xtask codegen` and commit the result");
        }
        self.drift.is_empty()
    }

    fn compare(&mut self, path: &Path, old: &str, new: &str) {
        if old == new {
            return;
        }
        let first = old.lines().zip(new.lines()).position(|(a, b)| a != b);
        let line = first.unwrap_or_else(|| old.lines().count().min(new.lines().count()));
        let cut = |text: &str| text.lines().nth(line).unwrap_or("<end of file>").chars().take(160).collect::<String>();
        self.drift.push(format!("{}:{}\n-{}\n+{}", path.display(), line + 1, cut(old), cut(new)));
    }
}

/// Every file below a directory, with its text.
pub fn files(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                found.insert(path, text);
            }
        }
    }
    Ok(found)
}
