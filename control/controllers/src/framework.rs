//! What controllers share: informers, clients, the way from a change to a reconciliation, errors.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use informer::kinds::service_of;
use informer::queue::{self, Action, Key, Queue};
use informer::recorder::Recorder;
use informer::rest::{Path, Rest};
use informer::source::error_chain;
use informer::{Builder, Informer, Projection};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ClientFor;
use crate::objects::{
    Budget, ClusterRole, Deployment, EndpointSlice, Endpoints, Namespace, Node, Pod, ReplicaSet, ReplicationController,
    Service, ServiceAccount,
};

/// One watch a resource, for all controllers.
#[derive(Clone)]
pub(crate) struct Informers {
    /// Indexes: [`OWNER`], [`ORPHAN`], [`NODE`], [`NAMESPACE`].
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
    /// Index: [`NAMESPACE`].
    pub(crate) services: Informer<Service>,
    /// Index: [`SERVICE`].
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) deployments: Informer<Deployment>,
    /// Indexes: [`OWNER`], [`ORPHAN`].
    pub(crate) replica_sets: Informer<ReplicaSet>,
    /// Index: [`OWNER`].
    pub(crate) replication_controllers: Informer<ReplicationController>,
    pub(crate) cluster_roles: Informer<ClusterRole>,
    /// Index: [`NAMESPACE`].
    pub(crate) budgets: Informer<Budget>,
}

/// By uid of the managing controller.
pub(crate) const OWNER: &str = "owner";
/// Objects without a managing controller, by namespace.
pub(crate) const ORPHAN: &str = "orphan";
/// Pods by the node they are on.
pub(crate) const NODE: &str = "node";
/// By namespace.
pub(crate) const NAMESPACE: &str = "namespace";
/// EndpointSlices by `namespace/service`.
pub(crate) const SERVICE: &str = "service";

/// See [`collecting`].
const FEW: u32 = 20;
/// See [`collecting`].
const MOST: Duration = Duration::from_secs(1);

/// What a controller is started with.
pub(crate) struct Env {
    pub(crate) client_for: ClientFor,
    pub(crate) informers: Informers,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Why a reconciliation could not be completed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A request failed.
    Request {
        doing: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// An object is not what it should be.
    Invalid { object: String, why: String },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says what a request was for.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

// === impl Error ===

impl Error {
    /// What went wrong, without what it was for.
    pub(crate) fn cause(&self) -> String {
        match self {
            Error::Request { source, .. } => informer::rest::message(source),
            Error::Invalid { why, .. } => why.clone(),
        }
    }
}

/// Queues print this as it is, so the causes belong here.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Request { doing, source } => write!(f, "cannot {doing}: {}", error_chain(source.as_ref())),
            Error::Invalid { object, why } => write!(f, "{object}: {why}"),
        }
    }
}

impl<T> Doing<T> for std::result::Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Request { doing: what(), source: Box::new(source) })
    }
}

// === impl Informers ===

impl Informers {
    pub(crate) fn start(client: &kube::Client, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        fn owner<T: Projection>(object: &T) -> Vec<String> {
            object.meta().controller().map(|owner| owner.uid.clone()).into_iter().collect()
        }
        fn orphan<T: Projection>(object: &T) -> Vec<String> {
            let meta = object.meta();
            if meta.controller().is_none() { vec![meta.namespace.clone()] } else { Vec::new() }
        }
        fn of<T: Projection>(client: &kube::Client) -> Builder<T> {
            Informer::<T>::builder(client.clone())
        }
        let on_node = |pod: &Pod| vec![pod.spec.node_name.clone()];
        Self {
            pods: of::<Pod>(client)
                .index(OWNER, owner)
                .index(ORPHAN, orphan)
                .index(NODE, on_node)
                .index(NAMESPACE, |pod| vec![pod.metadata.namespace.clone()])
                .start(tasks, shutdown.clone()),
            nodes: of(client).start(tasks, shutdown.clone()),
            namespaces: of(client).start(tasks, shutdown.clone()),
            service_accounts: of::<ServiceAccount>(client)
                .field_selector("metadata.name=default")
                .start(tasks, shutdown.clone()),
            services: of::<Service>(client)
                .index(NAMESPACE, |service| vec![service.metadata.namespace.clone()])
                .start(tasks, shutdown.clone()),
            endpoint_slices: of::<EndpointSlice>(client)
                .index(SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect())
                .start(tasks, shutdown.clone()),
            endpoints: of(client).start(tasks, shutdown.clone()),
            deployments: of(client).start(tasks, shutdown.clone()),
            replica_sets: of::<ReplicaSet>(client)
                .index(OWNER, owner)
                .index(ORPHAN, orphan)
                .start(tasks, shutdown.clone()),
            replication_controllers: of::<ReplicationController>(client)
                .index(OWNER, owner)
                .start(tasks, shutdown.clone()),
            cluster_roles: of(client).start(tasks, shutdown.clone()),
            budgets: of::<Budget>(client)
                .index(NAMESPACE, |budget| vec![budget.metadata.namespace.clone()])
                .start(tasks, shutdown.clone()),
        }
    }
}

// === impl Env ===

impl Env {
    /// Requests under a controller's own identity.
    pub(crate) fn rest(&self, controller: &str) -> Rest {
        Rest::new((self.client_for)(controller))
    }

    /// Events under a controller's own identity.
    pub(crate) fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new((self.client_for)(controller), controller, "", &self.tasks, self.shutdown.clone())
    }

    /// Works `queue` off once `synced` is over: deciding on half a picture would create and delete wrongly.
    pub(crate) fn run<K, C, W>(
        &self,
        queue: Queue<K>,
        parallelism: usize,
        synced: impl Future<Output = ()> + Send + 'static,
        controller: Arc<C>,
        reconcile: impl Fn(Arc<C>, K) -> W + Send + Sync + 'static,
    ) where
        K: Key,
        C: Send + Sync + 'static,
        W: Future<Output = Result<Action>> + Send + 'static,
    {
        let (tasks, shutdown) = (self.tasks.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = synced => {}
            }
            let work = move |key| reconcile(Arc::clone(&controller), key);
            queue::run(queue, parallelism, work, &tasks, shutdown.clone());
        });
    }
}

/// A future that ends when all these informers know the cluster.
macro_rules! synced {
    ($($informer:expr),+ $(,)?) => {
        $crate::framework::wait(vec![$({
            let informer = $informer.clone();
            Box::pin(async move { informer.synced().await }) as futures::future::BoxFuture<'static, ()>
        }),+])
    };
}
pub(crate) use synced;

pub(crate) async fn wait(all: Vec<futures::future::BoxFuture<'static, ()>>) {
    futures::future::join_all(all).await;
}

/// How long changes of one of `size` things are collected, `each` for every one: all of them are looked at together. Where
/// they are few, each change is dealt with at once.
pub(crate) fn collecting(size: usize, each: Duration) -> Duration {
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    if size < FEW { Duration::ZERO } else { each.saturating_mul(size).min(MOST) }
}

/// Changes an object as it is now, or one of its subresources, by replacing it; most controllers may update but not patch.
/// Nothing is written if nothing changes. None if the object (with this uid) is gone.
pub(crate) async fn update(
    rest: &Rest,
    object: &Path,
    subresource: Option<&str>,
    uid: &str,
    change: impl FnOnce(&mut Value) + Send,
) -> Result<Option<Value>> {
    let doing = || format!("update {}", object.as_str());
    let Some(before) = rest.get_opt(object).await.doing(doing)? else { return Ok(None) };
    if before["metadata"]["uid"] != uid {
        return Ok(None);
    }
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok(Some(after));
    }
    let path = match subresource {
        Some(subresource) => object.clone().child(subresource),
        None => object.clone(),
    };
    informer::rest::absent_is_none(rest.update(&path, &after).await).doing(doing)
}

/// The path of an object known by its projection.
pub(crate) fn path_of<T: Projection>(object: &T) -> Path {
    let meta = object.meta();
    Path::object(T::GROUP, T::VERSION, T::RESOURCE, &meta.namespace, &meta.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_many_are_collected() {
        let millis = |size| collecting(size, Duration::from_micros(500)).as_millis();
        assert_eq!([0, 19, 20, 1500, 10_000].map(millis), [0, 0, 10, 750, 1000]);
    }
}
