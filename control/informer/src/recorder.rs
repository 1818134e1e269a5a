//! Events about objects. To be filled in.
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The object an Event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Revision, may be empty.
    pub resource_version: String,
    /// A part of the object, e.g. `spec.containers{web}`, may be empty.
    pub field_path: String,
}

/// How serious an Event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Someone may have to act.
    Warning,
}

/// Writes Events for one component. Clones share its queue.
#[derive(Clone)]
pub struct Recorder;

impl Recorder {
    /// Starts the writer; `host` is empty for components that belong to no node.
    pub fn new(
        _client: kube::Client,
        _component: impl Into<String>,
        _host: impl Into<String>,
        _tasks: &TaskTracker,
        _shutdown: CancellationToken,
    ) -> Self {
        Recorder
    }

    /// Tells of something that happened to `object`. Never blocks: when the queue is full the Event is dropped and counted.
    pub fn event(
        &self,
        _object: &ObjectRef,
        _kind: EventType,
        _reason: impl Into<String>,
        _message: impl Into<String>,
    ) {
    }
}
