//! The node: container runtime, pod network, service proxy, cluster DNS, kubelet.

use super::settings::Settings;
use crate::cli::Component;
use crate::footprint::Footprint;
use anyhow::Context;
use apiserver::ApiServer;
use cri::Runtime;
use cri::containerd::{Containerd, ContainerdConfig};
use k8s_openapi::api::core::v1::Taint;
use kubelet::{Kubelet, KubeletConfig};
use network::{Network, NetworkConfig, dns};
use proxy::{Proxy, ProxyConfig};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Port of the kubelet's API, which the API server reads from the Node.
const KUBELET_PORT: u16 = 10250;
/// Port of cluster DNS on the node's address. 53 may be the host's own resolver's.
const DNS_PORT: u16 = 10053;

/// A container runtime that answers.
pub(crate) struct NodeRuntime {
    runtime: Runtime,
    endpoint: String,
    /// Ours, unless an endpoint was given.
    _containerd: Option<Containerd>,
}

/// Starts or adopts the container runtime and imports the image archives.
pub(crate) async fn start_runtime(
    settings: &Settings,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<NodeRuntime> {
    Footprint::of(settings).write(settings.data_dir())?;
    let (endpoint, containerd) = match &settings.args.container_runtime_endpoint {
        Some(endpoint) => (endpoint.clone(), None),
        None => {
            let containerd = Containerd::start_or_adopt(containerd_config(settings), tasks, shutdown.clone())
                .await
                .context("containerd cannot be started")?;
            (containerd.endpoint(), Some(containerd))
        }
    };
    let runtime = Runtime::connect(&endpoint).await.context("the container runtime cannot be reached")?;
    cri::images::import_all(&endpoint, &settings.data_dir().join("images")).await.context("images cannot be imported")?;
    Ok(NodeRuntime { runtime, endpoint, _containerd: containerd })
}

fn containerd_config(settings: &Settings) -> ContainerdConfig {
    let args = &settings.args;
    ContainerdConfig::new(&args.data_dir, &args.cgroup_root)
        .excepting_from_proxy([args.cluster_cidr.to_string(), args.service_cidr.to_string()])
}

/// Starts what makes this machine a node.
pub(crate) async fn start(
    settings: &Settings,
    server: &ApiServer,
    runtime: NodeRuntime,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let user = format!("system:node:{}", settings.node_name);
    let client = server.client(&user, &["system:nodes", "system:authenticated"]);
    if settings.enabled(Component::Network) {
        Network::start(network_config(settings), client.clone(), tasks, shutdown.clone())
            .await
            .context("the pod network cannot start")?;
    }
    if settings.enabled(Component::Proxy) {
        Proxy::start(proxy_config(settings)?, client.clone(), tasks, shutdown.clone())
            .await
            .context("the service proxy cannot start")?;
    }
    if settings.enabled(Component::Dns) {
        dns::Supervisor::start(dns_config(settings), client.clone(), tasks, shutdown.clone())
            .await
            .context("cluster DNS cannot start")?;
    }
    let events = cri::events::subscribe(&runtime.endpoint, tasks, shutdown.clone());
    let config = kubelet_config(settings, server)?;
    Kubelet::start(config, client, runtime.runtime, events, tasks.clone(), shutdown.clone())
        .await
        .context("the kubelet cannot start")?;
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

fn kubelet_config(settings: &Settings, server: &ApiServer) -> anyhow::Result<KubeletConfig> {
    let args = &settings.args;
    let serving = server.kubelet_serving_certificate(&settings.node_name, settings.node_ip).context("no kubelet certificate")?;
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
        resolv_conf: settings.resolv_conf.clone(),
        api_address: settings.node_ip,
        api_port: KUBELET_PORT,
        tls_cert: serving.cert,
        tls_key: serving.key,
        client_ca: server.ca_pem(),
        version: crate::version::full(),
    })
}
