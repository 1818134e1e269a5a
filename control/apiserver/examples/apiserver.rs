//! An API server alone, to try kubectl on: `cargo run -p apiserver --example apiserver -- DIR [PORT] [memory|sqlite]`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use apiserver::{ApiServer, Config};
use store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: apiserver DIR [PORT] [memory|sqlite]")?);
    let port = arguments.next().map_or(Ok(16443), |port| port.parse())?;
    let durable = arguments.next().as_deref() == Some("sqlite");
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is installed already")?;
    tokio::runtime::Runtime::new()?.block_on(run(dir, port, durable))
}

async fn run(dir: PathBuf, port: u16, durable: bool) -> Result<(), Error> {
    let started = Instant::now();
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let store: Arc<dyn Store> = if durable {
        std::fs::create_dir_all(dir.join("db"))?;
        Arc::new(SqliteStore::open(dir.join("db/state.db"), &SqliteOptions::default())?)
    } else {
        Arc::new(MemoryStore::new())
    };
    let config = Config {
        data_dir: dir,
        kubeconfig_copy: None,
        certificate_life: apiserver::pki::CERTIFICATE_LIFE,
        bind_address: local,
        port,
        advertise_address: local,
        node_name: "example".to_owned(),
        tls_sans: Vec::new(),
        service_cidr: "10.96.0.0/16".to_owned(),
        service_node_port_range: (30000, 32767),
        cluster_domain: "cluster.local".to_owned(),
        cluster_dns: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let server = ApiServer::start(config, store.clone(), tasks.clone(), shutdown.clone()).await?;
    let address = server.serve().await?;
    eprintln!("serving on {address} after {:?}", started.elapsed());
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
    Ok(())
}
