//! The server: its parts, its start, and its two ways in: TLS for the network, a `tower` service for this process.

pub(crate) mod body;
mod gzip;
pub(crate) mod health;
mod in_process;
mod listener;
mod metrics;
mod pipeline;
mod pretty;
pub(crate) mod respond;
mod start;
mod websocket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use store::{Store, WatchCache};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::auth::tokens::{Objects, TokenIssuer};
use crate::authz::Authorizer;
use crate::discovery::Discovery;
use crate::pki::{self, Live, Pki, PkiError};
use crate::proxy::Streams;
use crate::registry::Registry;
use crate::request::Services;
pub use listener::Limits;
use metrics::Metrics;
use start::open_caches;

/// The caches that authentication, authorisation and streams look into.
const WATCHED: [(&str, &str); 13] = [
    ("", "namespaces"),
    ("", "pods"),
    ("", "nodes"),
    ("", "services"),
    ("", "endpoints"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
];

/// Why the server cannot start or serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates and keys.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The service-account key.
    #[error("the service-account key cannot be used: {0}")]
    Key(#[from] crate::auth::tokens::TokenError),
    /// The port.
    #[error("cannot listen on {address}: another server may run there; choose another --port or --bind-address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The store or the default objects.
    #[error("cannot {action}: {status}")]
    Bootstrap {
        /// What was tried.
        action: String,
        /// How it was refused.
        status: apimachinery::status::Status,
    },
}

/// The API server. Clones share it.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    objects: Objects,
    pub(crate) config: Arc<Config>,
    pki: Arc<Pki>,
    store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) services: Arc<Services>,
    streams: Streams,
    discovery: Discovery,
    metrics: Metrics,
    limits: Limits,
    ready: AtomicBool,
    address: OnceLock<SocketAddr>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl ApiServer {
    /// Opens the PKI, starts the registry and writes the default objects. Afterwards [`client`](Self::client) works;
    /// [`serve`](Self::serve) opens the port.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        Self::start_with(config, store, tasks, shutdown, Limits::default()).await
    }

    /// [`start`](Self::start) with other limits.
    pub async fn start_with(
        config: Config,
        store: Arc<dyn Store>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let pki = Arc::new(Pki::open_or_create(&config.data_dir.join("pki"), config.certificate_life)?);
        let registry = Registry::new(config.clone(), store.clone(), tasks.clone(), shutdown.clone());
        let caches = open_caches(&registry).await?;
        let objects = lookup(caches.clone());
        let tokens = TokenIssuer::new(&config.issuer(), pki.service_account_key_pem(), objects.clone())?;
        let authorizer = Arc::new(Authorizer::new());
        authorizer.follow(
            |group, resource| caches.get(&(group.to_owned(), resource.to_owned())).cloned(),
            &tasks,
            &shutdown,
        );
        let client = pki.keep("apiserver-kubelet-client", &tasks, &shutdown, Pki::kubelet_client)?;
        let streams = Streams::new(pki.ca_pem(), client, objects.clone(), tasks.clone(), shutdown.clone())?;
        let discovery = Discovery::new(format!("{}:{}", config.advertise_address, config.port), &config.version);
        let services = Arc::new(Services { authorizer, tokens: Arc::new(tokens) });
        let inner = Arc::new(Inner {
            objects,
            config,
            pki,
            store,
            registry,
            services,
            streams,
            discovery,
            metrics: Metrics::new(),
            limits,
            ready: AtomicBool::new(false),
            address: OnceLock::new(),
            tasks,
            shutdown,
        });
        let server = Self { inner };
        server.bootstrap().await?;
        server.inner.ready.store(true, Ordering::Release);
        Ok(server)
    }

    /// Binds the port, writes the administrators' kubeconfig and serves until shutdown. Returns the address once the port
    /// is open; connections are served by tasks of the server.
    pub async fn serve(&self) -> Result<SocketAddr, StartError> {
        let inner = &self.inner;
        let config = &inner.config;
        let address = SocketAddr::new(config.bind_address, config.port);
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let server = self.certificate("server", "kube-apiserver", pki::server_sans(config))?;
        let tls = listener::tls(inner.pki.ca_pem(), server)?;
        let host = if bound.ip().is_unspecified() { config.advertise_address } else { bound.ip() };
        let url = format!("https://{}", SocketAddr::new(host, bound.port()));
        self.keep_kubeconfig(url.clone())?;
        // A second call serves the same on another port; the first address stays the known one.
        let _ = inner.address.set(bound);
        let accepting = (inner.clone(), listener, tls);
        supervise::spawn("API listener", &inner.tasks, &inner.shutdown, accepting, |(inner, listener, tls)| {
            Box::pin(listener::run(inner, listener, tls))
        });
        tracing::info!(%url, "serving");
        Ok(bound)
    }

    /// A client in this process for a user in some groups: no socket, the same authorisation and admission.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        in_process::client(self.inner.clone(), user, groups)
    }

    /// The cluster's certificates and keys.
    pub fn pki(&self) -> &Pki {
        &self.inner.pki
    }

    /// A serving certificate, kept as NAME.pem and renewed while the server runs.
    pub fn certificate(&self, name: &'static str, common_name: &str, sans: Vec<String>) -> Result<Live, PkiError> {
        let (inner, common_name) = (&self.inner, common_name.to_owned());
        inner.pki.keep(name, &inner.tasks, &inner.shutdown, move |pki| pki.server(name, &common_name, &sans))
    }

    /// Writes the administrators' kubeconfig, now and whenever their certificate is renewed.
    fn keep_kubeconfig(&self, url: String) -> Result<(), PkiError> {
        let inner = &self.inner;
        let mut paths = vec![inner.config.data_dir.join("kubeconfig")];
        paths.extend(inner.config.kubeconfig_copy.clone());
        let written = move |pki: &Pki| {
            let admin = pki.admin()?;
            paths.iter().try_for_each(|path| pki::write_kubeconfig(path, &url, pki.ca_pem(), &admin))?;
            Ok(admin)
        };
        inner.pki.keep("admin", &inner.tasks, &inner.shutdown, written).map(drop)
    }

    /// Where the server listens, once it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.inner.address.get().copied()
    }

    /// The `user` in this process asks; for what has no place in `kube`'s client.
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    /// An object's bytes, for the resources in [`WATCHED`].
    pub(crate) fn existing(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<bytes::Bytes> {
        (self.objects)(group, resource, namespace, name)
    }
}

/// Finds objects in the caches by group, resource, namespace and name.
fn lookup(caches: HashMap<(String, String), WatchCache>) -> Objects {
    Arc::new(move |group, resource, namespace, name| {
        let cache = caches.get(&(group.to_owned(), resource.to_owned()))?;
        let prefix = cache.prefix();
        let key = if namespace.is_empty() { format!("{prefix}{name}") } else { format!("{prefix}{namespace}/{name}") };
        Some(cache.get(&key)?.bytes.clone())
    })
}

#[cfg(test)]
mod tests;
