//! The service proxy: Services and EndpointSlices become entries in pinned eBPF maps, which programs at the socket
//! hooks of a cgroup read. There is no userspace on the path of a connection, so translation goes on while this
//! process restarts.
//!



use std::net::IpAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the proxy must know of its node.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Name of this node, as in `spec.nodeName` and an endpoint's `nodeName`.
    pub node_name: String,
    /// The node's own address, where node ports answer.
    pub node_ip: IpAddr,
    /// This node's directory on a bpffs, such as `/sys/fs/bpf/keelson/NODE`.
    pub pin_dir: PathBuf,
    /// The cgroup2 directory below which sockets are translated.
    pub cgroup_path: PathBuf,
}

/// Why the proxy cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A stand-in until the data path is here.
    #[error("{0}")]
    Other(String),
}

/// A running proxy.
pub struct Proxy;

impl Proxy {
    /// Loads the programs, then keeps the maps as the cluster's Services and EndpointSlices say.
    pub async fn start(
        _config: ProxyConfig,
        _client: kube::Client,
        _tasks: &TaskTracker,
        _shutdown: CancellationToken,
    ) -> Result<Self, ProxyError> {
        Ok(Self)
    }

    /// Detaches the programs and removes every pin of this node.
    pub fn uninstall(_pin_dir: &std::path::Path) -> Result<(), ProxyError> {
        Ok(())
    }
}
