//! The kubelet: pods on this node, from the API to containers and back.
//!
//! - [`Kubelet`] wires everything; `pods` keeps one `worker` task a pod.
//! - `worker` observes, decides (a pure plan) and acts through `runtime`, `volumes` and `cgroup`; `status` is what the API is told.
//! - `container` builds what CRI is asked for; `env`, `downward`, `objects` feed it.
//! - `node` keeps the Node object and its Lease; [`api`] serves exec, logs and the rest.

mod admission;
mod allocation;
pub mod api;
mod backoff;
mod cgroup;
mod config;
mod container;
mod context;
mod downward;
mod env;
mod hooks;
mod images;
pub mod inotify;
mod labels;
mod logs;
mod lookup;
mod node;
mod objects;
mod pod;
mod pods;
mod probe;
mod qos;
mod resources;
mod runtime;
mod status;
mod volumes;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cri::events::RuntimeEvent;
use informer::Informer;
use informer::recorder::Recorder;
use informer::rest::Rest;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use api::{Api, ApiConfig, ReviewAuthorizer};
use cgroup::Cgroups;
pub use cgroup::{CgroupError, Hierarchy, Layout};
pub use config::KubeletConfig;
use container::{HostResolver, Settings};
use context::{ClientApi, Context, Registry};
use downward::NodeCapacity;
use node::NodeKeeper;
use node::facts::Machine;
use objects::Objects;
use pods::{NodePod, PodSource, Pods};

/// Why a kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Control groups cannot be set up.
    #[error("control groups: {0}")]
    Cgroup(#[from] CgroupError),
    /// A directory cannot be made, or a file not be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubelet's API cannot be served.
    #[error("kubelet API: {0}")]
    Api(#[from] api::ApiError),
}

/// A running kubelet. It ends with the cancellation it was started with; pods go on.
pub struct Kubelet {
    config: Arc<KubeletConfig>,
    api: Api,
}

impl Kubelet {
    /// Starts everything; returns once the kubelet's API listens. `client` acts as `system:node:NAME`.
    pub async fn start(
        config: KubeletConfig,
        client: kube::Client,
        runtime: cri::Runtime,
        events: mpsc::Receiver<RuntimeEvent>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Kubelet, KubeletError> {
        let config = Arc::new(config);
        for dir in [config.pods_dir(), config.logs_dir()] {
            std::fs::create_dir_all(&dir).map_err(|source| KubeletError::Io { path: dir, source })?;
        }
        let cgroups = Cgroups::new(Layout::detect()?, &config.cgroup_root);
        let machine = Machine::read(&config.data_dir);
        cgroups.setup(machine.cpus as i64 * 1000)?;
        let context = Arc::new(context(&config, &client, &runtime, cgroups, &machine, &tasks, &shutdown)?);
        let selector = format!("spec.nodeName={}", config.node_name);
        let informer =
            Informer::<NodePod>::builder(client.clone()).field_selector(selector).start(&tasks, shutdown.clone());
        let pods = Arc::new(Pods::new(Arc::clone(&context), PodSource::Api(informer), offer(&config, &machine)));
        let api_config = ApiConfig {
            listen: SocketAddr::new(config.api_address, config.api_port),
            node_name: config.node_name.clone(),
            certificate: Arc::clone(&config.certificate),
            client_ca_pem: config.client_ca.clone(),
        };
        let authorizer = Arc::new(ReviewAuthorizer::new(client.clone()));
        let api = Api::start(
            api_config,
            authorizer,
            Arc::clone(&pods) as Arc<dyn api::PodLookup>,
            runtime.clone(),
            tasks.clone(),
            shutdown.clone(),
        )
        .await?;
        let selector = format!("metadata.name={}", config.node_name);
        let keeper = NodeKeeper {
            config: Arc::clone(&config),
            context: Arc::clone(&context),
            shown: Informer::builder(client.clone()).field_selector(selector).start(&tasks, shutdown.clone()),
            rest: Rest::new(client),
            runtime,
            images: Arc::clone(&pods.images),
        };
        supervise::spawn("node", &tasks, &shutdown, keeper, |keeper| Box::pin(keeper.run()));
        supervise::spawn("logs", &tasks, &shutdown, (context, Arc::clone(&pods)), |(context, pods)| {
            Box::pin(logs::run(context, pods))
        });
        supervise::spawn("clock", &tasks, &shutdown, Arc::clone(&pods), |pods| Box::pin(pods.follow_clock()));
        supervise::spawn("pods", &tasks, &shutdown, (pods, events), |(pods, events)| Box::pin(pods.run(events)));
        Ok(Kubelet { config, api })
    }

    /// The settings it runs with.
    pub fn config(&self) -> &KubeletConfig {
        &self.config
    }

    /// Where the kubelet's API listens.
    pub fn address(&self) -> SocketAddr {
        self.api.address()
    }
}

fn context(
    config: &KubeletConfig,
    client: &kube::Client,
    runtime: &cri::Runtime,
    cgroups: Cgroups,
    machine: &Machine,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Context, KubeletError> {
    let resolv = std::fs::read_to_string(&config.resolv_conf)
        .map_err(|source| KubeletError::Io { path: config.resolv_conf.clone(), source })?;
    let settings = Settings {
        node_name: config.node_name.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns: config.cluster_dns.clone(),
        resolver: HostResolver::parse(&resolv),
        registries: config.registries.clone(),
        logs_dir: config.logs_dir(),
        pods_dir: config.pods_dir(),
        seccomp_dir: config.data_dir.join("kubelet/seccomp"),
        cgroup_root: config.cgroup_root.clone(),
        memory_capacity: machine.memory as i64,
        pod_pids: machine.pod_pids() as i64,
        kill_group: cgroups.are_v2(),
    };
    let capacity = NodeCapacity {
        cpu_milli: machine.cpus as i64 * 1000,
        memory: machine.memory_allocatable() as i64,
        ephemeral_storage: machine.disk as i64,
    };
    let recorder = Recorder::new(client.clone(), "kubelet", config.node_name.clone(), tasks, shutdown.clone());
    Ok(Context {
        runtime: Arc::new(runtime.clone()),
        api: Arc::new(ClientApi { rest: Rest::new(client.clone()) }),
        events: Arc::new(recorder),
        client: Some(client.clone()),
        objects: Some(Arc::new(Objects::new(client.clone(), tasks.clone(), shutdown.clone()))),
        services: Some(Informer::builder(client.clone()).start(tasks, shutdown.clone())),
        cgroups: Some(cgroups),
        settings,
        host_ip: config.node_ip.to_string(),
        capacity,
        registry: Registry::default(),
        freed: tokio::sync::Notify::new(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    })
}

fn offer(config: &KubeletConfig, machine: &Machine) -> admission::Offer {
    let mut labels = config.node_labels.clone();
    labels.insert("kubernetes.io/hostname".into(), config.node_name.clone());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), node::facts::arch().into());
    admission::Offer {
        name: config.node_name.clone(),
        cpu_milli: machine.cpus as i64 * 1000,
        memory: machine.memory_allocatable() as i64,
        pods: config.max_pods as usize,
        labels,
        apparmor: node::facts::apparmor(),
    }
}
