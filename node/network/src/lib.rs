//! The pod network of a node: CNI requests, addresses, links, routes, masquerade, and cluster DNS.
//!
//! - [`cni`]: what the runtime calls, and the node's side of it.
//! - `ipam`, `links`, `netns`: addresses and links of pods.
//! - `routes`, `nat`: the ways to other nodes' pods, to the outside and back in.
//! - [`dns`]: the DNS process and its supervisor.

pub mod cidr;
pub mod cni;
pub mod dns;
mod files;
mod ipam;
mod links;
mod nat;
mod netns;
mod nodes;
mod routes;

#[cfg(test)]
mod kernel_tests;

pub use links::PREFIX as LINK_PREFIX;
pub use nat::HostPorts;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use informer::kinds::Node;
use informer::{Informer, ObjectKey};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cidr::{Cidr, CidrError};
use crate::ipam::Ipam;

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
    /// MTU of pods' links; that of the node's own link where it is `None`.
    pub mtu: Option<u32>,
}

/// Why the pod network or cluster DNS cannot work.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file of ours does not hold what it should.
    #[error("{path} is not what keelson wrote; move it away if its content is not needed")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// An address range of the configuration.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// rtnetlink.
    #[error("netlink: {0}")]
    Netlink(String),
    /// A route.
    #[error("cannot {action} the route to {range}")]
    Route {
        /// What was tried.
        action: &'static str,
        /// Which route.
        range: String,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// The program `nft` could not be run.
    #[error("cannot run nft, which translates between pods and the outside; install the package nftables")]
    NoNft(#[source] std::io::Error),
    /// `nft` refused the rules.
    #[error("nft refused the rules between pods and the outside: {0}")]
    Nft(String),
    /// The zone of cluster DNS.
    #[error("cluster domain {0:?} is not a domain name: {1}")]
    Domain(String, String),
    /// A socket of the DNS process.
    #[error("cannot {action} {address}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The API server refused something.
    #[error("cannot {action} {object}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// On which object.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl NetworkError {
    fn link(error: &links::LinkError) -> Self {
        Self::Netlink(error.to_string())
    }
}

/// The running pod network.
pub struct Network {
    nodes: Informer<Node>,
    node_name: String,
    ports: watch::Receiver<HostPorts>,
}

/// How long after a failure the routes and rules are tried again, if nothing else happens.
const RETRY: Duration = Duration::from_secs(5);

impl Network {
    /// Serves CNI requests and keeps links and routes as the cluster's Nodes say.
    ///
    /// Works in the network namespace of the calling process.
    pub async fn start(
        config: NetworkConfig,
        nodes: Informer<Node>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, NetworkError> {
        let cluster: Cidr = config.cluster_cidr.parse()?;
        let socket = cni::install(&config.data_dir)?;
        let ipam = Ipam::open(config.data_dir.join("cni/addresses.json"))?;
        forward()?;
        let (handle, losses) = netlink(tasks, &shutdown)?;
        let mtu = match config.mtu {
            Some(mtu) => Some(mtu),
            None => links::mtu_of(&handle, config.node_ip).await.map_err(|error| NetworkError::link(&error))?,
        };
        tracing::info!(?mtu, node_ip = %config.node_ip, "pods' links");
        let notices = nat::Notices::open().map_err(|error| NetworkError::Netlink(error.to_string()))?;
        let server = cni::Server::new(handle.clone(), ipam, config.node_ip, mtu).await?;
        server.serve(&socket, tasks, shutdown.clone())?;
        let node_name = config.node_name.clone();
        let ports = server.host_ports();
        let keeper = Keeper {
            config,
            cluster,
            handle,
            server,
            nodes: nodes.clone(),
            ports: ports.clone(),
            notices,
            losses,
            led: HostPorts::new(),
            applied: None,
        };
        supervise::spawn("network", tasks, &shutdown.clone(), (keeper, shutdown), |(keeper, shutdown)| {
            Box::pin(async {
                shutdown.run_until_cancelled(keeper.run()).await;
            })
        });
        Ok(Self { nodes, node_name, ports })
    }

    /// The host ports of this node's pods, now and whenever they change.
    pub fn host_ports(&self) -> watch::Receiver<HostPorts> {
        self.ports.clone()
    }

    /// Waits until this node has a range for its pods; the runtime is told a moment later.
    pub async fn ready(&self) {
        let mut changed = self.nodes.changed();
        let own = ObjectKey::cluster(self.node_name.clone());
        while self.nodes.get(&own).and_then(|node| nodes::range(&node)).is_none() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Removes links, routes and rules of this node. Call it in the node's network namespace.
    pub async fn uninstall(data_dir: &Path) -> Result<(), NetworkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| NetworkError::Netlink(error.to_string()))?;
        let connection = tokio::spawn(connection);
        for link in links::ours(&handle).await.map_err(|error| NetworkError::link(&error))? {
            links::delete(&handle, &link).await.map_err(|error| NetworkError::link(&error))?;
        }
        let routes = routes::remove(&handle).await;
        connection.abort();
        routes?;
        cni::uninstall(data_dir)?;
        match nat::remove().await {
            // Without nft there never was a rule.
            Err(NetworkError::NoNft(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A connection to rtnetlink in this namespace, for as long as the process works.
fn netlink(tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<(Handle, routes::Losses), NetworkError> {
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv4Route])
        .map_err(|error| NetworkError::Netlink(error.to_string()))?;
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        shutdown.run_until_cancelled(connection).await;
    });
    Ok((handle, routes::Losses::new(messages)))
}

/// Lets this namespace forward between links.
fn forward() -> Result<(), NetworkError> {
    netns::sysctl("ipv4/ip_forward", "1").map_err(files::failed("enable", Path::new("/proc/sys/net/ipv4/ip_forward")))
}

/// Keeps everything that depends on Nodes.
struct Keeper {
    config: NetworkConfig,
    cluster: Cidr,
    handle: Handle,
    server: Arc<cni::Server>,
    nodes: Informer<Node>,
    ports: watch::Receiver<HostPorts>,
    notices: nat::Notices,
    losses: routes::Losses,
    /// The host ports that the rules know.
    led: HostPorts,
    /// What was applied last, unless some of it was lost.
    applied: Option<(routes::Routes, String)>,
}

impl Keeper {
    async fn run(&mut self) {
        let mut changed = self.nodes.changed();
        self.nodes.synced().await;
        loop {
            changed.mark_unchanged();
            let result = self.apply().await;
            let retry = result.is_err();
            if let Err(error) = result {
                tracing::error!(error = &error as &dyn std::error::Error, "the pod network is not complete");
            }
            tokio::select! {
                woken = changed.changed() => if woken.is_err() { return },
                woken = self.ports.changed() => if woken.is_err() { return },
                () = self.losses.next() => {
                    tracing::warn!("somebody deleted routes of the pod network; they are put back");
                    self.applied = None;
                }
                deleted = self.notices.table_deleted() => self.check_rules(deleted).await,
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }

    /// A table was deleted: if it was ours, or if that cannot be told, everything is applied anew.
    async fn check_rules(&mut self, deleted: std::io::Result<()>) {
        let present = match deleted {
            Ok(()) => nat::present().await,
            Err(error) => Err(NetworkError::Netlink(error.to_string())),
        };
        match present {
            Ok(true) => return,
            Ok(false) => tracing::warn!("someone deleted the rules between pods and the outside; making them again"),
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether the rules between pods and the outside are there");
                tokio::time::sleep(RETRY).await;
            }
        }
        self.applied = None;
    }

    /// A peer outside whose datagrams are remembered to go elsewhere is no reason to keep pods waiting.
    async fn forget_flows(&mut self, pods: &Cidr, ports: &HostPorts) {
        match nat::flows::forget(&nat::flows::changed(&self.led, ports), pods).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "conversations over UDP begin anew: their host ports lead elsewhere"),
            Err(error) => tracing::warn!(%error, "peers outside may go on sending to host ports' former pods"),
        }
        self.led.clone_from(ports);
    }

    async fn apply(&mut self) -> Result<(), NetworkError> {
        let all = self.nodes.list();
        let own = self.nodes.get(&ObjectKey::cluster(self.config.node_name.clone()));
        let Some(range) = own.as_deref().and_then(nodes::range) else { return Ok(()) };
        let routes = routes::wanted(&all, &self.config.node_name);
        let addresses = all.iter().flat_map(|node| nodes::addresses(node)).chain([self.config.node_ip]);
        let ports = self.ports.borrow_and_update().clone();
        let rules = nat::script(&range, &self.cluster, &nat::ipv4(addresses), &ports);
        if self.applied.as_ref() == Some(&(routes.clone(), rules.clone())) {
            return Ok(());
        }
        // Pods first: only what leaves the cluster needs the rest.
        self.server.set_range(range);
        cni::publish(&self.config.data_dir)?;
        routes::apply(&self.handle, &routes).await?;
        self.server.restore_routes().await?;
        nat::apply(&rules).await?;
        self.forget_flows(&range, &ports).await;
        tracing::info!(pods = %range, routes = routes.len(), host_ports = ports.len(), "the pod network is ready");
        self.server.host_ports_lead(ports);
        self.applied = Some((routes, rules));
        Ok(())
    }
}
