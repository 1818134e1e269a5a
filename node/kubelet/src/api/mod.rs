//! The kubelet's own API: exec, attach, port-forward, logs, pods, statistics, health, over HTTPS.
//!
//! Who calls is known by a client certificate of the cluster's CA or by a token; whether they may, the API server says.
//! Both are behind [`Authorizer`]. What runs on this node comes from the kubelet's core through [`PodLookup`].

mod auth;
mod logs;
mod review;
mod routes;
mod server;
mod stats;
mod streams;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::server::ResolvesServerCert;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use auth::{Attributes, Decision};
pub(crate) use logs::last_of_log;
pub use review::ReviewAuthorizer;

/// What the kubelet's core tells its API about this node's pods.
#[async_trait]
pub trait PodLookup: Send + Sync + 'static {
    /// The pod of this name on this node.
    fn pod(&self, namespace: &str, name: &str) -> Option<PodRef>;

    /// The pods of this node as API objects, static ones included, each with its latest status.
    fn pods(&self) -> Vec<Arc<serde_json::Value>>;

    /// Returns when the container of this id is not running any more (at once if it is not).
    async fn container_exited(&self, container_id: &str);

    /// `Err` says why the kubelet is not healthy.
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    /// Metrics in Prometheus' text format, for /metrics.
    fn metrics(&self) -> String {
        String::new()
    }
}

/// A pod as its runtime objects.
#[derive(Debug, Clone, Default)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, of the mirror pod's source for static pods.
    pub uid: String,
    /// The sandbox that runs now.
    pub sandbox_id: Option<String>,
    /// Init, ordinary and ephemeral containers in the order of the spec.
    pub containers: Vec<ContainerRef>,
}

impl PodRef {
    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<&ContainerRef> {
        self.containers.iter().find(|c| c.name == name)
    }
}

/// A container of the spec and the runtime's containers that were made for it.
#[derive(Debug, Clone, Default)]
pub struct ContainerRef {
    /// Name in the pod's spec.
    pub name: String,
    /// The latest one, running or not.
    pub current: Option<ContainerInstance>,
    /// The one before it.
    pub previous: Option<ContainerInstance>,
    /// Why there is no current one, e.g. `ContainerCreating`; for error messages.
    pub waiting: String,
}

/// One run of a container.
#[derive(Debug, Clone, Default)]
pub struct ContainerInstance {
    /// The runtime's id.
    pub id: String,
    /// Its log file, with rotated ones beside it.
    pub log_path: PathBuf,
    /// Whether it runs.
    pub running: bool,
}

/// A caller whose identity is proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User {
    /// User name.
    pub name: String,
    /// UID; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// Who is calling, and may they?
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The user behind a bearer token; `Ok(None)` if it is not valid. `Err` if that cannot be found out.
    async fn authenticate(&self, token: &str) -> Result<Option<User>, String>;

    /// Whether `user` may do `attributes`. `Err` if that cannot be found out.
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<Decision, String>;
}

/// What the API listens with.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Address and port (0: any free one).
    pub listen: SocketAddr,
    /// This node's name.
    pub node_name: String,
    /// The serving certificate, whichever it is at the time.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// The CA whose client certificates are believed, PEM.
    pub client_ca_pem: String,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is taken or not this host's.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate, key or CA cannot be used.
    #[error("{what} of the kubelet's API: {why}")]
    Tls {
        /// Certificate, key or CA.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// The running API.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
}

impl Api {
    /// Listens and serves until `shutdown`.
    pub async fn start(
        config: ApiConfig,
        auth: Arc<dyn Authorizer>,
        pods: Arc<dyn PodLookup>,
        runtime: cri::Runtime,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Api, ApiError> {
        let node_name = config.node_name.clone();
        let state = routes::State { node_name, auth, pods, runtime, tasks, shutdown };
        let address = server::start(&config, state).await?;
        Ok(Api { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
