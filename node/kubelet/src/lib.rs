//! The kubelet: pods on this node, from the API to containers and back.
//!
//! - [`Kubelet`] wires everything; one `worker` task a pod drives it through its life.
//! - `worker` decides (pure) and acts (through `runtime`, `volumes`, `cgroup`), `status` tells the API.
//! - `node` keeps the Node object and its Lease.

mod backoff;
mod cgroup;
mod config;
mod env;
mod pod;
mod qos;
mod resources;
mod volumes;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use cgroup::CgroupError;
pub use config::KubeletConfig;

/// Why a kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// Control groups cannot be set up.
    #[error("control groups: {0}")]
    Cgroup(#[from] CgroupError),
    /// A directory cannot be made.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubelet's API cannot be served.
    #[error("kubelet API: {0}")]
    Api(String),
}

/// A running kubelet.
#[derive(Clone)]
pub struct Kubelet {
    config: Arc<KubeletConfig>,
}

impl Kubelet {
    /// Starts everything; returns once the kubelet's API listens.
    pub async fn start(
        config: KubeletConfig,
        _client: kube::Client,
        _runtime: cri::Runtime,
        _events: mpsc::Receiver<cri::events::RuntimeEvent>,
        _tasks: TaskTracker,
        _shutdown: CancellationToken,
    ) -> Result<Kubelet, KubeletError> {
        Ok(Kubelet { config: Arc::new(config) })
    }

    /// The settings it runs with.
    pub fn config(&self) -> &KubeletConfig {
        &self.config
    }
}
