//! The control plane: store, API server, scheduler, controllers.

use super::settings::Settings;
use crate::cli::Component;
use crate::config::{Datastore, usable_node_address};
use anyhow::Context;
use apiserver::ApiServer;
use controllers::ControllersConfig;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use store::{MemoryStore, SqliteStore, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts the control plane; returns once the API server listens.
pub(crate) async fn start(
    settings: &Settings,
    store: Arc<dyn Store>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<ApiServer> {
    let server = ApiServer::start(api_config(settings), store, tasks.clone(), shutdown.clone())
        .await
        .context("the API server cannot start")?;
    make_room_for_kubeconfig(settings)?;
    server.serve().await.context("the API server cannot listen")?;
    start_scheduler(settings, &server, tasks, shutdown);
    start_controllers(settings, &server, tasks, shutdown);
    let administrator = server.client("system:keelson:manifests", &["system:masters", "system:authenticated"]);
    let manifests = settings.data_dir().join("manifests");
    super::manifests::start(manifests, administrator, &settings.node_name, tasks, shutdown.clone())?;
    Ok(server)
}

/// Opens the store; the caller closes it when all else has ended.
pub(crate) fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match settings.args.datastore {
        Datastore::Memory => Arc::new(MemoryStore::new()),
        Datastore::Sqlite => {
            let path = settings.data_dir().join("db/state.db");
            Arc::new(SqliteStore::open(&path, &store::SqliteOptions::default()).context("the store cannot be opened")?)
        }
    })
}

fn api_config(settings: &Settings) -> apiserver::Config {
    let args = &settings.args;
    apiserver::Config {
        data_dir: args.data_dir.clone(),
        kubeconfig_copy: args.write_kubeconfig.clone(),
        certificate_life: apiserver::pki::CERTIFICATE_LIFE,
        bind_address: args.bind_address,
        port: args.port,
        advertise_address: advertised(settings),
        node_name: settings.node_name.clone(),
        tls_sans: args.tls_san.clone(),
        service_cidr: args.service_cidr.to_string(),
        service_node_port_range: (args.service_node_port_range.from, args.service_node_port_range.to),
        cluster_domain: args.cluster_domain.clone(),
        cluster_dns: settings.enabled(Component::Dns).then_some(settings.cluster_dns),
        version: crate::version::KEELSON.to_owned(),
    }
}

/// Where pods find the API server, behind the `kubernetes` Service: the one address that it listens on, or else the node's.
fn advertised(settings: &Settings) -> IpAddr {
    let bound = settings.args.bind_address;
    if bound.is_ipv4() && usable_node_address(bound) { bound } else { settings.node_ip }
}

fn start_scheduler(settings: &Settings, server: &ApiServer, tasks: &TaskTracker, shutdown: &CancellationToken) {
    if settings.enabled(Component::Scheduler) {
        let client = server.client("system:kube-scheduler", &["system:authenticated"]);
        scheduler::Scheduler::start(client, tasks, shutdown.clone());
    }
}

fn start_controllers(settings: &Settings, server: &ApiServer, tasks: &TaskTracker, shutdown: &CancellationToken) {
    if !settings.enabled(Component::Controllers) {
        return;
    }
    let config = ControllersConfig {
        cluster_cidr: settings.args.cluster_cidr.parts(),
        node_cidr_mask: settings.args.node_cidr_mask,
        root_ca_pem: server.pki().ca_pem().to_owned(),
    };
    let server = server.clone();
    let client_for = Arc::new(move |controller: &str| controller_client(&server, controller));
    controllers::start(config, client_for, tasks, shutdown.clone());
}

/// Each controller writes under its own service account; what they share reads as the controller manager.
fn controller_client(server: &ApiServer, controller: &str) -> kube::Client {
    if controller.is_empty() {
        return server.client("system:kube-controller-manager", &["system:authenticated"]);
    }
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    server.client(&format!("system:serviceaccount:kube-system:{controller}"), &groups)
}

/// The API server writes the copy that was asked for, and makes no directories.
fn make_room_for_kubeconfig(settings: &Settings) -> anyhow::Result<()> {
    let Some(dir) = settings.args.write_kubeconfig.as_deref().and_then(Path::parent) else { return Ok(()) };
    std::fs::create_dir_all(dir).with_context(|| format!("--write-kubeconfig: {} cannot be made", dir.display()))
}
