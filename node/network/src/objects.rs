//! What the pod network reads of Nodes.

use std::net::IpAddr;

use informer::{Meta, Projection};
use serde::Deserialize;

use crate::cidr::Cidr;

/// A Node, for its addresses and its pods' range.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    pub(crate) spec: NodeSpec,
    pub(crate) status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAddress {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
}

impl Node {
    /// The range of the node's pods, once it has one.
    pub(crate) fn range(&self) -> Option<Cidr> {
        self.spec.pod_cidr.parse().ok()
    }

    /// Its addresses, the internal one first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of = |kind: &'static str| self.status.addresses.iter().filter(move |address| address.kind == kind);
        of("InternalIP").chain(of("ExternalIP")).filter_map(|address| address.address.parse().ok())
    }
}

impl Projection for Node {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const RESOURCE: &'static str = "nodes";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
