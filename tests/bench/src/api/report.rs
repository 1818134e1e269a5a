//! What was measured, beside what kube-apiserver 1.24 with etcd took on the same kind of machine.

use super::load::Phase;
use crate::table::{Table, digits, milliseconds, percentile};
use std::time::Duration;

/// Milliseconds of CPU that the peer spends an operation.
const PEER: [(&str, f64); 6] = [
    ("create", 2.8),
    ("get", 0.77),
    (LIST, 699.0),
    ("update (get, put)", 5.3),
    ("update (get, patch)", 5.3),
    ("delete", 2.6),
];
/// The same for a delivered watch event.
const PEER_EVENT: f64 = 0.117;
/// The part of the peer's CPU that is the aim.
const AIM: f64 = 0.1;

/// The one operation whose cost grows with the number of pods.
pub(crate) const LIST: &str = "list all";
/// How many pods the peer's list has.
const PEER_LIST: f64 = 5_000.0;

/// The report.
#[derive(Debug)]
pub(crate) struct Report {
    objects: usize,
    title: String,
    table: Table,
    memory: Vec<String>,
    list: String,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(objects: usize, watchers: usize) -> Self {
        let head = ["operation", "/s", "p50 ms", "p99 ms", "CPU ms", "peer CPU ms", "ratio", "aim"];
        Self {
            objects,
            title: format!("{objects} pods of 2.7 KB, {watchers} watchers"),
            table: Table::new(&head),
            memory: Vec::new(),
            list: String::new(),
        }
    }

    /// Adds a phase. Its CPU is the server's, of all threads, for one operation.
    pub(crate) fn phase(&mut self, name: &str, phase: &Phase) {
        let peer = PEER.iter().find(|(known, _)| *known == name).map(|(_, peer)| *peer);
        let peer = if name == LIST { peer.map(|peer| peer * self.objects as f64 / PEER_LIST) } else { peer };
        self.row(name, &phase.latencies, phase.wall, phase.cpu, peer);
    }

    /// Adds the watchers: latency is from the request of a creation to the arrival of its event at a watcher.
    pub(crate) fn watch(&mut self, latencies: &[Duration], wall: Duration, cpu: Duration) {
        self.row("delivered watch event", latencies, wall, cpu, Some(PEER_EVENT));
    }

    fn row(&mut self, name: &str, latencies: &[Duration], wall: Duration, cpu: Duration, peer: Option<f64>) {
        let operations = latencies.len() as f64;
        let each = cpu.as_secs_f64() * 1e3 / operations;
        let mut row = vec![
            name.to_owned(),
            digits(operations / wall.as_secs_f64()),
            milliseconds(percentile(latencies, 0.5)),
            milliseconds(percentile(latencies, 0.99)),
            digits(each),
        ];
        match peer {
            Some(peer) => {
                let met = if each <= peer * AIM { "met" } else { "missed" };
                row.extend([digits(peer), digits(each / peer), met.to_owned()]);
            }
            None => row.extend(["", "", ""].map(str::to_owned)),
        }
        self.table.row(row);
    }

    /// Adds the server's anonymous memory at a moment.
    pub(crate) fn memory(&mut self, moment: &str, megabytes: f64) {
        self.memory.push(format!("{moment} {} MB", digits(megabytes)));
    }

    /// Adds the length of a list.
    pub(crate) fn list_bytes(&mut self, bytes: usize) {
        self.list = format!("A full list has {} MB.", digits(bytes as f64 / 1e6));
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n\n{}", self.title, self.table)?;
        writeln!(f, "RssAnon: {}. {}", self.memory.join("; "), self.list)?;
        write!(f, "The peer is kube-apiserver 1.24 with etcd; the aim is a tenth of its CPU.")
    }
}
