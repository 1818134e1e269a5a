//! `bench start`: how long until a cluster can be used, and what it costs when nobody does.

mod stages;

use crate::table::{Table, digits, spread};
use crate::{pause, usage};
use anyhow::Context;
use cluster_tests::{Cluster, ClusterOptions};
use stages::{Place, Stage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a cluster is left alone before its idling is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// How long its idling is measured.
const IDLE: Duration = Duration::from_secs(20);

/// What `bench start` can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often to do it all
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
}

/// The rows of the report, with how digits are to be read.
const ROWS: [(&str, &str); 12] = [
    ("cold: API ready", "s"),
    ("cold: node Ready", "s"),
    ("cold: default ServiceAccount", "s"),
    ("cold: first pod Running", "s"),
    ("warm: API ready", "s"),
    ("warm: node's Lease renewed", "s"),
    ("warm: server says READY", "s"),
    ("idle: keelson RssAnon", "MB"),
    ("idle: keelson CPU", "% of a core"),
    ("idle: keelson dns RssAnon", "MB"),
    ("idle: keelson dns CPU", "% of a core"),
    ("idle: containerd RssAnon", "MB"),
];

type Figures = BTreeMap<&'static str, Vec<f64>>;

/// Measures and prints.
///
/// # Errors
/// What failed, with the end of the server's log where that tells more.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut figures = Figures::new();
    for number in 1..=options.runs {
        eprintln!("run {number} of {}", options.runs);
        once(&mut figures)?;
    }
    let mut table = Table::new(&["start", "min", "median", "max", "unit"]);
    for (name, unit) in ROWS {
        let Some(values) = figures.get(name) else { continue };
        let [least, middle, most] = spread(values).map(digits);
        table.row(vec![name.to_owned(), least, middle, most, unit.to_owned()]);
    }
    println!("{table}");
    Ok(())
}

/// One cluster, from nothing to its removal.
fn once(figures: &mut Figures) -> anyhow::Result<()> {
    let mut add = |name, value| figures.entry(name).or_default().push(value);
    let images = cluster_tests::images();
    let mut cluster = Cluster::prepare(ClusterOptions { images, ..ClusterOptions::default() })?;
    let place = Place::of(&cluster);
    let (times, _) = beside_start(&mut cluster, |begun| stages::cold(&place, begun))?;
    add("cold: API ready", times[Stage::Api]);
    add("cold: node Ready", times[Stage::Node]);
    add("cold: default ServiceAccount", times[Stage::Account]);
    add("cold: first pod Running", times[Stage::Pod]);
    stages::delete_pod(&place)?;
    for (name, value) in idle(&cluster, &place)? {
        add(name, value);
    }
    cluster.stop_server()?;
    let (times, ready) = beside_start(&mut cluster, |begun| stages::warm(&place, begun))?;
    add("warm: API ready", times[Stage::Api]);
    add("warm: node's Lease renewed", times[Stage::Node]);
    add("warm: server says READY", ready);
    Ok(())
}

/// Starts the server, and beside it, from the same moment, the measurement. The second value is the time to READY.
fn beside_start<T: Send>(
    cluster: &mut Cluster,
    measure: impl FnOnce(Instant) -> anyhow::Result<T> + Send,
) -> anyhow::Result<(T, f64)> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let measurement = scope.spawn(move || measure(begun));
        cluster.start_server()?;
        let ready = begun.elapsed().as_secs_f64();
        let log = cluster.log_path();
        let times = measurement.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((times.with_context(|| end_of(&log))?, ready))
    })
}

fn end_of(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("the end of the server's log:\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
}

/// What the processes use while nothing happens.
fn idle(cluster: &Cluster, place: &Place) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let server = cluster.server_pid().context("the server runs")?;
    let dns = usage::find(&["dns", &format!("{}/", place.data_dir.display())]);
    let containerd = std::fs::read_to_string(place.data_dir.join("containerd/containerd.pid"));
    let containerd: Option<u32> = containerd.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    let both: Vec<u32> = [Some(server), dns].into_iter().flatten().collect();
    pause(SETTLE)?;
    let before = both.iter().map(|&pid| usage::cpu(pid)).collect::<Result<Vec<_>, _>>()?;
    pause(IDLE)?;
    let mut found = Vec::new();
    let rows = [["idle: keelson CPU", "idle: keelson RssAnon"], ["idle: keelson dns CPU", "idle: keelson dns RssAnon"]];
    for ((&pid, before), [cpu, memory]) in both.iter().zip(before).zip(rows) {
        let used = usage::cpu(pid)? - before;
        found.push((cpu, used.as_secs_f64() / IDLE.as_secs_f64() * 100.0));
        found.push((memory, usage::rss_anon(pid)?));
    }
    if let Some(pid) = containerd {
        found.push(("idle: containerd RssAnon", usage::rss_anon(pid)?));
    }
    Ok(found)
}
