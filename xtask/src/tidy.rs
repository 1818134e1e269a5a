//! What neither rustfmt nor clippy sees: module docs, inherited lints, long files.

use crate::sh;

/// Longer files are a sign that something in them deserves its own name.
const LONG_FILE: usize = 700;

/// Checks the tree; each violation is one line.
pub(crate) fn check() -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in &sh::files()? {
        let path = sh::root().join(file);
        if file.ends_with(".rs") && !generated(file) {
            let text = std::fs::read_to_string(&path)?;
            problems.extend(source(file, &text));
        } else if file.ends_with("Cargo.toml") && file != "Cargo.toml" && !apart(file) {
            let text = std::fs::read_to_string(&path)?;
            if !text.contains("[lints]\nworkspace = true") {
                problems.push(format!("{file}: does not inherit the workspace's lints"));
            }
        }
    }
    Ok(problems)
}

fn source(file: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.lines().any(|line| line.starts_with("//!")) {
        problems.push(format!("{file}: has no module documentation (//!)"));
    }
    let lines = text.lines().count();
    if lines > LONG_FILE {
        problems.push(format!("{file}: {lines} lines; what does it hide that deserves its own name?"));
    }
    problems
}

fn generated(file: &str) -> bool {
    file.contains("/generated/")
}

/// Workspaces of their own.
fn apart(file: &str) -> bool {
    file.starts_with("ebpf/programs/") || file.starts_with("xtask/codegen/") || file.starts_with("images/")
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn what_is_found() {
        assert!(source("a.rs", "//! Something.\nfn a() {}\n").is_empty());
        assert_eq!(source("a.rs", "fn a() {}\n"), ["a.rs: has no module documentation (//!)"]);
        assert_eq!(source("a.rs", &("//! x\n".to_owned() + &"\n".repeat(700))).len(), 1);
    }
}
