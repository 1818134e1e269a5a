//! Keeps a DNS process running and tells it of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use informer::kinds::{Traffic, service_of};
use informer::{Event, ObjectKey};
use supervise::Backoff;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::feed::Feeder;
use super::process::{self, Places, Process, Sockets};
use super::zone::{ServiceRecord, Services, Update};
use super::{DnsConfig, publish, records};
use crate::{NetworkError, files};

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

/// Waiting times after a process that did not live long, or did not start.
const BACK_OFF: Backoff = Backoff::new(A_MOMENT, A_WHILE);
const A_MOMENT: Duration = Duration::from_millis(100);
const A_WHILE: Duration = Duration::from_secs(10);
const LONG_LIFE: Duration = Duration::from_secs(60);
/// How long an ending process may take before `uninstall` gives up on it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Adopts a running DNS process or starts one, feeds it, and publishes it as an endpoint of Service `kube-dns`.
    pub async fn start(
        config: SupervisorConfig,
        client: kube::Client,
        traffic: Traffic,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, NetworkError> {
        let keeper = Keeper::start(&config)?;
        let changes = Arc::new(Changes::default());
        subscribe(&changes, &traffic);
        let worker = Worker { config, client, keeper, traffic, changes, published: false };
        supervise::spawn("dns supervisor", tasks, &shutdown.clone(), (worker, shutdown), |(worker, shutdown)| {
            Box::pin(async {
                shutdown.run_until_cancelled(worker.run()).await;
            })
        });
        Ok(Self)
    }

    /// Ends the DNS process that an earlier start left, and takes this node's endpoint of Service `kube-dns` back. Where
    /// there was none, nothing is asked of the API server.
    pub async fn retire(data_dir: &Path, client: &kube::Client, node_name: &str) -> Result<(), NetworkError> {
        if !Places::of(data_dir).directory.exists() {
            return Ok(());
        }
        publish::remove_slice(client, node_name).await?;
        Self::uninstall(data_dir).await?;
        tracing::info!("cluster DNS is not ours any more: its process is ended, and it is no endpoint of kube-dns");
        Ok(())
    }

    /// Ends the DNS process and removes what it kept.
    pub async fn uninstall(data_dir: &Path) -> Result<(), NetworkError> {
        let places = Places::of(data_dir);
        if let Ok(config) = DnsConfig::load(&places.config())
            && let Some(mut found) = process::find(&places, &config, Path::new("/"))
        {
            found.process.terminate();
            let _ = tokio::time::timeout(PATIENCE, found.process.ended()).await;
            let _ = std::fs::remove_file(&config.socket);
        }
        match std::fs::remove_dir_all(&places.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(files::failed("remove", &places.directory)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The process and its sockets.
struct Keeper {
    places: Places,
    config: DnsConfig,
    program: PathBuf,
    sockets: Sockets,
    process: Process,
    /// What runs beside it until the new one answers.
    outdated: Option<Process>,
    started: Instant,
    back_off: Backoff,
}

impl Keeper {
    fn start(config: &SupervisorConfig) -> Result<Self, NetworkError> {
        let places = Places::of(&config.data_dir);
        files::directory(&places.directory)?;
        files::directory(&config.data_dir.join("run"))?;
        let dns = DnsConfig {
            listen: (config.node_ip, config.port).into(),
            socket: config.data_dir.join("run/dns.sock"),
            snapshot: places.snapshot(),
            cluster_domain: config.cluster_domain.clone(),
            reverse_cidrs: config.reverse_cidrs.clone(),
            resolv_conf: config.resolv_conf.clone(),
        };
        let program = match &config.program {
            Some(program) => program.clone(),
            None => files::current_program()?,
        };
        let found = process::find(&places, &dns, &program);
        let (sockets, process, outdated) = match found {
            Some(found) if found.current => match found.sockets {
                Some(sockets) => (sockets, found.process, None),
                None => return Err(NetworkError::Netlink("a current process has its sockets".into())),
            },
            found => {
                let (old, sockets) = found.map_or((None, None), |found| (Some(found.process), found.sockets));
                let sockets = sockets.map_or_else(|| Sockets::bind(&dns), Ok)?;
                let process = process::spawn(&places, &dns, &program, &sockets)?;
                (sockets, process, old)
            }
        };
        tracing::info!(pid = process.pid, replaces = ?outdated.as_ref().map(|old| old.pid), listen = %dns.listen, "cluster DNS");
        let started = Instant::now();
        Ok(Self { places, config: dns, program, sockets, process, outdated, started, back_off: BACK_OFF })
    }

    /// Starts the process again: at once after a long life, else not too often.
    async fn restart(&mut self) {
        let lived = self.started.elapsed();
        if lived > LONG_LIFE {
            self.back_off.reset();
        }
        tokio::time::sleep(self.back_off.step().saturating_sub(lived)).await;
        loop {
            match process::spawn(&self.places, &self.config, &self.program, &self.sockets) {
                Ok(process) => {
                    self.process = process;
                    self.started = Instant::now();
                    tracing::info!(pid = self.process.pid, "the DNS process is started again");
                    return;
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the DNS process does not start");
                    tokio::time::sleep(self.back_off.step()).await;
                }
            }
        }
    }
}

#[derive(Default)]
struct Changes {
    services: Mutex<BTreeSet<ObjectKey>>,
    wake: Notify,
}

impl Changes {
    fn add(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut *self.services.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn subscribe(changes: &Arc<Changes>, traffic: &Traffic) {
    let target = changes.clone();
    traffic.services.on_event(move |event| {
        let (Event::Upsert { new: object, .. } | Event::Delete(object)) = event;
        target.add([object.metadata.key()]);
    });
    let target = changes.clone();
    traffic.slices.on_event(move |event| match event {
        Event::Upsert { old, new } => {
            target.add(old.iter().chain([new]).filter_map(|slice| service_of(slice.as_ref())));
        }
        Event::Delete(slice) => target.add(service_of(slice.as_ref())),
    });
}

struct Worker {
    config: SupervisorConfig,
    client: kube::Client,
    keeper: Keeper,
    traffic: Traffic,
    changes: Arc<Changes>,
    published: bool,
}

impl Worker {
    async fn run(&mut self) {
        tokio::join!(self.traffic.services.synced(), self.traffic.slices.synced());
        loop {
            if let Err(error) = self.feed().await {
                tracing::warn!(%error, "the DNS process cannot be told of Services");
                // Not dead, but not listening either: a moment, so as not to spin.
                let ended = tokio::time::timeout(A_MOMENT, self.keeper.process.ended()).await;
                if ended.is_err() {
                    continue;
                }
            }
            self.keeper.restart().await;
        }
    }

    /// Tells the process everything, then what changes. Ends when the process has ended, or with an error.
    async fn feed(&mut self) -> std::io::Result<()> {
        let connected = Feeder::connect(&self.keeper.config.socket);
        let mut feeder = tokio::select! {
            feeder = connected => feeder?,
            () = self.keeper.process.ended() => return Ok(()),
        };
        let mut touched = self.changes.take();
        let mut known = self.everything();
        let mut update = Some(Update::Snapshot(known.clone()));
        loop {
            if let Some(update) = update.take() {
                tokio::select! {
                    sent = feeder.send(&update) => sent?,
                    () = self.keeper.process.ended() => return Ok(()),
                }
            }
            if let Some(old) = self.keeper.outdated.take() {
                old.terminate();
            }
            self.publish(&touched).await;
            tokio::select! {
                () = self.changes.wake.notified() => {}
                () = self.keeper.process.ended() => return Ok(()),
                // A slice that could not be published is tried again.
                () = tokio::time::sleep(A_WHILE), if !self.published => {}
            }
            touched = self.changes.take();
            update = self.delta(&touched, &mut known);
        }
    }

    async fn publish(&mut self, touched: &BTreeSet<ObjectKey>) {
        if touched.contains(&ObjectKey::new("kube-system", "kube-dns")) {
            self.published = false;
        }
        if self.published {
            return;
        }
        match publish::ensure_slice(&self.client, &self.config).await {
            Ok(()) => self.published = true,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cluster DNS of this node is not published");
            }
        }
    }

    fn everything(&self) -> Services {
        let services = self.traffic.services.list();
        let records = services.iter().filter_map(|service| {
            let key = service.metadata.key();
            Some((key.to_string(), self.record(&key)?))
        });
        records.collect()
    }

    fn record(&self, key: &ObjectKey) -> Option<ServiceRecord> {
        let service = self.traffic.services.get(key)?;
        records::record(&service, &self.traffic.slices_of(key))
    }

    /// What the process must be told of, and `known` brought up to it.
    fn delta(&self, touched: &BTreeSet<ObjectKey>, known: &mut Services) -> Option<Update> {
        let mut changes = BTreeMap::new();
        for key in touched {
            let (name, record) = (key.to_string(), self.record(key));
            if known.get(&name) == record.as_ref() {
                continue;
            }
            match &record {
                Some(record) => drop(known.insert(name.clone(), record.clone())),
                None => drop(known.remove(&name)),
            }
            changes.insert(name, record);
        }
        (!changes.is_empty()).then_some(Update::Delta(changes))
    }
}
