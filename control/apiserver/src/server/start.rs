//! The seam to the registry at start: its caches, and the default objects.

use std::collections::HashMap;

use store::WatchCache;

use super::{ApiServer, StartError, WATCHED};
use crate::authz;
use crate::bootstrap;
use crate::registry::Registry;

/// Caches by group and resource.
pub(super) type Caches = HashMap<(String, String), WatchCache>;

/// Starts the caches that authentication, authorisation and streams look into, all at once.
pub(super) async fn open_caches(registry: &Registry) -> Result<Caches, StartError> {
    let opened = WATCHED.map(|(group, resource)| async move {
        let cache = registry.cache(group, resource).await.map_err(|status| StartError::Bootstrap {
            action: format!("start the watch cache of {resource}"),
            status,
        })?;
        Ok(((group.to_owned(), resource.to_owned()), cache.clone()))
    });
    futures::future::join_all(opened).await.into_iter().collect()
}

impl ApiServer {
    /// Writes the default objects: what has no namespace all at once, then what needs one.
    pub(super) async fn bootstrap(&self) -> Result<(), StartError> {
        let inner = self.inner();
        let all = async {
            let objects = bootstrap::run(&inner.registry);
            futures::future::try_join(objects, authz::bootstrap::write::ensure(inner, false)).await?;
            authz::bootstrap::write::ensure(inner, true).await
        };
        Box::pin(all).await.map_err(|(action, status)| StartError::Bootstrap { action, status })
    }
}
