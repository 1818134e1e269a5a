//! Scenarios of a pod against a runtime that is not real: order of init containers, crash loops, termination, restarts of
//! the kubelet.

mod order;
mod resize;
mod scene;

use std::sync::Arc;
use std::time::Duration;

use cri::v1::ContainerState as CriState;
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::core::v1::{
    EphemeralContainer, Lifecycle, LifecycleHandler, PodSecurityContext, PodSpec, SleepAction,
};

use super::{Message, View, spawn};
use scene::{Scene, container, phase_is};

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
async fn another_image_has_not_failed_yet() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    for run in ["a-0", "a-1"] {
        scene.running(run).await;
        scene.ends(run, 3).await;
    }
    scene.until("back-off", |view| view.waiting.contains_key("a")).await;
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    scene.tell(Message::Pod(Arc::new(scene.pod.clone()), None)).await;
    let began = std::time::Instant::now();
    scene.running("a-2").await;
    assert!(began.elapsed() < Duration::from_secs(5), "the back-off of another image was waited for");
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
async fn a_deletion_shortens_a_restart_that_is_under_way() {
    let spec = PodSpec {
        termination_grace_period_seconds: Some(3000),
        containers: vec![container("a")],
        ..PodSpec::default()
    };
    let mut scene = Scene::start(spec);
    scene.running("a-0").await;
    scene.runtime.with(|inner| inner.stubborn = true);
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("a:2".into());
    scene.tell(Message::Pod(Arc::new(scene.pod.clone()), None)).await;
    scene.called("stop a-0 3000").await;
    scene.delete(1).await;
    scene.called("stop a-0 1").await;
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
