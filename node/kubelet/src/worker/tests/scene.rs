//! A pod's worker with everything around it that is not real: runtime, API server, events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cri::v1::{
    AuthConfig, Container as CriContainer, ContainerConfig, ContainerFilter, ContainerState as CriState,
    ContainerStatus, ExecSyncResponse, Image, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus, RuntimeFeatures,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Handle, Message, Phase, View, spawn};
use crate::container::Settings;
use crate::context::{ApiFailure, Context, EventSink, PodApi, Registry};
use crate::downward::NodeCapacity;
use crate::pod::PodId;
use crate::runtime::{CriError, PodRuntime};

#[derive(Default)]
pub(super) struct Inner {
    pub(super) sandboxes: HashMap<String, PodSandboxStatus>,
    pub(super) containers: HashMap<String, (String, ContainerStatus)>,
    pub(super) calls: Vec<String>,
    pub(super) counter: u32,
    /// Whose processes a container sees, where it was asked for.
    pub(super) targets: HashMap<String, String>,
    /// Containers that ignore their stop signal until they are killed.
    pub(super) stubborn: bool,
    /// The next sandbox dies as soon as it is made, and this is told.
    pub(super) stillborn: Option<mpsc::Sender<Message>>,
}

/// A runtime in memory.
#[derive(Default)]
pub(super) struct Fake {
    inner: Mutex<Inner>,
    /// Changes after whatever was done with it.
    pub(super) made: watch::Sender<()>,
}

pub(super) fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

pub(super) fn missing(call: &'static str, id: &str) -> CriError {
    CriError { call, object: id.into(), code: tonic::Code::NotFound, message: "not found".into() }
}

impl Fake {
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let done = work(&mut self.inner.lock().unwrap());
        self.made.send_replace(());
        done
    }

    pub(super) fn end(&self, id: &str, code: i32) {
        self.with(|inner| {
            let (_, status) = inner.containers.get_mut(id).unwrap();
            status.state = CriState::ContainerExited.into();
            status.exit_code = code;
            status.finished_at = now();
        });
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.inner.lock().unwrap().calls.clone()
    }
}

#[async_trait]
impl PodRuntime for Fake {
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, _: &str) -> Result<String, CriError> {
        Ok(self.with(|inner| {
            inner.counter += 1;
            let id = format!("sandbox{}", inner.counter);
            inner.calls.push(format!("run {id}"));
            let network = PodSandboxNetworkStatus { ip: "10.0.0.7".into(), additional_ips: vec![] };
            let status = PodSandboxStatus {
                id: id.clone(),
                metadata: config.metadata,
                state: PodSandboxState::SandboxReady.into(),
                network: Some(network),
                labels: config.labels,
                ..PodSandboxStatus::default()
            };
            inner.sandboxes.insert(id.clone(), status);
            id
        }))
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.with(|inner| {
            inner.calls.push(format!("stop {id}"));
            if let Some(sandbox) = inner.sandboxes.get_mut(id) {
                sandbox.state = PodSandboxState::SandboxNotready.into();
            }
        });
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.with(|inner| {
            inner.calls.push(format!("remove {id}"));
            inner.sandboxes.remove(id);
        });
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<Option<PodSandboxStatus>, CriError> {
        let (status, dies) = self.with(|inner| (inner.sandboxes.get(id).cloned(), inner.stillborn.take()));
        if let Some(inbox) = dies {
            inbox.send(Message::Exited(id.to_owned())).await.unwrap();
            // The worker has the message before it has this answer.
            tokio::task::yield_now().await;
        }
        Ok(status)
    }

    async fn list_pod_sandboxes(&self, _: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, CriError> {
        let one =
            |s: &PodSandboxStatus| PodSandbox { id: s.id.clone(), labels: s.labels.clone(), ..Default::default() };
        Ok(self.with(|inner| inner.sandboxes.values().map(one).collect()))
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        _: PodSandboxConfig,
    ) -> Result<String, CriError> {
        Ok(self.with(|inner| {
            let meta = config.metadata.clone().unwrap();
            let id = format!("{}-{}", meta.name, meta.attempt);
            inner.calls.push(format!("create {id}"));
            let security = config.linux.and_then(|linux| linux.security_context);
            let target = security.and_then(|s| s.namespace_options).map(|n| n.target_id).unwrap_or_default();
            if !target.is_empty() {
                inner.targets.insert(id.clone(), target);
            }
            let status = ContainerStatus {
                id: id.clone(),
                metadata: config.metadata,
                state: CriState::ContainerCreated.into(),
                created_at: now(),
                labels: config.labels,
                annotations: config.annotations,
                ..ContainerStatus::default()
            };
            inner.containers.insert(id.clone(), (sandbox.to_owned(), status));
            id
        }))
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        self.with(|inner| {
            inner.calls.push(format!("start {id}"));
            let (_, status) = inner.containers.get_mut(id).unwrap();
            status.state = CriState::ContainerRunning.into();
            status.started_at = now();
        });
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let (stubborn, made) = self.with(|inner| {
            inner.calls.push(format!("stop {id} {}", grace.as_secs()));
            (inner.stubborn, inner.containers[id].1.state() == CriState::ContainerCreated)
        });
        // containerd has nothing to stop then, says so with OK, and leaves the container as it is.
        if made {
            return Ok(());
        }
        if stubborn {
            tokio::time::sleep(grace).await;
        }
        self.end(id, if stubborn { 137 } else { 0 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.with(|inner| {
            inner.calls.push(format!("remove {id}"));
            inner.containers.remove(id);
        });
        Ok(())
    }

    async fn list_containers(&self, _: Option<ContainerFilter>) -> Result<Vec<CriContainer>, CriError> {
        let one = |(sandbox, status): &(String, ContainerStatus)| CriContainer {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            labels: status.labels.clone(),
            ..CriContainer::default()
        };
        Ok(self.with(|inner| inner.containers.values().map(one).collect()))
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        let found = self.with(|inner| inner.containers.get(id).map(|(_, status)| status.clone()));
        found.ok_or_else(|| missing("ContainerStatus", id))
    }

    async fn exited_container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        self.container_status(id).await
    }

    async fn exec_sync(&self, id: &str, _: Vec<String>, _: Duration) -> Result<ExecSyncResponse, CriError> {
        self.with(|inner| inner.calls.push(format!("exec {id}")));
        Ok(ExecSyncResponse::default())
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, CriError> {
        let image = Image { id: format!("sha256:{image}"), ..Image::default() };
        Ok((image.id != "sha256:none:1").then_some(image))
    }

    async fn pull_image(&self, image: &str, _: Option<AuthConfig>, _: &PodSandboxConfig) -> Result<String, CriError> {
        self.with(|inner| inner.calls.push(format!("pull {image}")));
        Err(missing("PullImage", image))
    }

    async fn reopen_container_log(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }

    async fn update_container_resources(&self, id: &str, limits: LinuxContainerResources) -> Result<(), CriError> {
        self.with(|inner| {
            inner.calls.push(format!("update {id} {} {}", limits.cpu_quota, limits.memory_limit_in_bytes));
        });
        Ok(())
    }

    async fn memory_usage(&self, _: &str) -> Result<Option<u64>, CriError> {
        Ok(Some(8 << 20))
    }

    async fn features(&self) -> Result<RuntimeFeatures, CriError> {
        Ok(RuntimeFeatures::default())
    }
}

/// An API server in memory: one pod's status, and whether the object is there.
pub(super) struct FakeApi {
    pub(super) pod: Mutex<Pod>,
    deleted: watch::Sender<bool>,
}

#[async_trait]
impl PodApi for FakeApi {
    async fn patch_status(&self, _: &PodId, patch: Value) -> Result<Pod, ApiFailure> {
        let mut pod = self.pod.lock().unwrap();
        let mut status = serde_json::to_value(pod.status.clone().unwrap_or_default()).unwrap();
        for (key, value) in patch["status"].as_object().unwrap() {
            status[key] = match (key.as_str(), status[key].as_array()) {
                ("conditions", Some(old)) => {
                    let new = value.as_array().unwrap();
                    let kept = old.iter().filter(|old| new.iter().all(|new| new["type"] != old["type"]));
                    kept.chain(new).cloned().collect()
                }
                _ => value.clone(),
            };
        }
        pod.status = Some(serde_json::from_value::<PodStatus>(status).unwrap());
        Ok(pod.clone())
    }

    async fn delete(&self, _: &PodId) -> Result<(), ApiFailure> {
        self.deleted.send_replace(true);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Events(pub(super) Mutex<Vec<String>>);

impl EventSink for Events {
    fn event(&self, _: &Pod, _: Option<&str>, _: bool, reason: &str, _: String) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

pub(super) struct Scene {
    pub(super) runtime: Arc<Fake>,
    pub(super) api: Arc<FakeApi>,
    pub(super) events: Arc<Events>,
    pub(super) context: Arc<Context>,
    pub(super) pod: Pod,
    pub(super) handle: Handle,
    _dir: tempfile::TempDir,
}

pub(super) fn container(name: &str) -> Container {
    Container { name: name.into(), image: Some("a:1".into()), ..Container::default() }
}

impl Scene {
    pub(super) fn start(spec: PodSpec) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.uid = Some("u".into());
        let settings =
            Settings { pods_dir: dir.path().join("pods"), logs_dir: dir.path().join("logs"), ..Settings::for_tests() };
        let (runtime, events) = (Arc::new(Fake::default()), Arc::new(Events::default()));
        let api = Arc::new(FakeApi { pod: Mutex::new(pod.clone()), deleted: watch::Sender::new(false) });
        let context = Arc::new(Context {
            runtime: runtime.clone(),
            api: api.clone(),
            events: events.clone(),
            client: None,
            objects: None,
            services: None,
            cgroups: None,
            settings,
            host_ip: "192.168.0.1".into(),
            capacity: NodeCapacity::default(),
            registry: Registry::default(),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        let handle = spawn(&context, Arc::new(pod.clone()), None);
        Scene { runtime, api, events, context, pod, handle, _dir: dir }
    }

    pub(super) async fn until(&mut self, what: &str, reached: impl Fn(&View) -> bool) -> Arc<View> {
        let wait = self.handle.view.wait_for(|view| reached(view));
        match tokio::time::timeout(Duration::from_secs(600), wait).await {
            Ok(Ok(view)) => Arc::clone(&view),
            _ => panic!("not reached: {what}; calls: {:?}", self.runtime.calls()),
        }
    }

    /// Waits for a call of the runtime.
    pub(super) async fn called(&self, call: &str) {
        let mut made = self.runtime.made.subscribe();
        let wait = made.wait_for(|_| self.runtime.calls().iter().any(|made| made == call));
        let made = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(made.is_ok(), "no {call} in {:?}", self.runtime.calls());
    }

    pub(super) async fn running(&mut self, id: &str) {
        let runs = |view: &View| {
            view.records.values().filter_map(|r| r.current.as_ref()).any(|r| r.id == id && r.phase == Phase::Running)
        };
        self.until(&format!("{id} runs"), runs).await;
    }

    pub(super) async fn ends(&mut self, id: &str, code: i32) {
        self.runtime.end(id, code);
        self.tell(Message::Exited(id.into())).await;
    }

    pub(super) async fn tell(&self, message: Message) {
        self.handle.inbox.send(message).await.unwrap();
    }

    pub(super) async fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.tell(Message::Pod(Arc::new(self.pod.clone()), None)).await;
    }

    pub(super) async fn removed(&self) {
        let mut deleted = self.api.deleted.subscribe();
        let wait = deleted.wait_for(|deleted| *deleted);
        tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the object is deleted").unwrap();
    }

    pub(super) fn status(&self) -> PodStatus {
        self.api.pod.lock().unwrap().status.clone().unwrap_or_default()
    }

    pub(super) fn starts(&self) -> Vec<String> {
        self.runtime.calls().into_iter().filter_map(|call| call.strip_prefix("start ").map(str::to_owned)).collect()
    }
}

pub(super) fn phase_is(phase: &str) -> impl Fn(&View) -> bool + '_ {
    move |view| view.pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
}
