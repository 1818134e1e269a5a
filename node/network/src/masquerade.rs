//! Pods reach the outside under their node's address: one nftables table of ours, replaced whole.
//!
//! Traffic between pods, and between pods and nodes, keeps its addresses. (An eBPF masquerade is to replace this.)

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::NetworkError;
use crate::cidr::Cidr;

const TABLE: &str = "keelson";

/// The rules, as a script that nft applies in one transaction.
pub(crate) fn script(pods: &Cidr, cluster: &Cidr, nodes: &BTreeSet<Ipv4Addr>) -> String {
    // Naming the table before deleting it makes the deletion of a missing one no error.
    let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    text.push_str("  set nodes {\n    type ipv4_addr\n");
    if !nodes.is_empty() {
        let list: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "    elements = {{ {} }}", list.join(", "));
    }
    text.push_str("  }\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    let _ = writeln!(
        text,
        "    ip saddr {pods} ip daddr != {cluster} ip daddr != @nodes ip daddr != 224.0.0.0/4 masquerade fully-random"
    );
    text.push_str("  }\n}\n");
    text
}

/// IPv4 addresses among these.
pub(crate) fn ipv4(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<Ipv4Addr> {
    addresses.filter_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None }).collect()
}

/// Makes the rules so, in the network namespace of this process.
pub(crate) async fn apply(script: &str) -> Result<(), NetworkError> {
    let spawned = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(NetworkError::NoNft)?;
    if let Some(mut input) = child.stdin.take() {
        // A broken pipe means that nft has ended; its status and message say why.
        let _ = input.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(NetworkError::NoNft)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Takes the rules away.
pub(crate) async fn remove() -> Result<(), NetworkError> {
    apply(&format!("table ip {TABLE}\ndelete table ip {TABLE}\n")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_whole() {
        let (pods, cluster) = ("10.244.1.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap());
        let nodes = BTreeSet::from(["192.168.0.1".parse().unwrap(), "192.168.0.2".parse().unwrap()]);
        let text = script(&pods, &cluster, &nodes);
        assert_eq!(
            text,
            "table ip keelson\n\
             delete table ip keelson\n\
             table ip keelson {\n  \
               set nodes {\n    type ipv4_addr\n    elements = { 192.168.0.1, 192.168.0.2 }\n  }\n  \
               chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n    \
                 ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 ip daddr != @nodes ip daddr != 224.0.0.0/4 masquerade fully-random\n  \
               }\n}\n"
        );
        assert!(!script(&pods, &cluster, &BTreeSet::new()).contains("elements"));
    }
}
