//! What pod workers share, with the seams a test replaces: runtime, API, events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use informer::Informer;
use informer::kinds::Service;
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, DeleteOptions, Path, Rest};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroups;
use crate::container::Settings;
use crate::downward::NodeCapacity;
use crate::objects::Objects;
use crate::pod::{self, PodId};
use crate::runtime::PodRuntime;

/// Why the API server did not do what a worker asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ApiFailure {
    /// The pod (of this uid) is gone.
    #[error("the pod does not exist any more")]
    Gone,
    /// Something that may pass.
    #[error("{0}")]
    Other(String),
}

/// The writes of a worker.
#[async_trait]
pub(crate) trait PodApi: Send + Sync + 'static {
    /// Patches the status; answers the object as it then is.
    async fn patch_status(&self, id: &PodId, patch: Value) -> Result<Pod, ApiFailure>;
    /// Removes the object at once, if it still is that pod.
    async fn delete(&self, id: &PodId) -> Result<(), ApiFailure>;
}

/// Where events go.
pub(crate) trait EventSink: Send + Sync + 'static {
    /// Tells of something that happened to a pod, or to a container of it.
    fn event(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: String);
}

/// Everything a worker needs besides its pod.
pub(crate) struct Context {
    pub(crate) runtime: Arc<dyn PodRuntime>,
    pub(crate) api: Arc<dyn PodApi>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) client: Option<kube::Client>,
    pub(crate) objects: Option<Arc<Objects>>,
    pub(crate) services: Option<Informer<Service>>,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) settings: Settings,
    pub(crate) host_ip: String,
    pub(crate) capacity: NodeCapacity,
    pub(crate) registry: Registry,
    /// Rings when a pod holds nothing of the node any more.
    pub(crate) freed: Notify,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// Which pod a container or sandbox of the runtime belongs to.
#[derive(Default)]
pub(crate) struct Registry {
    owners: Mutex<HashMap<String, String>>,
}

impl Registry {
    /// Notes that this container or sandbox is the pod's.
    pub(crate) fn add(&self, id: &str, uid: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), uid.to_owned());
    }

    /// The uid of the pod that owns it.
    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Forgets one.
    pub(crate) fn remove(&self, id: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Forgets all of a pod.
    pub(crate) fn remove_pod(&self, uid: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| owner != uid);
    }
}

/// The API server behind a client.
pub(crate) struct ClientApi {
    pub(crate) rest: Rest,
}

fn failure(error: kube::Error) -> ApiFailure {
    match error {
        // A uid that does not match answers 409: the pod we mean is gone.
        kube::Error::Api(status) if status.code == 404 => ApiFailure::Gone,
        kube::Error::Api(status) if status.code == 409 && status.message.to_lowercase().contains("uid") => {
            ApiFailure::Gone
        }
        error => ApiFailure::Other(rest::message(&error)),
    }
}

fn path(id: &PodId) -> Path {
    Path::object("", "v1", "pods", &id.namespace, &id.name)
}

#[async_trait]
impl PodApi for ClientApi {
    async fn patch_status(&self, id: &PodId, patch: Value) -> Result<Pod, ApiFailure> {
        let pod = self.rest.strategic_merge(&path(id).child("status"), &patch).await.map_err(failure)?;
        serde_json::from_value(pod).map_err(|error| ApiFailure::Other(error.to_string()))
    }

    async fn delete(&self, id: &PodId) -> Result<(), ApiFailure> {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(id.uid.as_str()) };
        self.rest.delete(&path(id), &options).await.map(drop).map_err(failure)
    }
}

impl EventSink for Recorder {
    fn event(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: String) {
        let object = ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
            field_path: container.map(|name| pod::field_path(pod, name)).unwrap_or_default(),
        };
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        Recorder::event(self, &object, kind, reason, message);
    }
}
