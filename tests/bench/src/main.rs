//! What Keelson costs, measured on real clusters: `cargo xtask bench start` and `cargo xtask bench api`.
//!
//! Client and server share the machine, so the client is kept lean: no typed objects, no JSON parsing where a search for
//! a few bytes will do. It speaks HTTP/2 over TLS with the administrator's client certificate, as client-go does.

mod api;
mod client;
mod kubeconfig;
mod lines;
mod netns;
mod start;
mod table;
mod usage;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "What Keelson costs")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Time to a ready API server, node and first pod; idle memory and CPU
    Start(start::Options),
    /// Throughput, latency and CPU of the API server alone
    Api(api::Options),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    if let Some(reason) = cluster_tests::missing() {
        anyhow::bail!("a cluster cannot be founded here: {reason}");
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a crypto provider is installed already"))?;
    cluster_tests::sweep()?;
    match command {
        Command::Start(options) => start::run(options),
        Command::Api(options) => api::run(options),
    }
}
