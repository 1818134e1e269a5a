//! What the API is told of a pod: phase, conditions, container statuses, addresses. Pure.

mod conditions;
mod containers;
pub(crate) mod patch;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod;
use crate::qos::QosClass;
use crate::worker::State;
use containers::Role;

/// What a status is made from.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    /// What the API was last told.
    pub(crate) known: &'a PodStatus,
    pub(crate) state: &'a State,
    pub(crate) host_ip: &'a str,
    /// When this kubelet took the pod, where the API does not know yet.
    pub(crate) started: Timestamp,
    /// The pod is being deleted and none of its containers runs any more.
    pub(crate) terminated: bool,
    pub(crate) now: Timestamp,
}

/// Builds the status.
pub(crate) fn build(input: &Input<'_>) -> PodStatus {
    let Input { pod, known, state, .. } = *input;
    let over = input.terminated;
    // Of a pod that has come to its end nothing else becomes known, and an earlier process of ours told all.
    let ended = state.final_phase.is_some();
    let nothing = PodStatus::default();
    let told = if ended { known } else { &nothing };
    let init = Role { init: true, over, told: pod::list(&told.init_container_statuses) };
    let init = containers::statuses(pod, state, pod::init_containers(pod), init);
    let app = Role { init: false, over, told: pod::list(&told.container_statuses) };
    let app = containers::statuses(pod, state, pod::containers(pod), app);
    let ephemeral = containers::ephemeral(pod, state);
    let phase = phase(input, &init, &app);
    let unmade = state.sandbox.is_none() && state.records.is_empty();
    let rejected = unmade && (state.failure.is_some() || (ended && known.container_statuses.is_none()));
    let ips = state.ips(pod, input.host_ip);
    let failure = state.failure.as_ref();
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: failure.map(|f| f.reason.clone()).or_else(|| known.reason.clone()),
        message: failure.map(|f| f.message.clone()).or_else(|| known.message.clone()),
        qos_class: Some(QosClass::of(pod).as_str().to_owned()),
        start_time: Some(Time(pod::start_time(pod).unwrap_or(input.started))),
        observed_generation: pod.metadata.generation,
        host_ip: Some(input.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: input.host_ip.to_owned() }]),
        ..PodStatus::default()
    };
    if rejected {
        // Nothing was ever made of it: upstream shows no containers then.
        status.host_ip = None;
        status.host_ips = None;
    } else {
        status.conditions = Some(conditions::build(input, phase, &init, &app));
        let whole = pod::spec(pod).resources.as_ref();
        status.allocated_resources = whole.and_then(|whole| whole.requests.clone());
        status.resources = whole.cloned();
        status.container_statuses = Some(app);
        status.init_container_statuses = (!init.is_empty()).then_some(init);
        status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
        if ips.is_empty() {
            // A finished pod keeps its last addresses; so does one whose sandbox is being replaced.
            status.pod_ip.clone_from(&known.pod_ip);
            status.pod_ips.clone_from(&known.pod_ips);
        } else {
            status.pod_ip = ips.first().cloned();
            status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
        }
    }
    status
}

fn phase(input: &Input<'_>, init: &[ContainerStatus], app: &[ContainerStatus]) -> &'static str {
    let Input { pod, state, .. } = *input;
    match state.final_phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let alive = state.any_alive();
    if state.failure.is_some() {
        return "Failed";
    }
    match state.finished(pod) {
        Some(true) if !alive => return "Succeeded",
        Some(false) if !alive => return "Failed",
        Some(_) => return "Running",
        None => {}
    }
    let ended = |s: &ContainerStatus| {
        let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code)
        };
        ended(&s.state).or_else(|| ended(&s.last_state))
    };
    if input.terminated && !app.is_empty() {
        // What did not run to its end before the deletion did not succeed.
        return if app.iter().all(|s| ended(s) == Some(0)) { "Succeeded" } else { "Failed" };
    }
    let known_running = input.known.phase.as_deref() == Some("Running");
    let initializing = !state.initialized(pod) && !init.is_empty();
    if initializing && !app.iter().any(|s| ended(s).is_some()) {
        return "Pending";
    }
    let waiting = app.iter().any(|s| s.state.as_ref().is_some_and(|s| s.waiting.is_some()) && ended(s).is_none());
    if waiting && !known_running {
        return "Pending";
    }
    if app.is_empty() { "Pending" } else { "Running" }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;
    use crate::worker::{Failure, Health, Phase, Record, Run, Sandbox, Waiting};

    fn pod(policy: &str) -> Pod {
        let container = |name: &str| Container { name: name.into(), ..Container::default() };
        let spec = PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(vec![container("i")]),
            containers: vec![container("a"), container("b")],
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    fn state(text: &str) -> State {
        let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.5".into()], ..Sandbox::default() };
        let mut state = State { sandbox: Some(sandbox), ..State::default() };
        for (name, what) in text.split_whitespace().map(|word| word.split_once(':').unwrap()) {
            let status = cri::v1::ContainerStatus { id: format!("{name}-id"), ..Default::default() };
            let mut run = Run::new(status, "s");
            match what {
                "r" => run.phase = Phase::Running,
                "crash" => {
                    (run.phase, run.exit_code) = (Phase::Exited, 1);
                    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "m".into(), until: None };
                    state.waiting.insert(name.into(), waiting);
                }
                code => (run.phase, run.exit_code) = (Phase::Exited, code.parse().unwrap()),
            }
            let health = Health { id: run.id.clone(), started: true, ready: true, ..Health::default() };
            state.health.insert(name.into(), health);
            state.records.insert(name.into(), Record { current: Some(run), previous: None });
        }
        state
    }

    fn built(pod: &Pod, state: &State, terminated: bool) -> PodStatus {
        let now = Timestamp::from_second(1000).unwrap();
        build(&Input { pod, known: pod::status(pod), state, host_ip: "192.168.0.1", started: now, terminated, now })
    }

    #[test]
    fn phases() {
        for (policy, observed, terminated, expected) in [
            ("Always", "", false, "Pending"),
            ("Always", "i:r", false, "Pending"),
            ("Always", "i:1", false, "Pending"),
            ("Never", "i:1", false, "Failed"),
            ("Always", "i:0", false, "Pending"),
            ("Always", "i:0 a:r", false, "Pending"),
            ("Always", "i:0 a:r b:r", false, "Running"),
            ("Always", "i:0 a:crash b:r", false, "Running"),
            ("Always", "i:0 a:0 b:0", false, "Running"),
            ("OnFailure", "i:0 a:0 b:0", false, "Succeeded"),
            ("OnFailure", "i:0 a:0 b:1", false, "Running"),
            ("Never", "i:0 a:0 b:1", false, "Failed"),
            ("Never", "i:0 a:r b:1", false, "Running"),
            ("Always", "i:0 a:0 b:0", true, "Succeeded"),
            ("Always", "i:0 a:0 b:137", true, "Failed"),
            ("Always", "", true, "Failed"),
        ] {
            let got = built(&pod(policy), &state(observed), terminated);
            assert_eq!(got.phase.as_deref(), Some(expected), "{policy} {observed}");
        }
    }

    #[test]
    fn a_crash_loop_shows_waiting_with_the_last_end() {
        let status = built(&pod("Always"), &state("i:0 a:crash b:r"), false);
        let a = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!(a.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(a.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
        assert!(!a.ready);
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.5"));
        let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    }

    #[test]
    fn what_did_not_end_before_a_deletion_counts_as_killed() {
        let codes = |observed: &str| -> Vec<Option<i32>> {
            let status = built(&pod("Always"), &state(observed), true);
            let ended = |s: &ContainerStatus| s.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
            status.container_statuses.unwrap().iter().map(ended).collect()
        };
        assert_eq!(codes("i:0 a:crash"), [Some(1), Some(137)], "no back-off any more");
        assert_eq!(codes("i:1"), [None, None], "their turn had not come");
    }

    #[test]
    fn a_container_in_its_post_start_hook_is_neither_started_nor_ready() {
        let mut state = state("i:0 a:r b:r");
        state.health.get_mut("a").unwrap().in_hook = true;
        let status = built(&pod("Always"), &state, false).container_statuses.unwrap();
        let shown: Vec<_> = status.iter().map(|s| (s.started, s.ready)).collect();
        assert_eq!(shown, [(Some(false), false), (Some(true), true)]);
    }

    #[test]
    fn a_rejected_pod_shows_only_why() {
        let failure = Failure { reason: "OutOfcpu".into(), message: "m".into() };
        let mut pod = pod("Always");
        let status = built(&pod, &State { failure: Some(failure), ..State::default() }, false);
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
        assert!(status.container_statuses.is_none() && status.conditions.is_none());
        // A next process of ours knows of it from the API alone.
        pod.status = Some(status.clone());
        let again = built(&pod, &State { final_phase: Some("Failed".into()), ..State::default() }, false);
        assert_eq!(again, status);
    }

    #[test]
    fn what_ended_stays_as_it_was_told() {
        let mut pod = pod("Never");
        let told = built(&pod, &state("i:0 a:0 b:3"), false);
        pod.status = Some(told.clone());
        let again = built(&pod, &State { final_phase: Some("Failed".into()), ..State::default() }, false);
        assert_eq!(again.container_statuses, told.container_statuses, "although the runtime remembers nothing");
        assert_eq!(
            (again.phase.as_deref(), again.init_container_statuses),
            (Some("Failed"), told.init_container_statuses)
        );
    }
}
