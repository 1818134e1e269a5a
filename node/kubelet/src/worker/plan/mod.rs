//! The decision: from the pod as desired and the state as observed to what is to be done now. Pure.

mod end;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

pub(crate) use end::{End, LEAST_GRACE, before};

use super::state::{Job, Phase, State, Waiting, step};
use crate::allocation;
use crate::backoff::Backoff;
use crate::pod;
use end::{kill, kill_doomed, renew, restart_all, wind_down};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// cgroup and volumes.
    Setup,
    /// Volumes show what is so by now.
    Refresh,
    /// A sandbox; the number counts those before.
    Sandbox { attempt: u32 },
    /// A run of a container; the number counts those before.
    Start { name: String, attempt: u32 },
    /// End a container's run.
    Kill { name: String, id: String, end: End },
    /// Give these running containers, and then the pod's group, the resources that the pod was given; `settles` when no
    /// container has others after that.
    Resize { names: Vec<String>, settles: bool },
    /// Forget all runs: every container begins anew, init containers first.
    Reset,
    /// A finished pod gives back sandbox, volumes and cgroup.
    Release,
    /// Remove all traces of a deleted pod.
    Cleanup,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
    /// Containers held back by crash back-off, with what status shows.
    pub(crate) waiting: Vec<(String, Waiting)>,
    /// Exits that a restart answers: back-off counts them, by [`pod::backoff_key`].
    pub(crate) counted: Vec<(String, Timestamp)>,
    /// Runs that are ended in order to begin anew, with their containers.
    pub(crate) renewed: Vec<(String, String)>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }
}

/// What the decision looks at.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a State,
    pub(crate) crashes: &'a Backoff<String>,
    /// The pod is to go: deleted, or not in the API any more.
    pub(crate) stopping: bool,
    /// When stopping began.
    pub(crate) stopping_since: Option<Timestamp>,
    /// When what volumes show is to be looked at again.
    pub(crate) refresh_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// Decides.
pub(crate) fn plan(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let finished = input.state.finished(input.pod);
    if input.stopping || finished.is_some() {
        wind_down(input, &mut plan);
    } else {
        drive(input, &mut plan);
    }
    plan
}

/// Brings the pod up and keeps it so.
fn drive(input: &Input<'_>, plan: &mut Plan) {
    let Input { pod, state, .. } = *input;
    if let Some(seconds) = pod::spec(pod).active_deadline_seconds
        && let Some(start) = pod::start_time(pod)
        && let Ok(at) = start.checked_add(SignedDuration::from_secs(seconds))
    {
        plan.wake_at(at);
    }
    if state.volumes.is_none() {
        if !state.busy.contains(&Job::Setup) && is_due(input, step::POD, plan) {
            plan.actions.push(Action::Setup);
        }
        return;
    }
    match input.refresh_at.filter(|_| !state.busy.contains(&Job::Refresh)) {
        Some(at) if at <= input.now => plan.actions.push(Action::Refresh),
        Some(at) => plan.wake_at(at),
        None => {}
    }
    let ready = state.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready);
    if !ready {
        new_sandbox(input, plan);
        return;
    }
    if state.restarts_all(pod) {
        restart_all(state, pod, plan);
        return;
    }
    kill_doomed(input, plan);
    resize(input, plan);
    // These wait for nobody, and each runs once.
    for container in pod::ephemeral_containers(pod).iter().filter(|c| state.current(&c.name).is_none()) {
        start_now(input, container, plan);
    }
    if state.initialized(pod) {
        for container in pod::init_containers(pod).iter().filter(|c| pod::restartable(c)) {
            keep_running(input, container, plan);
        }
        for container in pod::containers(pod) {
            keep_running(input, container, plan);
        }
    } else {
        next_init(input, plan);
    }
}

/// What failed is tried again when its back-off is over.
fn is_due(input: &Input<'_>, name: &str, plan: &mut Plan) -> bool {
    match input.state.waiting.get(name).and_then(|waiting| waiting.holds(input.now)) {
        Some(until) => {
            plan.wake_at(until);
            false
        }
        None => true,
    }
}

fn new_sandbox(input: &Input<'_>, plan: &mut Plan) {
    let Input { state, .. } = *input;
    let mut alive = false;
    for name in state.records.keys().filter(|name| state.alive(name)) {
        alive = true;
        let message = format!("Stopping container {name}: Pod sandbox changed, it will be killed and re-created.");
        kill(state, name, End::new(message, LEAST_GRACE), plan);
    }
    if alive || !state.busy.is_empty() || !is_due(input, step::POD, plan) {
        return;
    }
    let attempt = state.sandbox.as_ref().map_or(0, |sandbox| sandbox.attempt + 1);
    plan.actions.push(Action::Sandbox { attempt });
}

/// Brings running containers to the resources that the pod was given, where a container's policy asks for it by a
/// restart.
fn resize(input: &Input<'_>, plan: &mut Plan) {
    let Input { pod, state, .. } = *input;
    if !state.resize.going_on || state.busy.contains(&Job::Resize) {
        return;
    }
    let (mut updates, mut restarts) = (Vec::new(), false);
    for container in pod::all_containers(pod).filter(|c| state.alive(&c.name)) {
        let name = &container.name;
        let Some(applied) = state.applied(name) else { continue };
        let changed: Vec<_> = allocation::differing(applied.resources.as_ref(), container.resources.as_ref()).collect();
        let policies = pod::list(&container.resize_policy);
        let restarting = policies.iter().filter(|policy| policy.restart_policy == "RestartContainer");
        if restarting.into_iter().any(|policy| changed.contains(&policy.resource_name.as_str())) {
            restarts = true;
            let grace = pod::spec(pod).termination_grace_period_seconds.unwrap_or(30);
            renew(state, name, format!("Container {name} resize requires restart"), grace, plan);
        } else if !changed.is_empty() {
            updates.push(name.clone());
        }
    }
    if (!restarts || !updates.is_empty()) && is_due(input, step::RESIZE, plan) {
        plan.actions.push(Action::Resize { names: updates, settles: !restarts });
    }
}

/// Starts the first init container that has not done its part; the others wait for it.
fn next_init(input: &Input<'_>, plan: &mut Plan) {
    let Input { pod, state, .. } = *input;
    let sandbox = state.sandbox.as_ref().map(|s| s.id.as_str()).unwrap_or_default();
    for container in pod::init_containers(pod) {
        let run = state.current(&container.name).filter(|run| run.sandbox == sandbox);
        let sidecar = pod::restartable(container);
        match run {
            Some(run) if sidecar => {
                keep_running(input, container, plan);
                let started = state.health.get(&container.name).is_some_and(|h| h.past_start(&run.id));
                if !started {
                    return;
                }
            }
            Some(run) if run.phase == Phase::Exited && run.exit_code == 0 => {}
            Some(_) => {
                keep_running(input, container, plan);
                return;
            }
            None => {
                start(input, container, plan);
                return;
            }
        }
    }
}

/// Starts a container that does not run, if it should.
fn keep_running(input: &Input<'_>, container: &Container, plan: &mut Plan) {
    let Input { pod, state, now, .. } = *input;
    let name = &container.name;
    let Some(run) = state.current(name) else {
        start(input, container, plan);
        return;
    };
    if run.phase == Phase::Running || state.is_busy(name) {
        return;
    }
    if run.phase == Phase::Created {
        // Left by a process of ours that ended between creation and start.
        let message = format!("Container {name} was never started, will be restarted");
        kill(state, name, End::new(message, 0), plan);
        return;
    }
    if state.is_renewed(name) {
        // It did not fail: nothing holds it back.
        start(input, container, plan);
        return;
    }
    if !pod::should_restart(pod, container, run.exit_code) {
        return;
    }
    let ended = run.ended_at();
    let key = pod::backoff_key(name, &pod::container_hash(container));
    if let Some(left) = input.crashes.remaining(&key, ended, now) {
        let delay = input.crashes.delay(&key).as_secs();
        let id = pod::PodId::of(pod);
        let message = format!(
            "back-off {} restarting failed container={name} pod={}_{}({})",
            duration(delay),
            id.name,
            id.namespace,
            id.uid
        );
        let until = now.checked_add(left).unwrap_or(now);
        plan.wake_at(until);
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message, until: Some(until) };
        plan.waiting.push((name.clone(), waiting));
        return;
    }
    let before = plan.actions.len();
    start(input, container, plan);
    if plan.actions.len() > before {
        plan.counted.push((key, ended));
    }
}

/// Starts a container unless another is being started: one follows the other, in the order of the spec, and each waits
/// until the one before is past its postStart hook, as applications that need a proxy rely on.
fn start(input: &Input<'_>, container: &Container, plan: &mut Plan) {
    let planned = plan.actions.iter().any(|action| {
        let Action::Start { name, .. } = action else { return false };
        pod::container(input.pod, name).is_some()
    });
    if !planned && !input.state.is_starting(input.pod) {
        start_now(input, container, plan);
    }
}

fn start_now(input: &Input<'_>, container: &Container, plan: &mut Plan) {
    let name = &container.name;
    let state = input.state;
    let crash = state.waiting.get(name).is_some_and(|waiting| waiting.reason == "CrashLoopBackOff");
    if state.is_busy(name) || (!crash && !is_due(input, name, plan)) {
        return;
    }
    plan.actions.push(Action::Start { name: name.clone(), attempt: state.runs(name) });
}

/// As Go prints a duration: 10s, 1m20s, 5m0s.
fn duration(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        ContainerResizePolicy, ContainerRestartRule, ContainerRestartRuleOnExitCodes, PodSpec, ResourceRequirements,
    };

    use super::super::state::{Applied, Failure, Health, Record, Run, Sandbox};
    use super::*;
    use crate::volumes::VolumePaths;

    fn container(name: &str, sidecar: bool) -> Container {
        Container { name: name.into(), restart_policy: sidecar.then(|| "Always".into()), ..Container::default() }
    }

    fn pod(policy: &str, init: &[(&str, bool)], apps: &[&str]) -> Pod {
        let spec = PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(init.iter().map(|(name, sidecar)| container(name, *sidecar)).collect()),
            containers: apps.iter().map(|name| container(name, false)).collect(),
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    /// `c:r` runs, `c:0` exited with 0, `c:R` runs and is started, `c:h` runs and its postStart hook does.
    fn state(text: &str) -> State {
        let sandbox = Sandbox { id: "s".into(), ready: true, ..Sandbox::default() };
        let mut state = State { sandbox: Some(sandbox), volumes: Some(VolumePaths::new()), ..State::default() };
        for (name, what) in text.split_whitespace().map(|word| word.split_once(':').unwrap()) {
            let status = cri::v1::ContainerStatus { id: format!("{name}-id"), ..Default::default() };
            let mut run = Run::new(status, "s");
            (run.phase, run.exit_code) = match what {
                "r" | "R" | "h" => (Phase::Running, 0),
                code => (Phase::Exited, code.parse().unwrap()),
            };
            let health = Health { id: run.id.clone(), started: what == "R", in_hook: what == "h", ..Health::default() };
            state.health.insert(name.into(), health);
            state.records.insert(name.into(), Record { current: Some(run), previous: None });
        }
        state
    }

    fn shown(plan: &Plan) -> String {
        let one = |action: &Action| match action {
            Action::Setup => "setup".to_owned(),
            Action::Refresh => "refresh".into(),
            Action::Sandbox { attempt } => format!("sandbox{attempt}"),
            Action::Start { name, attempt } => format!("start {name}{attempt}"),
            Action::Kill { name, end, .. } => match end.after.join(" ") {
                after if after.is_empty() => format!("kill {name}"),
                after => format!("kill {name} after {after}"),
            },
            Action::Reset => "reset".into(),
            Action::Resize { names, settles } => {
                format!("resize {}{}", names.join(" "), if *settles { "" } else { "…" })
            }
            Action::Release => "release".into(),
            Action::Cleanup => "cleanup".into(),
        };
        plan.actions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn decided(pod: &Pod, state: &State, stopping: bool) -> Plan {
        let crashes = Backoff::default();
        let now = Timestamp::from_second(1000).unwrap();
        let (stopping_since, refresh_at) = (Some(now), None);
        plan(&Input { pod, state, crashes: &crashes, stopping, stopping_since, refresh_at, now })
    }

    fn decide(pod: &Pod, state: &State, stopping: bool) -> String {
        shown(&decided(pod, state, stopping))
    }

    #[test]
    fn containers_start_in_order_one_after_another() {
        let pod = pod("Always", &[("i1", false), ("side", true), ("i2", false)], &["a", "b"]);
        for (observed, expected) in [
            ("", "start i10"),
            ("i1:r", ""),
            ("i1:1", "start i11"),
            ("i1:0", "start side0"),
            ("i1:0 side:r", ""),
            ("i1:0 side:R", "start i20"),
            ("i1:0 side:1", "start side1"),
            ("i1:0 side:R i2:0", "start a0"),
            ("i1:0 side:R i2:0 a:h", ""),
            ("i1:0 side:R i2:0 a:r", "start b0"),
            ("i1:0 side:R i2:0 a:r b:r", ""),
            ("i1:0 side:3 i2:0 a:r b:0", "start side1"),
            ("i1:0 side:r i2:0 a:r b:0", "start b1"),
        ] {
            assert_eq!(decide(&pod, &state(observed), false), expected, "{observed}");
        }
    }

    #[test]
    fn finished_pods_are_released_sidecars_last() {
        let never = pod("Never", &[("i", false)], &["a", "b"]);
        for (observed, expected) in [("i:1", "release"), ("i:0 a:0 b:r", ""), ("i:0 a:0 b:1", "release")] {
            assert_eq!(decide(&never, &state(observed), false), expected, "{observed}");
        }
        let job = pod("OnFailure", &[("s1", true), ("s2", true)], &["a"]);
        for (observed, expected) in [
            ("s1:R s2:R a:1", "start a1"),
            ("s1:R s2:R a:0", "kill s1 after s2, kill s2"),
            ("s1:R s2:0 a:0", "kill s1"),
            ("s1:0 s2:0 a:0", "release"),
        ] {
            assert_eq!(decide(&job, &state(observed), false), expected, "{observed}");
        }
    }

    #[test]
    fn one_container_s_end_restarts_all() {
        let mut pod = pod("Never", &[("i", false), ("s", true)], &["a", "b"]);
        let codes = ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) };
        let rule = ContainerRestartRule { action: "RestartAllContainers".into(), exit_codes: Some(codes) };
        pod.spec.as_mut().unwrap().containers[1].restart_policy_rules = Some(vec![rule]);
        for (observed, expected) in [
            ("i:0 s:R a:r b:42", "kill s, kill a"),
            ("i:0 s:R a:0 b:42", "kill s"),
            ("i:0 s:137 a:0 b:42", "reset"),
            ("i:0 s:R a:0 b:1", "kill s"),
        ] {
            assert_eq!(decide(&pod, &state(observed), false), expected, "{observed}");
        }
        let Action::Kill { end, .. } = &decided(&pod, &state("i:0 s:R a:r b:42"), false).actions[0] else { panic!() };
        assert!(!end.hook, "there is no time for hooks");
        assert!(state("i:0 s:137 a:0 b:42").finished(&pod).is_none() && state("a:0 b:1").finished(&pod).is_some());
        assert_eq!(decide(&pod, &state("i:0 s:R a:r b:42"), true), "kill a, kill s after a", "unless the pod goes");
    }

    #[test]
    fn stopping_kills_apps_then_sidecars_then_cleans_up() {
        let pod = pod("Always", &[("s1", true)], &["a", "b"]);
        for (observed, expected) in [
            ("s1:R a:r b:r", "kill a, kill b, kill s1 after a b"),
            ("s1:R a:0 b:r", "kill b, kill s1 after b"),
            ("s1:R a:0 b:0", "kill s1"),
            ("s1:0 a:0 b:0", "cleanup"),
            ("", "cleanup"),
        ] {
            assert_eq!(decide(&pod, &state(observed), true), expected, "{observed}");
        }
    }

    #[test]
    fn set_up_then_sandbox_and_again_when_it_died() {
        let pod = pod("Always", &[], &["a"]);
        assert_eq!(decide(&pod, &State::default(), false), "setup");
        let ready = State { volumes: Some(VolumePaths::new()), ..State::default() };
        assert_eq!(decide(&pod, &ready, false), "sandbox0");
        let mut dead = state("a:r");
        dead.sandbox.as_mut().unwrap().ready = false;
        assert_eq!(decide(&pod, &dead, false), "kill a");
        dead.records.get_mut("a").unwrap().current.as_mut().unwrap().phase = Phase::Exited;
        assert_eq!(decide(&pod, &dead, false), "sandbox1");
        let failed = State { failure: Some(Failure { reason: "x".into(), message: String::new() }), ..state("a:r") };
        assert_eq!(decide(&pod, &failed, false), "kill a");
    }

    #[test]
    fn volumes_are_refreshed_as_long_as_the_pod_goes_on() {
        let pod = pod("Never", &[], &["a"]);
        let (crashes, now) = (Backoff::default(), Timestamp::from_second(1000).unwrap());
        let busy = State { busy: [Job::Refresh].into(), ..state("a:r") };
        for (state, at, stopping, expected) in [
            (state("a:r"), 1000, false, ("refresh", None)),
            (state("a:r"), 1001, false, ("", Some(1001))),
            (busy, 1000, false, ("", None)),
            (State::default(), 1000, false, ("setup", None)),
            // What had been mounted is given back, and must not come again.
            (state("a:0"), 1000, false, ("release", None)),
            (State { released: true, ..state("a:0") }, 1000, false, ("", None)),
            (state("a:r"), 1000, true, ("kill a", None)),
        ] {
            let refresh_at = Some(Timestamp::from_second(at).unwrap());
            let stopping_since = stopping.then_some(now);
            let input =
                Input { pod: &pod, state: &state, crashes: &crashes, stopping, stopping_since, refresh_at, now };
            let plan = plan(&input);
            assert_eq!((shown(&plan).as_str(), plan.wake.map(Timestamp::as_second)), expected);
        }
    }

    #[test]
    fn resources_are_changed_in_place_or_by_a_restart() {
        let with = |cpu: &str, memory: &str| {
            let quantity = |text: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.into());
            let limits = [("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))];
            Some(ResourceRequirements { limits: Some(limits.into()), ..ResourceRequirements::default() })
        };
        let restart =
            ContainerResizePolicy { resource_name: "memory".into(), restart_policy: "RestartContainer".into() };
        for (cpu, memory, busy, expected) in [
            ("1", "1Gi", false, "resize "),
            ("2", "1Gi", false, "resize a b"),
            ("2", "1Gi", true, ""),
            ("1", "2Gi", false, "kill a, resize b…"),
        ] {
            let mut pod = pod("Never", &[], &["a", "b"]);
            let mut state = state("a:r b:r");
            state.resize.going_on = true;
            state.busy = busy.then_some(Job::Resize).into_iter().collect();
            for (container, policy) in pod.spec.as_mut().unwrap().containers.iter_mut().zip([Some(&restart), None]) {
                container.resources = with(cpu, memory);
                container.resize_policy = policy.map(|policy| vec![policy.clone()]);
                let id = state.current(&container.name).unwrap().id.clone();
                state.applied.insert(container.name.clone(), Applied { id, resources: with("1", "1024Mi") });
            }
            assert_eq!(decide(&pod, &state, false), expected, "{cpu} {memory}");
        }
        // One that was ended for it begins anew at once, whatever its policy and code.
        let mut ended = state("a:137");
        ended.renewed.insert("a".into(), "a-id".into());
        assert_eq!(decide(&self::pod("Never", &[], &["a"]), &ended, false), "start a1");
    }

    #[test]
    fn crash_loop_backs_off_with_upstreams_words() {
        let pod = pod("Always", &[], &["a"]);
        let state = state("a:1");
        let ended = state.current("a").unwrap().ended_at();
        let mut crashes = Backoff::default();
        let at = |crashes: &Backoff<String>, seconds: i64| {
            let now = ended.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            let (stopping_since, refresh_at) = (None, None);
            plan(&Input { pod: &pod, state: &state, crashes, stopping: false, stopping_since, refresh_at, now })
        };
        assert_eq!(shown(&at(&crashes, 0)), "start a1", "the first restart is immediate");
        crashes.next(pod::backoff_key("a", &pod::container_hash(&pod::containers(&pod)[0])), ended);
        let held = at(&crashes, 4);
        assert_eq!(shown(&held), "");
        assert_eq!(held.waiting[0].1.message, "back-off 10s restarting failed container=a pod=_()");
        assert_eq!(held.wake.unwrap().duration_since(ended).as_secs(), 10);
        assert_eq!(shown(&at(&crashes, 11)), "start a1");
        assert_eq!(duration(80), "1m20s");
    }
}
