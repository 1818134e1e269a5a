//! Reads recipes.

use std::path::Path;

/// One thing in the image's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Rust { source: String, path: String, no_std: bool },
    Host { path: String, package: String, files: Vec<String> },
    File { source: String, path: String, mode: u32 },
    Dir { path: String, mode: u32 },
    Link { path: String, target: String },
}

/// A recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) contents: Vec<Content>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) workdir: String,
    pub(crate) ports: Vec<String>,
}

impl Recipe {
    /// Reads `dir/recipe`.
    pub(crate) fn load(dir: &Path) -> Result<Recipe, String> {
        let path = dir.join("recipe");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
        Recipe::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Recipe, String> {
        let mut recipe = Recipe::default();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first().is_some_and(|word| !word.starts_with('#')) {
                recipe.apply(&words).map_err(|error| format!("line {}: {error}", number + 1))?;
            }
        }
        if recipe.name.is_empty() {
            return Err("no `name`".into());
        }
        Ok(recipe)
    }

    fn apply(&mut self, words: &[&str]) -> Result<(), String> {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match *words {
            ["name", name] => self.name = name.into(),
            ["rust", source, path] => self.contents.push(rust(source, path, false)),
            ["rust", source, path, "nostd"] => self.contents.push(rust(source, path, true)),
            ["host", path, package, ref files @ ..] if !files.is_empty() => {
                self.contents.push(Content::Host { path: path.into(), package: package.into(), files: own(files) });
            }
            ["file", source, path, mode] => {
                self.contents.push(Content::File { source: source.into(), path: path.into(), mode: octal(mode)? });
            }
            ["dir", path, mode] => self.contents.push(Content::Dir { path: path.into(), mode: octal(mode)? }),
            ["link", path, target] => self.contents.push(Content::Link { path: path.into(), target: target.into() }),
            ["links", dir, target, ref names @ ..] => self.contents.extend(
                names.iter().map(|name| Content::Link { path: format!("{dir}/{name}"), target: target.into() }),
            ),
            ["entrypoint", ref words @ ..] => self.entrypoint = own(words),
            ["cmd", ref words @ ..] => self.cmd = own(words),
            ["env", variable] => self.env.push(variable.into()),
            ["user", user] => self.user = user.into(),
            ["workdir", path] => self.workdir = path.into(),
            ["port", port] => self.ports.push(port.into()),
            _ => return Err(format!("{:?} is no instruction, or not with these words", words.join(" "))),
        }
        Ok(())
    }
}

fn rust(source: &str, path: &str, no_std: bool) -> Content {
    Content::Rust { source: source.into(), path: path.into(), no_std }
}

fn octal(mode: &str) -> Result<u32, String> {
    u32::from_str_radix(mode, 8).map_err(|_| format!("{mode:?} is no mode"))
}
