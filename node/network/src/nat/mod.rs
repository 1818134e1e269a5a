//! What nftables translates: pods reach the outside under their node's address, and the outside reaches pods by their
//! host ports. One table of ours, replaced whole; connections that are open go on.
//!
//! Traffic between pods, and between pods and nodes, keeps its addresses. Who connects to a host port on the node itself
//! is served by the proxy's programs and never comes here. (eBPF at the uplink is to replace all of this.)

pub(crate) mod flows;
mod notices;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::NetworkError;
use crate::cidr::Cidr;
pub(crate) use notices::Notices;

const TABLE: &str = "keelson";

/// Pods' ports on the node: protocol (IANA's number) and address, unspecified for every one of the node's → the pod.
pub type HostPorts = BTreeMap<(u8, SocketAddr), SocketAddr>;

/// The rules, as a script that nft applies in one transaction.
pub(crate) fn script(pods: &Cidr, cluster: &Cidr, nodes: &BTreeSet<Ipv4Addr>, ports: &HostPorts) -> String {
    // Naming the table before deleting it makes the deletion of a missing one no error.
    let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    text.push_str("  set nodes {\n    type ipv4_addr\n");
    text.push_str(&elements(nodes.iter().map(ToString::to_string)));
    text.push_str("  }\n");
    host_ports(&mut text, ports);
    text.push_str("  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    let _ = writeln!(
        text,
        "    ip saddr {pods} ip daddr != {cluster} ip daddr != @nodes ip daddr != 224.0.0.0/4 masquerade fully-random"
    );
    text.push_str("  }\n}\n");
    text
}

/// Nothing comes from outside for a loopback address: those are the programs' alone.
fn host_ports(text: &mut String, ports: &HostPorts) {
    if ports.is_empty() {
        return;
    }
    let outside = ports.iter().filter(|((_, at), _)| !at.ip().is_loopback());
    let (any, one): (Vec<_>, Vec<_>) = outside.partition(|((_, at), _)| at.ip().is_unspecified());
    let pod = |to: &SocketAddr| format!("{} . {}", to.ip(), to.port());
    text.push_str("  map ports_of_one {\n    type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service\n");
    let entry = |((protocol, at), to): &(&(u8, SocketAddr), &SocketAddr)| {
        format!("{protocol} . {} . {} : {}", at.ip(), at.port(), pod(to))
    };
    text.push_str(&elements(one.iter().map(entry)));
    text.push_str("  }\n  map ports_of_all {\n    type inet_proto . inet_service : ipv4_addr . inet_service\n");
    let entry =
        |((protocol, at), to): &(&(u8, SocketAddr), &SocketAddr)| format!("{protocol} . {} : {}", at.port(), pod(to));
    text.push_str(&elements(any.iter().map(entry)));
    text.push_str("  }\n  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n");
    for (key, map) in
        [("ip protocol . ip daddr . th dport", "ports_of_one"), ("ip protocol . th dport", "ports_of_all")]
    {
        let _ = writeln!(text, "    fib daddr type local dnat ip addr . port to {key} map @{map}");
    }
    text.push_str("  }\n");
}

/// The line with a set's or map's elements; nft knows no empty one.
fn elements(all: impl Iterator<Item = String>) -> String {
    let list: Vec<_> = all.collect();
    if list.is_empty() { String::new() } else { format!("    elements = {{ {} }}\n", list.join(", ")) }
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

/// Whether our table is there.
pub(crate) async fn present() -> Result<bool, NetworkError> {
    let listed = Command::new("nft").args(["list", "tables", "ip"]).kill_on_drop(true).output().await;
    let listed = listed.map_err(NetworkError::NoNft)?;
    if !listed.status.success() {
        return Err(NetworkError::Nft(String::from_utf8_lossy(&listed.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == format!("table ip {TABLE}")))
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
        let text = script(&pods, &cluster, &nodes, &HostPorts::new());
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
        assert!(!script(&pods, &cluster, &BTreeSet::new(), &HostPorts::new()).contains("elements"));
        let port = |protocol, at: &str| ((protocol, at.parse().unwrap()), "10.244.1.2:8080".parse().unwrap());
        let ports = HostPorts::from([port(6, "0.0.0.0:80"), port(17, "192.168.0.1:53"), port(6, "127.0.0.1:81")]);
        let text = script(&pods, &cluster, &nodes, &ports);
        for line in [
            "    elements = { 17 . 192.168.0.1 . 53 : 10.244.1.2 . 8080 }\n",
            "    elements = { 6 . 80 : 10.244.1.2 . 8080 }\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("81"), "loopback is nobody's outside: {text}");
    }
}
