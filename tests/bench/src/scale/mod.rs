//! `bench scale`: what a large cluster costs its server: many nodes that only renew their Leases, many pods that a Deployment
//! makes, and a Service with many endpoints. What kubelets would say is said by this program.

mod follow;
mod objects;

use crate::client::Target;
use crate::kubeconfig::Kubeconfig;
use crate::requests::Workers;
use crate::table::{Table, digits};
use crate::{alone, netns, pause, usage};
use anyhow::{Context, ensure};
use cluster_tests::Cluster;
use follow::Follower;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Connections that kubelets' requests take.
const WORKERS: usize = 16;
/// How long the server's CPU is counted while only Leases are renewed.
const QUIET: Duration = Duration::from_secs(20);
/// After a start, until nothing is left to be done.
const SETTLE: Duration = Duration::from_secs(10);
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices?watch=true";
const ENDPOINTS: &str = "/api/v1/namespaces/bench/endpoints?watch=true";

/// What `bench scale` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Nodes
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Pods, those behind the Service not counted
    #[arg(long, default_value_t = 5000)]
    pods: usize,
    /// Pods behind one Service
    #[arg(long, default_value_t = 1500)]
    endpoints: usize,
    /// Changes of one of those pods, one after the other
    #[arg(long, default_value_t = 20)]
    changes: usize,
    /// ConfigMaps of 1 KB that are there, too, when the server is started again
    #[arg(long, default_value_t = 0)]
    others: usize,
    /// Print the server's process id before the load begins, and wait for Enter
    #[arg(long)]
    wait: bool,
}

/// One run.
struct Run<'a> {
    options: &'a Options,
    server: u32,
    target: Target,
    workers: Workers,
    table: Table,
}

/// Measures and prints.
///
/// # Errors
/// What failed, or did not happen in time.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let (mut cluster, server) = alone(&["--cluster-cidr", "10.128.0.0/9"], options.wait)?;
    let head = ["what", "count", "wall s", "CPU s", "CPU ms each", "RssAnon MB"];
    let table = netns::inside(&cluster.node().path(), || {
        let target = Target::new(Kubeconfig::read(&cluster.data_dir().join("kubeconfig"))?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let workers = Workers::open(&target, WORKERS).await?;
            let mut run = Run { options, server, target, workers, table: Table::new(&head) };
            run.load().await?;
            Ok(run.table)
        })
    })?;
    let table = start_again(&mut cluster, options, table)?;
    println!("{table}");
    Ok(())
}

fn start_again(cluster: &mut Cluster, options: &Options, mut table: Table) -> anyhow::Result<Table> {
    cluster.stop_server()?;
    let begun = Instant::now();
    cluster.start_server()?;
    let (server, ready) = (cluster.server_pid().context("the server runs")?, begun.elapsed());
    let count = options.pods + options.endpoints + options.nodes + options.others;
    row(&mut table, "start: until READY", count, ready, usage::cpu(server)?, usage::rss_anon(server)?);
    pause(SETTLE)?;
    row(&mut table, "start: settled", count, begun.elapsed(), usage::cpu(server)?, usage::rss_anon(server)?);
    Ok(table)
}

fn row(table: &mut Table, what: &str, count: usize, wall: Duration, cpu: Duration, memory: f64) {
    let (wall, cpu) = (wall.as_secs_f64(), cpu.as_secs_f64());
    let each = cpu * 1e3 / count.max(1) as f64;
    table.row(vec![what.into(), count.to_string(), digits(wall), digits(cpu), digits(each), digits(memory)]);
}

impl Run<'_> {
    async fn load(&mut self) -> anyhow::Result<()> {
        self.workers.each(objects::namespace()).await?;
        let mut pods = Follower::start(&self.target, objects::PODS).await?;
        let (mark, nodes) = (self.mark()?, self.options.nodes);
        let mut known = Follower::start(&self.target, "/api/v1/nodes?watch=true").await?;
        self.workers.each((0..nodes).flat_map(objects::node)).await?;
        known.until("nodes", nodes, objects::node_is_usable).await?;
        self.done("node registered", nodes, mark)?;
        let leases = objects::renew(&self.target, nodes).await?;

        let (mark, count) = (self.mark()?, self.options.pods);
        self.workers.each([objects::deployment("plain", count)]).await?;
        let names = pods.until("plain pods", count, |pod| objects::is_bound("plain", pod)).await?;
        self.done("pod made and bound", count, mark)?;
        let mark = self.mark()?;
        self.run_pods("plain", 0..count, &names).await?;
        self.done("pod made Ready", count, mark)?;
        self.service(&mut pods).await?;

        let (mark, begun) = (self.mark()?, Instant::now());
        tokio::time::sleep(QUIET).await;
        let renewals = (nodes as f64 * begun.elapsed().as_secs_f64() / objects::RENEWAL.as_secs_f64()) as usize;
        self.done("quiet: Lease renewed", renewals, mark)?;
        self.delete("plain", count).await?;
        drop(leases);
        self.others().await
    }

    /// Pods that come, change and are seen behind a Service.
    async fn service(&mut self, pods: &mut Follower) -> anyhow::Result<()> {
        let (behind, first) = (self.options.endpoints, self.options.pods);
        let mark = self.mark()?;
        self.workers.each([objects::service("behind"), objects::deployment("behind", behind)]).await?;
        let names = pods.until("pods behind", behind, |pod| objects::is_bound("behind", pod)).await?;
        self.done("pod behind a Service made and bound", behind, mark)?;
        let mut slices = Follower::start(&self.target, SLICES).await?;
        let mut endpoints = Follower::start(&self.target, ENDPOINTS).await?;
        let mark = self.mark()?;
        let served = async {
            slices.sum("ready endpoints", behind, objects::ready_endpoints).await?;
            endpoints.sum("ready addresses", behind.min(1000), objects::ready_addresses).await
        };
        tokio::try_join!(self.run_pods("behind", first..first + behind, &names), served)?;
        self.done("pod behind a Service made Ready", behind, mark)?;
        let (mark, written) = (self.mark()?, slices.seen() + endpoints.seen());
        self.note("slices and Endpoints written meanwhile", written);
        for change in 0..self.options.changes {
            let (ready, want) = if change % 2 == 0 { (false, behind - 1) } else { (true, behind) };
            self.workers.each([objects::status(&names[0], first, ready)]).await?;
            slices.sum("ready endpoints", want, objects::ready_endpoints).await?;
        }
        self.done("change of one of the pods", self.options.changes, mark)?;
        self.note("slices written for those", slices.seen() + endpoints.seen() - written);
        Ok(())
    }

    /// Says what kubelets would say of pods that run, and waits until the Deployment has heard.
    async fn run_pods(&mut self, app: &str, numbers: Range<usize>, names: &[String]) -> anyhow::Result<()> {
        let count = names.len();
        let mut deployments = Follower::start(&self.target, objects::DEPLOYMENTS).await?;
        self.workers.each(numbers.zip(names).map(|(number, name)| objects::status(name, number, true))).await?;
        deployments.until("available Deployment", 1, |one| objects::is_available(app, count, one)).await.map(drop)
    }

    async fn delete(&mut self, app: &str, count: usize) -> anyhow::Result<()> {
        let mut pods = Follower::start(&self.target, objects::PODS).await?;
        let mark = self.mark()?;
        self.workers.each([objects::delete_deployment(app)]).await?;
        let names = pods.until("pods being deleted", count, |pod| objects::is_deleting(app, pod)).await?;
        self.workers.each(names.iter().map(|name| objects::delete_pod(name))).await?;
        pods.until_gone(app).await?;
        self.done("pod deleted with its Deployment", count, mark)
    }

    async fn others(&mut self) -> anyhow::Result<()> {
        let (mark, count) = (self.mark()?, self.options.others);
        self.workers.each((0..count).map(objects::config_map)).await?;
        if count > 0 {
            self.done("ConfigMap created", count, mark)?;
        }
        Ok(())
    }

    fn mark(&self) -> anyhow::Result<(Duration, Instant)> {
        Ok((usage::cpu(self.server)?, Instant::now()))
    }

    fn done(&mut self, what: &str, count: usize, (cpu, begun): (Duration, Instant)) -> anyhow::Result<()> {
        let (used, memory) = (usage::cpu(self.server)? - cpu, usage::rss_anon(self.server)?);
        ensure!(!used.is_zero() || count < 10, "{what}: the server did nothing");
        eprintln!("{what}: {count}, {used:?}");
        row(&mut self.table, what, count, begun.elapsed(), used, memory);
        Ok(())
    }

    fn note(&mut self, what: &str, count: usize) {
        let mut cells = vec![what.to_owned(), count.to_string()];
        cells.extend(["", "", "", ""].map(str::to_owned));
        self.table.row(cells);
    }
}
