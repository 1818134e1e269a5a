//! Scenarios of a pod against a runtime that is not real: order of init containers, crash loops, termination, restarts of
//! the kubelet. Time is paused where a scenario waits.

mod resize;

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
use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Lifecycle, LifecycleHandler, Pod, PodSecurityContext, PodSpec, PodStatus,
    SleepAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Handle, Message, Phase, View, spawn};
use crate::container::Settings;
use crate::context::{ApiFailure, Context, EventSink, PodApi, Registry};
use crate::downward::NodeCapacity;
use crate::pod::PodId;
use crate::runtime::{CriError, PodRuntime};

#[derive(Default)]
struct Inner {
    sandboxes: HashMap<String, PodSandboxStatus>,
    containers: HashMap<String, (String, ContainerStatus)>,
    calls: Vec<String>,
    counter: u32,
    /// Whose processes a container sees, where it was asked for.
    targets: HashMap<String, String>,
    /// Containers that ignore their stop signal until they are killed.
    stubborn: bool,
    /// The next sandbox dies as soon as it is made, and this is told.
    stillborn: Option<mpsc::Sender<Message>>,
}

/// A runtime in memory.
#[derive(Default)]
struct Fake {
    inner: Mutex<Inner>,
    /// Changes after whatever was done with it.
    made: watch::Sender<()>,
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

fn missing(call: &'static str, id: &str) -> CriError {
    CriError { call, object: id.into(), code: tonic::Code::NotFound, message: "not found".into() }
}

impl Fake {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let done = work(&mut self.inner.lock().unwrap());
        self.made.send_replace(());
        done
    }

    fn end(&self, id: &str, code: i32) {
        self.with(|inner| {
            let (_, status) = inner.containers.get_mut(id).unwrap();
            status.state = CriState::ContainerExited.into();
            status.exit_code = code;
            status.finished_at = now();
        });
    }

    fn calls(&self) -> Vec<String> {
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

    async fn exec_sync(&self, _: &str, _: Vec<String>, _: Duration) -> Result<ExecSyncResponse, CriError> {
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
struct FakeApi {
    pod: Mutex<Pod>,
    deleted: watch::Sender<bool>,
}

#[async_trait]
impl PodApi for FakeApi {
    async fn patch_status(&self, _: &PodId, patch: Value) -> Result<Pod, ApiFailure> {
        let mut pod = self.pod.lock().unwrap();
        let mut status = serde_json::to_value(pod.status.clone().unwrap_or_default()).unwrap();
        for (key, value) in patch["status"].as_object().unwrap() {
            status[key] = value.clone();
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
struct Events(Mutex<Vec<String>>);

impl EventSink for Events {
    fn event(&self, _: &Pod, _: Option<&str>, _: bool, reason: &str, _: String) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

struct Scene {
    runtime: Arc<Fake>,
    api: Arc<FakeApi>,
    events: Arc<Events>,
    context: Arc<Context>,
    pod: Pod,
    handle: Handle,
    _dir: tempfile::TempDir,
}

fn container(name: &str) -> Container {
    Container { name: name.into(), image: Some("a:1".into()), ..Container::default() }
}

impl Scene {
    fn start(spec: PodSpec) -> Scene {
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

    async fn until(&mut self, what: &str, reached: impl Fn(&View) -> bool) -> Arc<View> {
        let wait = self.handle.view.wait_for(|view| reached(view));
        match tokio::time::timeout(Duration::from_secs(600), wait).await {
            Ok(Ok(view)) => Arc::clone(&view),
            _ => panic!("not reached: {what}; calls: {:?}", self.runtime.calls()),
        }
    }

    /// Waits for a call of the runtime.
    async fn called(&self, call: &str) {
        let mut made = self.runtime.made.subscribe();
        let wait = made.wait_for(|_| self.runtime.calls().iter().any(|made| made == call));
        let made = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(made.is_ok(), "no {call} in {:?}", self.runtime.calls());
    }

    async fn running(&mut self, id: &str) {
        let runs = |view: &View| {
            view.records.values().filter_map(|r| r.current.as_ref()).any(|r| r.id == id && r.phase == Phase::Running)
        };
        self.until(&format!("{id} runs"), runs).await;
    }

    async fn ends(&mut self, id: &str, code: i32) {
        self.runtime.end(id, code);
        self.tell(Message::Exited(id.into())).await;
    }

    async fn tell(&self, message: Message) {
        self.handle.inbox.send(message).await.unwrap();
    }

    async fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.tell(Message::Pod(Arc::new(self.pod.clone()), None)).await;
    }

    async fn removed(&self) {
        let mut deleted = self.api.deleted.subscribe();
        let wait = deleted.wait_for(|deleted| *deleted);
        tokio::time::timeout(Duration::from_secs(600), wait).await.expect("the object is deleted").unwrap();
    }

    fn status(&self) -> PodStatus {
        self.api.pod.lock().unwrap().status.clone().unwrap_or_default()
    }

    fn starts(&self) -> Vec<String> {
        self.runtime.calls().into_iter().filter_map(|call| call.strip_prefix("start ").map(str::to_owned)).collect()
    }
}

fn phase_is(phase: &str) -> impl Fn(&View) -> bool + '_ {
    move |view| view.pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
}

#[tokio::test]
async fn init_containers_run_in_order_then_the_pod_runs() {
    let spec = PodSpec {
        init_containers: Some(vec![container("i1"), container("i2")]),
        containers: vec![container("a"), container("b")],
        ..PodSpec::default()
    };
    let mut scene = Scene::start(spec);
    scene.running("i1-0").await;
    assert_eq!(scene.starts(), ["i1-0"]);
    scene.ends("i1-0", 0).await;
    scene.running("i2-0").await;
    scene.ends("i2-0", 0).await;
    let view = scene.until("phase Running", phase_is("Running")).await;
    let status = view.pod.status.clone().unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
    let met = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    assert!(met("Initialized") && met("Ready") && met("ContainersReady") && met("PodReadyToStartContainers"));
    let mut starts = scene.starts();
    starts[2..].sort();
    assert_eq!(starts, ["i1-0", "i2-0", "a-0", "b-0"]);
}

#[tokio::test]
async fn a_crash_restarts_at_once_then_backs_off_and_keeps_the_last_state() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.ends("a-0", 3).await;
    scene.running("a-1").await;
    scene.ends("a-1", 4).await;
    let view = scene.until("back-off", |view| view.waiting.contains_key("a")).await;
    assert_eq!(view.waiting["a"].reason, "CrashLoopBackOff");
    let status = view.pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone();
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 4);
    assert_eq!(scene.starts(), ["a-0", "a-1"], "the third start waits");
    assert!(scene.events.0.lock().unwrap().contains(&"BackOff".to_owned()));
}

#[tokio::test]
async fn deletion_stops_cleans_up_and_only_then_removes_the_object() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.delete(30).await;
    scene.removed().await;
    let calls = scene.runtime.calls();
    let at = |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("no {call} in {calls:?}"));
    assert!(at("stop a-0 30") < at("stop sandbox1"));
    assert!(at("stop sandbox1") < at("remove a-0") && at("remove a-0") < at("remove sandbox1"));
    assert!(
        !scene.context.settings.pods_dir.join("u").exists() && !scene.context.settings.logs_dir.join("ns_p_u").exists()
    );
    let status = scene.status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated;
    assert_eq!(ended.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_container_that_was_made_but_never_started_does_not_hold_the_pod() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    // What a kubelet leaves that ends, or whose pod is deleted, between create and start.
    scene.runtime.with(|inner| {
        let (_, status) = inner.containers.get_mut("a-0").unwrap();
        status.state = CriState::ContainerCreated.into();
    });
    scene.handle = spawn(&scene.context, Arc::new(scene.pod.clone()), None);
    scene.delete(30).await;
    scene.removed().await;
    let stops = scene.runtime.calls().iter().filter(|call| call.starts_with("stop a-0")).count();
    assert_eq!(stops, 1, "{:?}", scene.runtime.calls());
}

#[tokio::test]
async fn a_pre_stop_hook_counts_against_the_grace_and_impatience_cuts_it() {
    let hook = LifecycleHandler { sleep: Some(SleepAction { seconds: 3600 }), ..LifecycleHandler::default() };
    let lifecycle = Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() };
    let with_hook = Container { lifecycle: Some(lifecycle), ..container("a") };
    let mut scene = Scene::start(PodSpec { containers: vec![with_hook], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.delete(3000).await;
    // Only now: the hook sleeps, and nothing but a shorter grace can end it in time.
    scene.delete(0).await;
    scene.until("killed", |_| true).await;
    scene.called("stop a-0 0").await;
}

#[tokio::test]
async fn a_finished_pod_gives_back_its_sandbox_and_keeps_its_containers() {
    let spec = PodSpec { restart_policy: Some("Never".into()), containers: vec![container("a")], ..PodSpec::default() };
    let mut scene = Scene::start(spec);
    scene.running("a-0").await;
    scene.ends("a-0", 1).await;
    scene.until("phase Failed", phase_is("Failed")).await;
    scene.called("stop sandbox1").await;
    assert!(!scene.runtime.calls().iter().any(|call| call.starts_with("remove")));
}

#[tokio::test]
async fn a_container_called_like_a_step_of_the_worker_holds_none() {
    let names = ["release", "cleanup", "remove"];
    let mut scene = Scene::start(PodSpec { containers: names.map(container).into(), ..PodSpec::default() });
    for run in ["0", "1"] {
        for name in names {
            let id = format!("{name}-{run}");
            scene.running(&id).await;
            scene.ends(&id, 1).await;
        }
    }
    scene.until("back-off", |view| names.iter().all(|name| view.waiting.contains_key(*name))).await;
    let began = std::time::Instant::now();
    scene.delete(30).await;
    scene.removed().await;
    assert!(began.elapsed() < Duration::from_secs(5), "a back-off of 10 s was waited for");
}

#[tokio::test]
async fn the_kernels_word_of_lacking_memory_counts_before_and_after_the_end() {
    for before in [true, false] {
        let spec =
            PodSpec { restart_policy: Some("Never".into()), containers: vec![container("a")], ..PodSpec::default() };
        let mut scene = Scene::start(spec);
        scene.running("a-0").await;
        if before {
            scene.tell(Message::Oom("a-0".into())).await;
            scene.ends("a-0", 137).await;
        } else {
            scene.ends("a-0", 137).await;
            scene.until("phase Failed", phase_is("Failed")).await;
            scene.tell(Message::Oom("a-0".into())).await;
        }
        let reason = |view: &View| {
            let run = view.records["a"].current.as_ref();
            run.is_some_and(|run| run.reason == "OOMKilled")
        };
        scene.until("OOMKilled", reason).await;
    }
}

#[tokio::test]
async fn a_sandbox_that_dies_before_it_is_known_is_replaced() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.runtime.with(|inner| inner.stillborn = Some(scene.handle.inbox.clone()));
    scene.called("run sandbox2").await;
    scene.running("a-0").await;
}

#[tokio::test]
async fn a_restarted_kubelet_disturbs_nothing() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.ends("a-0", 1).await;
    scene.running("a-1").await;
    let before = scene.runtime.calls();
    // A second worker on the same runtime is what a restart amounts to.
    scene.handle = spawn(&scene.context, Arc::new(scene.pod.clone()), None);
    scene.running("a-1").await;
    let view = scene.until("phase Running", phase_is("Running")).await;
    assert_eq!(scene.runtime.calls(), before);
    let status = &view.pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.restart_count, 1);
    assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_backs_off_with_upstreams_reasons() {
    let missing = Container { image: Some("none:1".into()), ..container("a") };
    let mut scene = Scene::start(PodSpec { containers: vec![missing], ..PodSpec::default() });
    let reason = |wanted: &'static str| move |view: &View| view.waiting.get("a").is_some_and(|w| w.reason == wanted);
    scene.until("ErrImagePull", reason("ErrImagePull")).await;
    scene.until("ImagePullBackOff", reason("ImagePullBackOff")).await;
    let pulls = scene.runtime.calls().iter().filter(|call| call.starts_with("pull")).count();
    assert_eq!(pulls, 1);
}

#[tokio::test]
async fn what_the_runtime_cannot_do_is_refused_instead_of_left_out() {
    let strict = PodSecurityContext { supplemental_groups_policy: Some("Strict".into()), ..Default::default() };
    for spec in [
        PodSpec { host_users: Some(false), ..PodSpec::default() },
        PodSpec { security_context: Some(strict), ..PodSpec::default() },
    ] {
        let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..spec });
        let held = |view: &View| view.waiting.get("").is_some_and(|w| w.message.contains("support"));
        scene.until("the sandbox is refused", held).await;
        assert!(!scene.runtime.calls().iter().any(|call| call.starts_with("run ")));
    }
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.tell(Message::Exited("sandbox1".into())).await;
    scene.running("a-1").await;
    let calls = scene.runtime.calls();
    assert!(calls.contains(&"run sandbox2".to_owned()) && calls.contains(&"stop a-0 2".to_owned()), "{calls:?}");
    // The dead one stays for its container's log, and goes with it.
    assert!(!calls.contains(&"remove sandbox1".to_owned()), "{calls:?}");
    scene.ends("a-1", 0).await;
    scene.running("a-2").await;
    scene.called("remove sandbox1").await;
    assert!(scene.runtime.calls().contains(&"remove a-0".to_owned()));
}

#[tokio::test]
async fn an_ephemeral_container_starts_once_and_never_again() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    let ephemeral = EphemeralContainer {
        name: "debug".into(),
        image: Some("debug:1".into()),
        target_container_name: Some("a".into()),
        ..EphemeralContainer::default()
    };
    scene.pod.spec.as_mut().unwrap().ephemeral_containers = Some(vec![ephemeral]);
    scene.tell(Message::Pod(Arc::new(scene.pod.clone()), None)).await;
    scene.running("debug-0").await;
    let target = scene.runtime.with(|inner| inner.targets.get("debug-0").cloned());
    assert_eq!(target.as_deref(), Some("a-0"), "it sees the processes of the container it is to debug");
    scene.ends("debug-0", 3).await;
    let ended = |view: &View| {
        let status = view.pod.status.as_ref().and_then(|s| s.ephemeral_container_statuses.as_ref());
        let terminated = status.and_then(|all| all[0].state.as_ref()?.terminated.as_ref());
        terminated.is_some_and(|t| t.exit_code == 3)
    };
    let view = scene.until("the ephemeral container's end is told", ended).await;
    assert_eq!(view.pod.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert_eq!(scene.starts(), ["a-0", "debug-0"]);
}
