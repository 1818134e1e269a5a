//! `keelson completion`: completion scripts for shells.

use crate::cli::{self, CompletionArgs};

/// Prints the script for the shell.
#[expect(clippy::unnecessary_wraps, reason = "every command has this shape")]
pub(crate) fn run(args: &CompletionArgs) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, &mut cli::command(), "keelson", &mut std::io::stdout());
    Ok(())
}
