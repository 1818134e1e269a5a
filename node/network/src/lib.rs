//! The pod network of a node: CNI requests, addresses, links, routes, masquerade, and cluster DNS.

pub mod cni;
pub mod dns;

use std::net::IpAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the pod network must know of its node and cluster.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of this node's Node object.
    pub node_name: String,
    /// The node's own address: the source of what the node sends to its pods.
    pub node_ip: IpAddr,
    /// Keelson's data directory; `cni/` and `run/cni.sock` are below it.
    pub data_dir: PathBuf,
    /// The cluster's pod addresses, such as `10.244.0.0/16`: what is not masqueraded.
    pub cluster_cidr: String,
    /// MTU of pods' links; the uplink's where it is `None`.
    pub mtu: Option<u32>,
}

/// Why the pod network cannot work.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A stand-in until the network is here.
    #[error("{0}")]
    Other(String),
}

/// The running pod network.
pub struct Network;

impl Network {
    /// Serves CNI requests and keeps links and routes as the cluster's Nodes say.
    pub async fn start(
        _config: NetworkConfig,
        _client: kube::Client,
        _tasks: &TaskTracker,
        _shutdown: CancellationToken,
    ) -> Result<Self, NetworkError> {
        Ok(Self)
    }

    /// Removes links, routes and rules of this node.
    pub async fn uninstall(_config: &NetworkConfig) -> Result<(), NetworkError> {
        Ok(())
    }
}
