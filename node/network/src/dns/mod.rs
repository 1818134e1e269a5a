//! Cluster DNS: a small process of its own, and the supervisor that starts, adopts and feeds it.
//!
//! - `zone`: the index of names and what a query gets; no I/O. `records`: from Services to its records.
//! - `server`: queries over UDP and TCP. `forward`, `resolvers`: the way to the host's resolvers.
//! - `feed`: how the supervisor tells the process of Services.
//! - `process`, `supervisor`: the other side; `publish`: how the cluster learns of DNS.

mod feed;
mod forward;
mod process;
mod publish;
mod records;
mod resolvers;
mod server;
mod supervisor;
mod sys;
mod zone;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cidr::Cidr;
use crate::{NetworkError, files};

pub use supervisor::{Supervisor, SupervisorConfig};

use forward::Forwarder;
use resolvers::Resolvers;
use server::Server;
use zone::{Update, Zone};

/// Where resolvers listen.
const DNS_PORT: u16 = 53;

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
    pub fn load(path: &Path) -> Result<Self, NetworkError> {
        let bytes = std::fs::read(path).map_err(files::failed("read", path))?;
        serde_json::from_slice(&bytes).map_err(|source| NetworkError::Malformed { path: path.to_owned(), source })
    }

    fn own_ranges(&self) -> Result<Vec<Cidr>, NetworkError> {
        Ok(self.reverse_cidrs.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
    }

    fn zone(&self) -> Result<Zone, NetworkError> {
        let domain = Name::from_utf8(format!("{}.", self.cluster_domain.trim_end_matches('.')));
        let domain = domain.map_err(|error| NetworkError::Domain(self.cluster_domain.clone(), error.to_string()))?;
        Ok(Zone::new(domain, self.listen.ip(), self.own_ranges()?))
    }
}

/// The body of `keelson dns`: answers until it is told to stop.
///
/// Uses the sockets that a supervisor has left for it, else makes its own. Call it once in a process.
pub async fn run(config: DnsConfig, shutdown: CancellationToken) -> Result<(), NetworkError> {
    let mut zone = config.zone()?;
    zone.apply(Update::Snapshot(feed::kept(&config.snapshot)));
    let (udp, tcp, listener) = sockets(&config)?;
    let zone = Arc::new(RwLock::new(zone));
    let changed = Arc::new(Notify::new());
    let resolvers = Resolvers::new(config.resolv_conf.clone(), DNS_PORT, config.own_ranges()?);
    let server = Server::new(zone.clone(), Forwarder::new(resolvers));
    let tasks = TaskTracker::new();
    server.serve(udp, tcp, &tasks, &shutdown);
    let receiving = (listener, zone.clone(), changed.clone(), shutdown.clone());
    supervise::spawn("dns feed", &tasks, &shutdown, receiving, |(listener, zone, changed, shutdown)| {
        Box::pin(feed::receive(listener, zone, changed, shutdown))
    });
    let keeping = (zone, config.snapshot.clone(), changed, shutdown.clone());
    supervise::spawn("dns snapshot", &tasks, &shutdown, keeping, |(zone, path, changed, shutdown)| {
        Box::pin(feed::keep(zone, path, changed, shutdown))
    });
    tracing::info!(listen = %config.listen, domain = config.cluster_domain, "answering");
    shutdown.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn sockets(config: &DnsConfig) -> Result<(UdpSocket, TcpListener, UnixListener), NetworkError> {
    let inherited = sys::inherited(process::SOCKETS).and_then(|fds| <[OwnedFd; 3]>::try_from(fds).ok());
    let [udp, tcp, feed] = match inherited {
        Some(sockets) => sockets,
        None => {
            let (udp, tcp) = process::bind_queries(config.listen)?;
            [udp, tcp, process::bind_feed(&config.socket)?]
        }
    };
    let failed = |source| NetworkError::Socket { action: "use", address: config.listen.to_string(), source };
    let udp = UdpSocket::from_std(udp.into()).map_err(failed)?;
    let tcp = TcpListener::from_std(tcp.into()).map_err(failed)?;
    let feed = UnixListener::from_std(feed.into()).map_err(failed)?;
    Ok((udp, tcp, feed))
}
