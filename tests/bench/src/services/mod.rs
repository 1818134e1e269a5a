//! `bench services`: what Services cost a node: a connect() through one of few and of many, taking all of them in at start,
//! and one change among them.

pub(crate) mod probe;

use crate::client::Target;
use crate::kubeconfig::Kubeconfig;
use crate::requests::{Request, Workers};
use crate::table::{Table, digits};
use crate::{netns, usage};
use anyhow::Context;
use cluster_tests::{Cluster, ClusterOptions};
use http::Method;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::ops::Range;

/// Connections that create Services.
const WORKERS: usize = 8;
/// Where the backends are: the far end of the node's link.
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// Another one, to change to.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 3);
/// Discard.
const PORT: u16 = 9;
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// What `bench services` can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Numbers of Services, in ascending order
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    counts: Vec<usize>,
    /// Calls of connect() that are measured
    #[arg(long, default_value_t = 200_000)]
    connects: u32,
    /// Changes of one Service's backend, one after the other
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

/// Measures and prints.
///
/// # Errors
/// What failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let head = [
        "Services",
        "connect direct µs",
        "through one µs",
        "ratio",
        "CPU ms a Service made",
        "dns",
        "CPU ms a change",
        "dns",
        "start: CPU s",
        "RssAnon MB",
        "dns",
    ];
    let (mut table, mut made) = (Table::new(&head), 0);
    for &count in &options.counts {
        let mut row = vec![count.to_string()];
        let grown = grow(&cluster, made..count)?;
        let (direct, through) = (
            probe::measure(&cluster, BACKEND, options.connects)?,
            probe::measure(&cluster, grown.last, options.connects)?,
        );
        row.extend([digits(direct), digits(through), digits(through / direct)]);
        row.extend(grown.cpu.map(|cpu| digits(cpu / (count - made).max(1) as f64)));
        let changed = change(&cluster, count - 1, grown.last, options.changes)?;
        row.extend(changed.map(|cpu| digits(cpu / options.changes.max(1) as f64)));
        cluster.stop_server()?;
        cluster.start_server()?;
        cluster.wait_ready()?;
        probe::wait(&cluster, grown.last, BACKEND)?;
        let [server, dns] = processes(&cluster)?;
        row.push(digits(usage::cpu(server)?.as_secs_f64()));
        row.extend([digits(usage::rss_anon(server)?), digits(usage::rss_anon(dns)?)]);
        table.row(row);
        eprintln!("{table}");
        made = count;
    }
    println!("{table}");
    Ok(())
}

/// The server and the cluster's DNS.
fn processes(cluster: &Cluster) -> anyhow::Result<[u32; 2]> {
    let dns = usage::find(&["dns", &format!("{}/", cluster.data_dir().display())]);
    Ok([cluster.server_pid().context("the server runs")?, dns.context("cluster DNS runs")?])
}

/// Milliseconds of CPU that both use meanwhile.
fn cpu_of(cluster: &Cluster, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<[f64; 2]> {
    let both = processes(cluster)?;
    let used = || anyhow::Ok([usage::cpu(both[0])?, usage::cpu(both[1])?]);
    let before = used()?;
    work()?;
    let after = used()?;
    Ok([0, 1].map(|at| (after[at] - before[at]).as_secs_f64() * 1e3))
}

struct Grown {
    /// The address of the last Service.
    last: Ipv4Addr,
    cpu: [f64; 2],
}

/// Makes Services and waits until the last is translated.
fn grow(cluster: &Cluster, numbers: Range<usize>) -> anyhow::Result<Grown> {
    let last = numbers.end - 1;
    let mut address = Ipv4Addr::UNSPECIFIED;
    let cpu = cpu_of(cluster, || {
        address = inside(cluster, async |target| {
            let requests = numbers.clone().flat_map(|number| [service(number), slice(number)]);
            Workers::open(&target, WORKERS).await?.each(requests).await?;
            let service = format!("/api/v1/namespaces/default/services/{}", name(last));
            let service: Value = serde_json::from_slice(&target.connect().await?.get(&service).await?)?;
            Ok(service["spec"]["clusterIP"].as_str().context("no address")?.parse()?)
        })?;
        probe::wait(cluster, address, BACKEND)
    })?;
    Ok(Grown { last: address, cpu })
}

/// Changes a Service's backend to and fro, and waits each time until that is in effect.
fn change(cluster: &Cluster, number: usize, address: Ipv4Addr, times: usize) -> anyhow::Result<[f64; 2]> {
    let path = format!("{SLICES}/{}", name(number));
    cpu_of(cluster, || {
        inside(cluster, async |target| {
            let mut worker = Workers::open(&target, 1).await?;
            for time in 0..times {
                let backend = if time % 2 == 0 { OTHER } else { BACKEND };
                let changed = json!({"endpoints": [{"addresses": [backend]}]});
                worker.each([Request::new(Method::PATCH, &*path, "application/merge-patch+json", &changed)]).await?;
                probe::wait(cluster, address, backend)?;
            }
            Ok(())
        })
    })
}

/// Runs a client in the node's network.
fn inside<T: Send>(
    cluster: &Cluster,
    client: impl AsyncFnOnce(Target) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    netns::inside(&cluster.node().path(), || {
        let target = Target::new(Kubeconfig::read(&cluster.data_dir().join("kubeconfig"))?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(client(target))
    })
}

fn name(number: usize) -> String {
    format!("s-{number:05}")
}

fn service(number: usize) -> Request {
    let ports = json!([{"protocol": "UDP", "port": PORT}]);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)}, "spec": {"ports": ports}});
    Request::post("/api/v1/namespaces/default/services", &service)
}

fn slice(number: usize) -> Request {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name(number), "labels": {"kubernetes.io/service-name": name(number)}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "UDP", "port": PORT}],
        "endpoints": [{"addresses": [BACKEND]}],
    });
    Request::post(SLICES, &slice)
}
