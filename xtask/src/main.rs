//! `cargo xtask …`: every chore of this repository.

mod arrows;
mod bench;
mod build;
mod codegen;
mod image;
mod run;
mod setup;
mod sh;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Keelson's chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what building and testing need and this machine lacks
    Setup {
        /// Only what building needs
        #[arg(long)]
        build_only: bool,
    },
    /// Build the release binary, eBPF programs included
    Build {
        /// The quick profile instead
        #[arg(long)]
        dev: bool,
    },
    /// Build image archives from images/
    Image {
        /// Their names; all of them if none is given
        names: Vec<String>,
        /// Where the archives go
        #[arg(long, default_value = "target/images")]
        out: PathBuf,
    },
    /// Regenerate the committed generated files
    Codegen {
        /// Change nothing; fail if something would change
        #[arg(long)]
        check: bool,
    },
    /// Everything that must hold before a change lands
    Test {
        /// Only tests whose name contains this; no checks
        filter: Option<String>,
    },
    /// Measure: `start` (times to ready, idle cost) or `api` (throughput, latency, CPU); `--help` after them tells more
    Bench {
        /// What to measure, with its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// A throw-away cluster with a command in it: `cargo xtask run -- kubectl get nodes`
    Run {
        /// Image archives to import
        #[arg(long)]
        image: Vec<PathBuf>,
        /// The command; a shell if none is given
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Setup { build_only } => setup::run(build_only),
        Chore::Build { dev } => {
            build::keelson(if dev { build::Profile::Dev } else { build::Profile::Release }).map(|path| {
                println!("{}", path.display());
            })
        }
        Chore::Image { names, out } => image::build(&names, &out).map(drop),
        Chore::Codegen { check } => codegen::run(check),
        Chore::Test { filter } => test::run(filter.as_deref()),
        Chore::Bench { words } => bench::run(&words),
        Chore::Run { image, command } => run::run(image, &command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
