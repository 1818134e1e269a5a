//! Cluster DNS: a small process of its own, and the supervisor that starts, adopts and feeds it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::NetworkError;

/// What the DNS process (`keelson dns --config FILE`) needs; the supervisor writes it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsConfig {
    /// Where to answer, over UDP and TCP.
    pub listen: SocketAddr,
    /// Unix socket on which the supervisor feeds Services.
    pub socket: PathBuf,
    /// Where the last fed Services are kept.
    pub snapshot: PathBuf,
    /// The zone answered for, such as `cluster.local`.
    pub cluster_domain: String,
    /// Ranges whose reverse names are ours alone: unknown addresses in them do not exist.
    pub reverse_cidrs: Vec<String>,
    /// Names the resolvers that all other queries go to.
    pub resolv_conf: PathBuf,
}

impl DnsConfig {
    /// Reads a configuration that the supervisor wrote.
    pub fn load(_path: &Path) -> Result<Self, NetworkError> {
        unimplemented!()
    }
}

/// The body of `keelson dns`: answers until it is told to stop.
pub async fn run(_config: DnsConfig, _shutdown: CancellationToken) -> Result<(), NetworkError> {
    Ok(())
}

/// What the supervisor of the DNS process needs.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// Name of this node.
    pub node_name: String,
    /// Where DNS answers.
    pub node_ip: IpAddr,
    /// Port on the node's address; 10053 where nothing speaks against it.
    pub port: u16,
    /// Keelson's data directory.
    pub data_dir: PathBuf,
    /// The zone answered for.
    pub cluster_domain: String,
    /// Pod and Service ranges, for reverse look-ups.
    pub reverse_cidrs: Vec<String>,
    /// The node's resolv.conf with the upstream resolvers.
    pub resolv_conf: PathBuf,
    /// The program to run with `dns --config FILE`; the current executable where it is `None`.
    pub program: Option<PathBuf>,
}

/// Starts, adopts, feeds and replaces the DNS process, which outlives it.
pub struct Supervisor;

impl Supervisor {
    /// Adopts a running DNS process or starts one, feeds it, and publishes it as an endpoint of Service `kube-dns`.
    pub async fn start(
        _config: SupervisorConfig,
        _client: kube::Client,
        _tasks: &TaskTracker,
        _shutdown: CancellationToken,
    ) -> Result<Self, NetworkError> {
        Ok(Self)
    }

    /// Ends the DNS process.
    pub async fn uninstall(_data_dir: &Path) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// Creates Service `kube-system/kube-dns` with the given cluster address where it is missing.
pub async fn ensure_service(_client: &kube::Client, _cluster_dns: IpAddr) -> Result<(), NetworkError> {
    Ok(())
}
