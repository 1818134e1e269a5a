//! In which order containers start and end, and how all of them begin anew.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, ExecAction, Lifecycle, LifecycleHandler, PodSpec,
    SleepAction,
};

use super::super::{Message, View};
use super::scene::{Scene, container, phase_is};

fn sleeps(seconds: i64) -> Option<LifecycleHandler> {
    Some(LifecycleHandler { sleep: Some(SleepAction { seconds }), ..LifecycleHandler::default() })
}

fn sidecar(name: &str) -> Container {
    Container { restart_policy: Some("Always".into()), ..container(name) }
}

#[tokio::test]
async fn a_container_starts_when_the_one_before_is_past_its_hook() {
    let lifecycle = Lifecycle { post_start: sleeps(1), ..Lifecycle::default() };
    let first = Container { lifecycle: Some(lifecycle), ..container("z") };
    let none = Container { image: Some("none:1".into()), ..container("none") };
    let containers = vec![first, none, container("a")];
    let mut scene = Scene::start(PodSpec { containers, ..PodSpec::default() });
    let began = Instant::now();
    scene.running("a-0").await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(scene.starts(), ["z-0", "a-0"], "one that cannot be started keeps no other from it");
}

#[tokio::test]
async fn hooks_run_at_once_and_signals_come_to_sidecars_last() {
    let with_hook = |container: Container, hook| {
        let lifecycle = Lifecycle { pre_stop: hook, ..Lifecycle::default() };
        Container { lifecycle: Some(lifecycle), ..container }
    };
    let command = LifecycleHandler { exec: Some(ExecAction::default()), ..LifecycleHandler::default() };
    let mut scene = Scene::start(PodSpec {
        init_containers: Some(vec![sidecar("s1"), with_hook(sidecar("s2"), Some(command))]),
        containers: vec![with_hook(container("a"), sleeps(1))],
        ..PodSpec::default()
    });
    scene.running("a-0").await;
    scene.delete(60).await;
    scene.removed().await;
    let calls = scene.runtime.calls();
    let ends = calls.iter().filter(|call| call.starts_with("exec ") || call.starts_with("stop "));
    let order: Vec<String> = ends.map(|call| call.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(order, ["exec s2-0", "stop a-0", "stop s2-0", "stop s1-0", "stop sandbox1"]);
}

#[tokio::test]
async fn sidecars_wait_no_longer_than_the_grace() {
    let init_containers = Some(vec![sidecar("s")]);
    let mut scene = Scene::start(PodSpec { init_containers, containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.runtime.with(|inner| inner.stubborn = true);
    scene.delete(1).await;
    scene.called("stop s-0 2").await;
    scene.removed().await;
}

fn restarting(name: &str) -> Container {
    let codes = ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) };
    let rule = ContainerRestartRule { action: "RestartAllContainers".into(), exit_codes: Some(codes) };
    Container { restart_policy: Some("Never".into()), restart_policy_rules: Some(vec![rule]), ..container(name) }
}

fn restarting_is(status: &'static str) -> impl Fn(&View) -> bool {
    move |view| {
        let conditions = view.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "AllContainersRestarting" && c.status == status))
    }
}

#[tokio::test]
async fn one_container_s_end_begins_anew_with_all() {
    let mut scene = Scene::start(PodSpec {
        restart_policy: Some("Never".into()),
        init_containers: Some(vec![container("i")]),
        containers: vec![restarting("a"), container("b")],
        ..PodSpec::default()
    });
    scene.running("i-0").await;
    scene.ends("i-0", 0).await;
    scene.running("b-0").await;
    scene.until("not restarting", restarting_is("False")).await;
    scene.ends("a-0", 42).await;
    scene.running("i-1").await;
    let view = scene.until("not restarting any more", restarting_is("False")).await;
    let status = view.pod.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let a = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(a.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 42);
    assert!(status.conditions.iter().flatten().any(|c| c.type_ == "Initialized" && c.status == "True"));
    let calls = scene.runtime.calls();
    assert!(calls.contains(&"stop b-0 2".to_owned()), "{calls:?}");
    let removals: Vec<&str> = calls.iter().filter_map(|call| call.strip_prefix("remove ")).collect();
    assert_eq!(removals, ["i-0", "b-0", "a-0"], "the one that asks for it is the last to be forgotten");
    scene.ends("i-1", 0).await;
    scene.running("b-1").await;
    scene.ends("a-1", 0).await;
    scene.ends("b-1", 0).await;
    let view = scene.until("phase Succeeded", phase_is("Succeeded")).await;
    let status = view.pod.status.as_ref().unwrap();
    let counts: Vec<i32> = status.container_statuses.iter().flatten().map(|s| s.restart_count).collect();
    assert_eq!(counts, [1, 1]);
}

#[tokio::test]
async fn a_container_that_the_runtime_lost_is_made_anew() {
    let mut scene = Scene::start(PodSpec { containers: vec![container("a")], ..PodSpec::default() });
    scene.running("a-0").await;
    scene.runtime.with(|inner| inner.containers.remove("a-0"));
    scene.tell(Message::Exited("a-0".into())).await;
    scene.running("a-1").await;
}
