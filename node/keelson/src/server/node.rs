//! The node: container runtime, pod network, service proxy, cluster DNS, kubelet.

use super::settings::Settings;
use crate::cli::Component;
use crate::footprint::Footprint;
use anyhow::Context;
use apiserver::ApiServer;
use cri::Runtime;
use cri::containerd::{Containerd, ContainerdConfig, ProxyEnv, Registries};
use informer::kinds::Traffic;
use k8s_openapi::api::core::v1::Taint;
use kubelet::{Kubelet, KubeletConfig};
use network::{Network, NetworkConfig, dns};
use proxy::{Proxy, ProxyConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Port of the kubelet's API, which the API server reads from the Node.
const KUBELET_PORT: u16 = 10250;
/// Port of cluster DNS on the node's address. 53 may be the host's own resolver's.
const DNS_PORT: u16 = 10053;

/// Mirrors, credentials and certificates of registries.
const REGISTRIES: &str = "/etc/keelson/registries.yaml";

/// A container runtime that answers.
pub(crate) struct NodeRuntime {
    runtime: Runtime,
    registries: Registries,
    endpoint: String,
    /// Ours, unless an endpoint was given.
    _containerd: Option<Containerd>,
}

/// Starts or adopts the container runtime.
pub(crate) async fn start_runtime(
    settings: &Settings,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<NodeRuntime> {
    keep_footprint(settings)?;
    let registries = Registries::load(Path::new(REGISTRIES)).context("registry settings")?;
    let (endpoint, containerd) = match &settings.args.container_runtime_endpoint {
        Some(endpoint) => (endpoint.clone(), None),
        None => {
            let containerd =
                Containerd::start_or_adopt(containerd_config(settings, registries.clone()), tasks, shutdown.clone())
                    .await
                    .context("containerd cannot be started")?;
            (containerd.endpoint().to_owned(), Some(containerd))
        }
    };
    let runtime = Runtime::connect(&endpoint).context("the container runtime cannot be reached")?;
    Ok(NodeRuntime { runtime, registries, endpoint, _containerd: containerd })
}

/// Writes down where this node leaves traces, and takes over what the node has by a former name.
fn keep_footprint(settings: &Settings) -> anyhow::Result<()> {
    let footprint = Footprint::of(settings);
    if let Some(former) = Footprint::read(settings.data_dir())? {
        let (from, to) = (former.pin_dir(), footprint.pin_dir());
        if from != to {
            Proxy::rename(&from, &to)
                .with_context(|| format!("eBPF pins of node {}, the former name", former.node_name))?;
        }
    }
    footprint.write(settings.data_dir())
}

/// Imports every archive of the directory. One that cannot be imported is no reason to have no node.
async fn import_images(endpoint: &str, dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))?;
    let mut archives: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort();
    // One after the other: they may have layers in common.
    for archive in &archives {
        match cri::images::import(endpoint, archive).await {
            Ok(names) => tracing::info!(archive = %archive.display(), ?names, "imported"),
            Err(error) => {
                tracing::error!(archive = %archive.display(), error = &error as &dyn std::error::Error, "not imported");
            }
        }
    }
    Ok(())
}

fn containerd_config(settings: &Settings, registries: Registries) -> ContainerdConfig {
    let args = &settings.args;
    let own = [
        args.cluster_cidr.to_string(),
        args.service_cidr.to_string(),
        settings.node_ip.to_string(),
        args.cluster_domain.clone(),
    ];
    let mut config = ContainerdConfig::new(&args.data_dir);
    config.registries = registries;
    config.proxy = ProxyEnv::from_env(&own);
    config
}

/// Starts what makes this machine a node.
pub(crate) async fn start(
    settings: &Settings,
    server: &ApiServer,
    runtime: NodeRuntime,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    // The kubelet comes last: a pod's image must not be looked for elsewhere while its archive is being imported.
    let archives = settings.data_dir().join("images");
    tokio::try_join!(import_images(&runtime.endpoint, &archives), start_network(settings, server, tasks, shutdown))?;
    let user = format!("system:node:{}", settings.node_name);
    let client = server.client(&user, &["system:nodes", "system:authenticated"]);
    let events = cri::events::subscribe(&runtime.endpoint, tasks, shutdown.clone()).context("containerd's events")?;
    let config = kubelet_config(settings, server, runtime.registries)?;
    Kubelet::start(config, client, runtime.runtime, events, tasks.clone(), shutdown.clone())
        .await
        .context("the kubelet cannot start")?;
    Ok(())
}

/// Starts the pod network, the service proxy and cluster DNS.
async fn start_network(
    settings: &Settings,
    server: &ApiServer,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    // The node's own identity sees only what concerns this node; Services, endpoints and the other nodes' ranges are
    // these components' to see.
    let proxy_client = server.client("system:kube-proxy", &["system:authenticated"]);
    let dns_client = server.client("system:keelson:cluster-dns", &["system:authenticated"]);
    let traffic = Traffic::start(&proxy_client, tasks, shutdown);
    let mut ports = watch::channel(network::HostPorts::new()).1;
    if settings.enabled(Component::Network) {
        let network = Network::start(network_config(settings), traffic.nodes.clone(), tasks, shutdown.clone())
            .await
            .context("the pod network cannot start")?;
        ports = network.host_ports();
    }
    if settings.enabled(Component::Proxy) {
        Proxy::start(proxy_config(settings)?, traffic.clone(), ports, tasks, shutdown.clone())
            .await
            .context("the service proxy cannot start")?;
    } else {
        // Pinned programs go on for ever, by what Services once were.
        Proxy::uninstall(&Footprint::of(settings).pin_dir()).context("the service proxy of an earlier start")?;
    }
    if settings.enabled(Component::Dns) {
        dns::Supervisor::start(dns_config(settings), dns_client, traffic, tasks, shutdown.clone())
            .await
            .context("cluster DNS cannot start")?;
    } else {
        dns::Supervisor::retire(settings.data_dir(), &dns_client, &settings.node_name)
            .await
            .context("the cluster DNS of an earlier start")?;
    }
    Ok(())
}

fn network_config(settings: &Settings) -> NetworkConfig {
    NetworkConfig {
        node_name: settings.node_name.clone(),
        node_ip: settings.node_ip,
        data_dir: settings.data_dir().to_owned(),
        cluster_cidr: settings.args.cluster_cidr.to_string(),
        mtu: None,
    }
}

fn proxy_config(settings: &Settings) -> anyhow::Result<ProxyConfig> {
    let footprint = Footprint::of(settings);
    let cgroup_path = footprint.cgroup2_dir().context("cgroup2 is not mounted; see `keelson check`")?;
    std::fs::create_dir_all(&cgroup_path).with_context(|| format!("{}: cannot be made", cgroup_path.display()))?;
    Ok(ProxyConfig {
        node_name: settings.node_name.clone(),
        node_ip: settings.node_ip,
        pin_dir: footprint.pin_dir(),
        cgroup_path,
    })
}

fn dns_config(settings: &Settings) -> dns::SupervisorConfig {
    let args = &settings.args;
    dns::SupervisorConfig {
        node_name: settings.node_name.clone(),
        node_ip: settings.node_ip,
        port: DNS_PORT,
        data_dir: settings.data_dir().to_owned(),
        cluster_domain: args.cluster_domain.clone(),
        reverse_cidrs: vec![args.cluster_cidr.to_string(), args.service_cidr.to_string()],
        resolv_conf: settings.resolv_conf.clone(),
        program: None::<PathBuf>,
    }
}

fn kubelet_config(settings: &Settings, server: &ApiServer, registries: Registries) -> anyhow::Result<KubeletConfig> {
    let args = &settings.args;
    let sans =
        [settings.node_name.clone(), settings.node_ip.to_string(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    let common_name = format!("system:node:{}", settings.node_name);
    let serving = server.certificate("kubelet", &common_name, sans.to_vec()).context("the kubelet's certificate")?;
    let taint = |taint: &crate::config::Taint| Taint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: taint.effect.clone(),
        time_added: None,
    };
    Ok(KubeletConfig {
        node_name: settings.node_name.clone(),
        node_ip: settings.node_ip,
        data_dir: settings.data_dir().to_owned(),
        cgroup_root: args.cgroup_root.clone(),
        max_pods: args.max_pods,
        node_labels: args.node_label.iter().cloned().collect(),
        node_taints: args.node_taint.iter().map(taint).collect(),
        cluster_dns: vec![settings.cluster_dns],
        cluster_domain: args.cluster_domain.clone(),
        registries,
        resolv_conf: settings.resolv_conf.clone(),
        api_address: settings.node_ip,
        api_port: KUBELET_PORT,
        certificate: Arc::new(serving),
        client_ca: server.pki().ca_pem().to_owned(),
        version: crate::version::full(),
    })
}
