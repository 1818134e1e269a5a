//! `keelson datapath`: the live kernel maps. Reads the pins, so it works while no server runs.

use crate::cli::{DatapathArgs, DatapathTable, Output};
use crate::footprint::Footprint;
use anyhow::Context;
use proxy::dump::{Dump, ServiceEntry};
use std::io::Write;

/// Prints the part of the maps that was asked for.
pub(crate) fn run(args: &DatapathArgs) -> anyhow::Result<()> {
    let footprint = Footprint::read(&args.data_dir)?
        .with_context(|| format!("{}: no node ever ran with this data directory", args.data_dir.display()))?;
    let pins = footprint.pin_dir();
    let dump = proxy::dump::dump(&pins)
        .with_context(|| format!("{}: the maps cannot be read; is the service proxy running?", pins.display()))?;
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&dump)? + "\n",
        Output::Table => table(args.table, &dump),
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

fn table(which: DatapathTable, dump: &Dump) -> String {
    let rows: Vec<[String; 4]> = match which {
        DatapathTable::Services => {
            let head = ["FRONTEND", "PROTOCOL", "BACKENDS", "AFFINITY"].map(str::to_owned);
            std::iter::once(head).chain(dump.services.iter().map(service)).collect()
        }
        DatapathTable::Backends => {
            let head = ["BACKEND", "SLOT", "FRONTEND", "PROTOCOL"].map(str::to_owned);
            std::iter::once(head).chain(dump.services.iter().flat_map(backends)).collect()
        }
    };
    let widths = [0, 1, 2, 3].map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0) + 3);
    let line = |row: &[String; 4]| {
        let cells: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn service(entry: &ServiceEntry) -> [String; 4] {
    let affinity = match entry.affinity_seconds {
        0 => "-".to_owned(),
        seconds => format!("{seconds}s"),
    };
    [frontend(entry), format!("{:?}", entry.protocol).to_uppercase(), entry.backends.len().to_string(), affinity]
}

fn backends(entry: &ServiceEntry) -> impl Iterator<Item = [String; 4]> {
    let row = |(slot, backend): (u32, &std::net::SocketAddr)| {
        [backend.to_string(), slot.to_string(), frontend(entry), format!("{:?}", entry.protocol).to_uppercase()]
    };
    (entry.base..).zip(&entry.backends).map(row)
}

/// The address and port that clients use; a node port has every address of the nodes.
fn frontend(entry: &ServiceEntry) -> String {
    match entry.address {
        Some(address) => std::net::SocketAddr::new(address, entry.port).to_string(),
        None => format!("nodes:{}", entry.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy::dump::Metrics;
    use proxy::state::{Family, Protocol};

    #[test]
    fn tables() {
        let entry = |address: Option<&str>, port, affinity_seconds, backends: &[&str]| ServiceEntry {
            family: Family::V4,
            address: address.map(|text| text.parse().unwrap()),
            port,
            protocol: Protocol::Tcp,
            affinity_seconds,
            backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
            base: 7,
            set: 1,
        };
        let services = vec![
            entry(Some("10.96.0.1"), 443, 0, &["10.89.0.2:6443"]),
            entry(None, 30080, 60, &["10.244.0.2:80", "10.244.0.3:80"]),
        ];
        let dump = Dump { services, node_addresses: Vec::new(), metrics: Metrics::default() };
        assert_eq!(
            table(DatapathTable::Services, &dump),
            "FRONTEND        PROTOCOL   BACKENDS   AFFINITY\n\
             10.96.0.1:443   TCP        1          -\n\
             nodes:30080     TCP        2          60s\n"
        );
        assert_eq!(
            table(DatapathTable::Backends, &dump),
            "BACKEND          SLOT   FRONTEND        PROTOCOL\n\
             10.89.0.2:6443   7      10.96.0.1:443   TCP\n\
             10.244.0.2:80    7      nodes:30080     TCP\n\
             10.244.0.3:80    8      nodes:30080     TCP\n"
        );
    }
}
