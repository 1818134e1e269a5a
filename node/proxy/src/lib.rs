//! The service proxy: Services, EndpointSlices and pods' host ports become entries in pinned eBPF maps, which programs at
//! the socket hooks of a cgroup read. There is no userspace on the path of a connection, so translation goes on while this
//! process restarts.
//!
//! - [`state`]: a pure function from objects to the wanted entries.
//! - `reconcile`: makes the maps so, touching nothing that is so already; `kernel` is the seam below it.
//! - [`datapath`]: loads and attaches the programs.
//! - [`sockets`]: ends connected datagram sockets whose backend is gone.
//! - [`dump`]: reads the live maps back.

pub mod datapath;
pub mod dump;
mod extents;
mod kernel;
mod lost;
mod reconcile;
pub mod sockets;
pub mod state;
mod sys;

#[cfg(test)]
mod kernel_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use informer::kinds::{Node, Traffic, service_of};
use informer::{Event, ObjectKey};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::datapath::{DatapathError, Links, Programs};
use crate::kernel::Maps;
use crate::reconcile::{ReconcileError, Reconciler};
use crate::state::{HostPorts, Owner, Place};

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
    /// The programs or their maps.
    #[error("the service proxy's data path")]
    Datapath(#[from] DatapathError),
    /// The entries in the maps.
    #[error("the service proxy's maps")]
    Reconcile(#[from] ReconcileError),
}

/// A running proxy.
#[derive(Clone)]
pub struct Proxy {
    synced: watch::Receiver<bool>,
}

/// How long to wait before a failed entry is tried again, when nothing else happens meanwhile.
const RETRY: Duration = Duration::from_secs(1);

impl Proxy {
    /// Loads the programs, then keeps the maps as the cluster's Services and EndpointSlices say. Programs that an
    /// earlier process left go on with its entries until the first reconciliation is done. `ports` has the host ports of
    /// this node's pods; it may be of a sender that is gone.
    pub async fn start(
        config: ProxyConfig,
        traffic: Traffic,
        ports: watch::Receiver<HostPorts>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, ProxyError> {
        let kernel = Kernel::load(&config.pin_dir).await?;
        if let Err(error) = sockets::can_abort() {
            tracing::warn!(%error, "connected UDP sockets stay with backends that are gone: this kernel ends no sockets");
        }
        let changes = Arc::new(Changes::default());
        let (report, synced) = watch::channel(false);
        subscribe(&changes, &traffic);
        let worker = Worker { config, traffic, ports, changes, zone: None, kernel: Some(kernel), report };
        let stop = shutdown.clone();
        supervise::spawn("proxy", tasks, &shutdown, worker, move |worker| {
            let stop = stop.clone();
            Box::pin(async move {
                stop.run_until_cancelled(Box::pin(worker.run())).await;
            })
        });
        Ok(Self { synced })
    }

    /// Waits until the maps say what the cluster's objects say and the programs are attached.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        // An error means the worker is gone: shutdown, which the caller sees elsewhere.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes over the pins of a node that has another name now.
    pub fn rename(from: &Path, to: &Path) -> Result<(), ProxyError> {
        Ok(datapath::rename(from, to)?)
    }

    /// Detaches the programs and removes every pin of this node.
    pub fn uninstall(pin_dir: &Path) -> Result<(), ProxyError> {
        Ok(datapath::uninstall(pin_dir)?)
    }
}

/// What has changed and is not yet in the maps.
#[derive(Default)]
struct Changes {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    owners: BTreeSet<Owner>,
    nodes: bool,
}

impl Changes {
    fn add(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    fn take(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn subscribe(changes: &Arc<Changes>, traffic: &Traffic) {
    let target = changes.clone();
    traffic.services.on_event(move |event| {
        let (Event::Upsert { new: object, .. } | Event::Delete(object)) = event;
        target.add(|pending| pending.owners.extend([Owner::Service(object.metadata.key())]));
    });
    let target = changes.clone();
    traffic.slices.on_event(move |event| {
        let keys: Vec<_> = match event {
            Event::Upsert { old, new } => {
                old.iter().chain([new]).filter_map(|slice| service_of(slice.as_ref())).collect()
            }
            Event::Delete(slice) => service_of(slice.as_ref()).into_iter().collect(),
        };
        target.add(|pending| pending.owners.extend(keys.into_iter().map(Owner::Service)));
    });
    let target = changes.clone();
    traffic.nodes.on_event(move |_| target.add(|pending| pending.nodes = true));
}

/// The maps and the programs.
struct Kernel {
    reconciler: Reconciler<Maps>,
    programs: Hooks,
}

/// How far the programs are.
enum Hooks {
    Loaded(Programs),
    Attached(#[expect(dead_code, reason = "held, not used")] Links),
}

impl Kernel {
    async fn load(pin_dir: &Path) -> Result<Self, ProxyError> {
        let pin_dir = pin_dir.to_owned();
        blocking(move || {
            let (programs, maps) = datapath::load(&pin_dir)?;
            Ok(Self { reconciler: Reconciler::new(maps)?, programs: Hooks::Loaded(programs) })
        })
        .await
    }
}

struct Worker {
    config: ProxyConfig,
    traffic: Traffic,
    ports: watch::Receiver<HostPorts>,
    changes: Arc<Changes>,
    /// Where this node is, as topology hints say it.
    zone: Option<String>,
    /// Taken while it works on a blocking thread. A panic there loses it; what is pinned is then adopted once more.
    kernel: Option<Kernel>,
    report: watch::Sender<bool>,
}

impl Worker {
    async fn run(&mut self) {
        tokio::join!(self.traffic.services.synced(), self.traffic.slices.synced(), self.traffic.nodes.synced());
        loop {
            let kernel = match self.kernel.take() {
                Some(kernel) => Ok(kernel),
                None => Kernel::load(&self.config.pin_dir).await,
            };
            let failed = match kernel {
                Ok(kernel) => self.pass(kernel).await,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the pinned maps cannot be adopted");
                    Pending { nodes: true, ..Pending::default() }
                }
            };
            if failed.owners.is_empty() && !failed.nodes {
                self.change().await;
            } else {
                let _ = tokio::time::timeout(RETRY, self.change()).await;
                self.changes.add(|pending| {
                    pending.owners.extend(failed.owners);
                    pending.nodes |= failed.nodes;
                });
            }
        }
    }

    /// Waits until something is to be done.
    async fn change(&mut self) {
        tokio::select! {
            () = self.changes.wake.notified() => {}
            Ok(()) = self.ports.changed() => self.changes.add(|pending| pending.owners.extend([Owner::HostPorts])),
        }
    }

    /// Puts the changes in the maps; the first time everything, and attaches the programs after that. Returns what failed.
    async fn pass(&mut self, kernel: Kernel) -> Pending {
        let mut pending = self.changes.take();
        let Kernel { mut reconciler, programs } = kernel;
        let is_first = matches!(programs, Hooks::Loaded(_));
        pending.nodes |= is_first;
        let moved = pending.nodes && self.find_zone();
        if is_first || moved {
            let services = self.traffic.services.list();
            pending.owners.extend(services.iter().map(|service| Owner::Service(service.metadata.key())));
            pending.owners.insert(Owner::HostPorts);
        }
        let wanted: Vec<_> = pending.owners.into_iter().map(|owner| (self.desired(&owner), owner)).collect();
        let addresses = pending.nodes.then(|| self.node_addresses());
        let config = self.config.clone();
        let (failed, freed, kernel) = blocking(move || {
            let mut failed = Pending::default();
            let mut freed = BTreeSet::new();
            if let Some(Err(error)) = addresses.map(|addresses| reconciler.apply_nodes(&addresses)) {
                tracing::error!(error = &error as &dyn std::error::Error, "node addresses are not in the maps");
                failed.nodes = true;
            }
            for (desired, owner) in wanted {
                match reconciler.apply(&owner, &desired) {
                    Ok(owners) => freed.extend(owners),
                    Err(error) => {
                        tracing::error!(%owner, error = &error as &dyn std::error::Error, "entries are not in the maps");
                        failed.owners.insert(owner);
                    }
                }
            }
            let programs = match programs {
                Hooks::Loaded(programs) => finish_start(&mut reconciler, programs, &config, &mut failed),
                attached @ Hooks::Attached(_) => attached,
            };
            clean(&mut reconciler, &config.cgroup_path);
            (failed, freed, Kernel { reconciler, programs })
        })
        .await;
        // At once, and not as failures are, a while later: until then, what they want leads nowhere.
        if !freed.is_empty() {
            self.changes.add(|pending| pending.owners.extend(freed));
        }
        if matches!(kernel.programs, Hooks::Attached(_)) {
            self.report.send_replace(true);
        }
        self.kernel = Some(kernel);
        failed
    }

    fn desired(&self, owner: &Owner) -> state::Desired {
        let key = match owner {
            Owner::Service(key) => key,
            Owner::HostPorts => return state::host_ports(&self.ports.borrow()),
        };
        let slices = self.traffic.slices_of(key);
        let service = self.traffic.services.get(key);
        let place = Place { node: &self.config.node_name, zone: self.zone.as_deref() };
        service.map(|service| state::desired(&service, &slices, place)).unwrap_or_default()
    }

    /// Sees to it that the node's zone is known; gives whether it is another one now.
    fn find_zone(&mut self) -> bool {
        let node = self.traffic.nodes.get(&ObjectKey::cluster(self.config.node_name.clone()));
        let zone = node.and_then(|node| node.metadata.labels.get(state::ZONE).cloned());
        std::mem::replace(&mut self.zone, zone) != self.zone
    }

    fn node_addresses(&self) -> BTreeMap<IpAddr, u32> {
        node_addresses(&self.config, &self.traffic.nodes.list())
    }
}

/// Ends the first pass: stale entries go, then the programs are attached. Where that failed, it is tried again.
fn finish_start(
    reconciler: &mut Reconciler<Maps>,
    programs: Programs,
    config: &ProxyConfig,
    failed: &mut Pending,
) -> Hooks {
    if let Err(error) = reconciler.finish_adoption() {
        tracing::error!(error = &error as &dyn std::error::Error, "stale entries are still in the maps");
    }
    match programs.attach(&config.cgroup_path) {
        Ok(links) => {
            let (owners, cgroup) = (reconciler.known().len(), config.cgroup_path.display());
            tracing::info!(owners, writes = reconciler.writes(), %cgroup, "Services are translated");
            datapath::forget_versions(&config.pin_dir);
            Hooks::Attached(links)
        }
        Err(failure) => {
            let (programs, error) = *failure;
            tracing::error!(error = &error as &dyn std::error::Error, "Services are not translated");
            failed.nodes = true;
            Hooks::Loaded(programs)
        }
    }
}

fn clean(reconciler: &mut Reconciler<Maps>, cgroup: &Path) {
    if !reconciler.needs_cleaning() {
        return;
    }
    if let Err(error) = sys::grace_period() {
        tracing::error!(%error, "no grace period: membarrier(2) failed; replaced slots are not used again");
        return;
    }
    let lost = match reconciler.clean() {
        Ok(lost) => lost,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "replaced entries are not cleaned up");
            return;
        }
    };
    match sockets::abort(reconciler.kernel(), cgroup, &lost) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "connected UDP sockets are ended: their backends are gone"),
        Err(error) => tracing::warn!(%error, "UDP sockets may stay connected to backends that are gone"),
    }
}

fn node_addresses(config: &ProxyConfig, nodes: &[Arc<Node>]) -> BTreeMap<IpAddr, u32> {
    use abi::node_address::{LOCAL, LOOPBACK, REMOTE};
    let mut wanted = BTreeMap::new();
    for node in nodes {
        let kind = if node.metadata.name == config.node_name { LOCAL } else { REMOTE };
        let addresses = node.status.addresses.iter().filter(|address| address.r#type.ends_with("IP"));
        wanted.extend(addresses.filter_map(|address| address.address.parse().ok()).map(|address| (address, kind)));
    }
    wanted.insert(config.node_ip, LOCAL);
    wanted.insert(Ipv4Addr::LOCALHOST.into(), LOOPBACK);
    wanted.insert(Ipv6Addr::LOCALHOST.into(), LOOPBACK);
    wanted
}

/// Runs system calls on a thread where they may take their time.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
