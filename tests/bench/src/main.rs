//! What Keelson costs, measured on real clusters: `cargo xtask bench start`, `api`, `scale` and `services`.
//!
//! Client and server share the machine, so the client is kept lean: no typed objects, no JSON parsing where a search for
//! a few bytes will do. It speaks HTTP/2 over TLS with the administrator's client certificate, as client-go does.

mod api;
mod client;
mod kubeconfig;
mod lines;
mod netns;
mod requests;
mod scale;
mod services;
mod start;
mod table;
mod usage;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cluster_tests::{Cluster, ClusterOptions};
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
    /// CPU and memory of the server of a large cluster
    Scale(scale::Options),
    /// What Services cost a node: connect(), start, change
    Services(services::Options),
    /// Part of `services`, run as a process of the node
    #[command(hide = true)]
    Probe(services::probe::Options),
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
    if let Command::Probe(options) = command {
        return services::probe::run(options);
    }
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
        Command::Scale(options) => scale::run(options),
        Command::Services(options) => services::run(options),
        Command::Probe(_) => unreachable!("done before"),
    }
}

/// Lets time pass: that nothing happens is what is measured, so that there is nothing to wait for.
fn pause(duration: std::time::Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { tokio::time::sleep(duration).await });
    Ok(())
}

/// A control plane without a node, and its process id; waits for Enter where that is to be profiled.
///
/// # Errors
/// It does not start.
pub(crate) fn alone(flags: &[&str], wait: bool) -> anyhow::Result<(Cluster, u32)> {
    let flags = ["--no-node"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    let mut cluster = Cluster::prepare(ClusterOptions { flags, ..ClusterOptions::default() })?;
    cluster.start_server()?;
    let server = cluster.server_pid().context("the server runs")?;
    if wait {
        eprintln!("the server is process {server}; Enter goes on");
        std::io::stdin().read_line(&mut String::new())?;
    }
    Ok((cluster, server))
}
