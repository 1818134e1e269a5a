//! `bench api`: the API server alone, with its store on disk, under the load of many clients.

mod load;
mod pods;
mod report;
mod watchers;

use crate::client::Target;
use crate::kubeconfig::Kubeconfig;
use crate::{alone, netns, usage};
use anyhow::ensure;
use load::{Load, Operation};
use pods::Pods;
use report::Report;
use std::sync::Arc;
use std::time::{Duration, Instant};
use watchers::Watchers;

/// How often everything is listed.
const LISTS: usize = 20;
/// How long nothing is asked until memory is looked at once more.
const QUIET: Duration = Duration::from_secs(15);

/// What `bench api` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Pods to create
    #[arg(long, default_value_t = 5000)]
    objects: usize,
    /// Clients that create, read, change and delete, each with a connection of its own
    #[arg(long, default_value_t = 32)]
    workers: usize,
    /// Clients that watch all pods, each with a connection of its own
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Print the server's process id before the load begins, and wait for Enter
    #[arg(long)]
    wait: bool,
}

/// Measures and prints.
///
/// # Errors
/// What failed, or what the server lost or repeated.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.objects > 0 && options.workers > 0, "there must be at least one object and one worker");
    let (cluster, server) = alone(&["--disable", "scheduler,controllers"], options.wait)?;
    let kubeconfig = Kubeconfig::read(&cluster.data_dir().join("kubeconfig"))?;
    let target = Target::new(kubeconfig);
    let report = netns::inside(&cluster.node().path(), || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(measure(options, target, server))
    })?;
    println!("{report}");
    Ok(())
}

async fn measure(options: &Options, target: Target, server: u32) -> anyhow::Result<Report> {
    let pods = Arc::new(Pods::new(options.objects));
    let mut report = Report::new(options.objects, options.watchers);
    report.memory("started", usage::rss_anon(server)?);
    let mut load = Load::open(&target, server, pods.clone(), options.workers).await?;
    load.prepare().await?;
    let plain = load.run(Operation::Create).await?;
    report.phase("create", &plain);
    report.memory("all pods created", usage::rss_anon(server)?);
    report.phase("get", &load.run(Operation::Get).await?);
    let (lists, bytes) = load.list(LISTS).await?;
    report.phase(report::LIST, &lists);
    report.list_bytes(bytes);
    report.phase("update (get, put)", &load.run(Operation::Put).await?);
    report.phase("update (get, patch)", &load.run(Operation::Patch).await?);
    report.phase("delete", &load.run(Operation::Delete).await?);
    pods.forget();
    report.memory("all deleted", usage::rss_anon(server)?);
    let watchers = Watchers::start(&target, &pods, options.watchers).await?;
    report.memory("watchers connected", usage::rss_anon(server)?);
    let (before, begun) = (usage::cpu(server)?, Instant::now());
    let watched = load.run(Operation::Create).await?;
    let deliveries = watchers.finish().await?;
    let cpu = usage::cpu(server)? - before;
    report.phase("create, watched", &watched);
    report.watch(&deliveries, begun.elapsed(), cpu.saturating_sub(plain.cpu));
    load.verify().await?;
    report.memory("created again, watched", usage::rss_anon(server)?);
    tokio::time::sleep(QUIET).await;
    report.memory(&format!("{} s later", QUIET.as_secs()), usage::rss_anon(server)?);
    Ok(report)
}
