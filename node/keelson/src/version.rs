//! `keelson version`.

use crate::cli::{Output, VersionArgs};
use std::sync::LazyLock;

/// The Kubernetes version whose API is served.
pub(crate) const KUBERNETES: &str = "v1.36.0";
/// Our own version.
pub(crate) const KEELSON: &str = env!("CARGO_PKG_VERSION");

/// The version as the API server and the node report it, `v1.36.0+keelson0.1.0`.
pub(crate) fn full() -> String {
    format!("{KUBERNETES}+keelson{KEELSON}")
}

/// The version in words, behind the program's name.
pub(crate) static LINE: LazyLock<String> = LazyLock::new(|| format!("{KEELSON} (Kubernetes {KUBERNETES})"));

/// Prints the version.
#[expect(clippy::unnecessary_wraps, reason = "every command has this shape")]
pub(crate) fn run(args: &VersionArgs) -> anyhow::Result<()> {
    match args.output {
        Output::Table => println!("keelson {}", *LINE),
        Output::Json => println!("{}", serde_json::json!({ "keelson": KEELSON, "kubernetes": KUBERNETES })),
    }
    Ok(())
}
