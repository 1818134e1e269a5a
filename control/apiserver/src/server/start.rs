//! The seam to the registry at start: its caches, and the default objects.

use std::collections::HashMap;
use std::sync::Arc;

use store::{Store, WatchCache};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ApiServer, StartError, WATCHED};
use crate::Config;
use crate::authz;
use crate::registry::Registry;

/// Caches by group and resource.
pub(super) type Caches = HashMap<(String, String), WatchCache>;

pub(super) fn open_registry(
    config: &Arc<Config>,
    store: &Arc<dyn Store>,
    _tasks: &TaskTracker,
    _shutdown: &CancellationToken,
) -> Registry {
    Registry::new(config.clone(), store.clone())
}

pub(super) async fn open_caches(_registry: &Registry) -> Result<Caches, StartError> {
    let _ = WATCHED;
    Ok(HashMap::new())
}

impl ApiServer {
    pub(super) async fn bootstrap(&self, caches: &Caches) -> Result<(), StartError> {
        let group = "rbac.authorization.k8s.io";
        let existing = |resource: &str, namespace: &str, name: &str| {
            let cache = caches.get(&(group.to_owned(), resource.to_owned()))?;
            let prefix = cache.prefix();
            let key = if namespace.is_empty() { format!("{prefix}{name}") } else { format!("{prefix}{namespace}/{name}") };
            cache.get(&key)
        };
        authz::bootstrap::write::ensure(self.inner(), existing)
            .await
            .map_err(|(action, status)| StartError::Bootstrap { action, status })
    }
}
