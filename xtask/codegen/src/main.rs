//! Writes the committed generated files. `--check` says what would change and fails.

mod cri;
mod facts;
mod output;
mod prose;
mod resources;
mod types;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use output::Output;

#[derive(Debug, Parser)]
#[command(name = "codegen", about = "Writes the committed generated files")]
struct Cli {
    /// What to generate
    #[arg(value_enum, default_value_t = Task::All)]
    task: Task,
    /// Write nothing; fail where a file would change
    #[arg(long)]
    check: bool,
    /// The checkout
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))]
    root: PathBuf,
    /// The facts of the Kubernetes API; beside the checkout unless given
    #[arg(long)]
    facts: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Everything
    All,
    /// control/apimachinery/src/facts
    Facts,
    /// The words for `kubectl explain`, in control/apimachinery/src/facts
    Prose,
    /// cri/src/generated
    Cri,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("codegen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing would change (or everything was written).
fn run(cli: &Cli) -> Result<bool> {
    let root = cli.root.canonicalize().with_context(|| format!("find the checkout {}", cli.root.display()))?;
    let mut output = Output::new(cli.check);
    let beside = root.join("../shared/kubernetes-api");
    // A clone alone has nothing to compare with; writing without a source stays an error.
    let unchecked = cli.check && !beside.exists();
    if unchecked {
        eprintln!("codegen: {} is not there: what is made of it is not checked", beside.display());
    }
    if matches!(cli.task, Task::All | Task::Facts) && (cli.facts.is_some() || !unchecked) {
        let source = cli.facts.clone().unwrap_or(beside);
        facts::run(&source, &root.join("control/apimachinery/src/facts"), &mut output)?;
    }
    if matches!(cli.task, Task::All | Task::Prose) {
        let manifest = root.join("xtask/codegen/Cargo.toml");
        prose::run(&manifest, &root.join("control/apimachinery/src/facts"), &mut output)?;
    }
    if matches!(cli.task, Task::All | Task::Cri) && !unchecked {
        // The generator of protobuf code writes in place; a check puts back what was there.
        output.around(&root.join("cri/src/generated"), || cri::run(&root))?;
    }
    Ok(output.finish())
}
