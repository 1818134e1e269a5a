//! What the pod network reads of Nodes.

use std::net::IpAddr;

use informer::kinds::Node;

use crate::cidr::Cidr;

/// The range of a node's pods, once it has one.
pub(crate) fn range(node: &Node) -> Option<Cidr> {
    node.spec.pod_cidr.parse().ok()
}

/// A node's addresses, the internal one first.
pub(crate) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let of = |kind: &'static str| node.status.addresses.iter().filter(move |address| address.r#type == kind);
    of("InternalIP").chain(of("ExternalIP")).filter_map(|address| address.address.parse().ok())
}
