//! The pod's conditions that a kubelet owns; those of others stay as they are.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Input;
use crate::pod;

struct Verdict {
    kind: &'static str,
    met: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// What there is to say of a resize: why it has to wait, or that it is being brought about.
fn resize(input: &Input<'_>) -> Vec<Verdict> {
    let resize = &input.state.resize;
    let pending = resize.pending.as_ref().map(|pending| Verdict {
        reason: Some(pending.reason),
        message: Some(pending.message.clone()),
        ..met("PodResizePending")
    });
    let going_on = resize.going_on.then(|| Verdict {
        reason: resize.error.as_ref().map(|_| "Error"),
        message: resize.error.clone(),
        ..met("PodResizeInProgress")
    });
    pending.into_iter().chain(going_on).collect()
}

/// Whether all containers are being ended because one of them asked for it.
fn restarting(input: &Input<'_>, phase: &str) -> Verdict {
    let kind = "AllContainersRestarting";
    match phase {
        "Succeeded" => unmet(kind, "PodCompleted", None),
        "Failed" => unmet(kind, "PodFailed", None),
        _ if input.state.restarts_all(input.pod) => Verdict {
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
            ..met(kind)
        },
        _ => Verdict { met: false, ..met(kind) },
    }
}

fn met(kind: &'static str) -> Verdict {
    Verdict { kind, met: true, reason: None, message: None }
}

fn unmet(kind: &'static str, reason: &'static str, message: Option<String>) -> Verdict {
    Verdict { kind, met: false, reason: Some(reason), message }
}

/// Builds them, keeping the time of the last transition where the verdict is unchanged.
pub(crate) fn build(
    input: &Input<'_>,
    phase: &str,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> Vec<PodCondition> {
    let sandbox = input.state.sandbox.as_ref().is_some_and(|s| s.ready && !input.state.released);
    let network = if sandbox {
        met("PodReadyToStartContainers")
    } else {
        Verdict { met: false, ..met("PodReadyToStartContainers") }
    };
    let containers = containers_ready(input, phase, init, app);
    let ready = ready(input, &containers);
    let initialized = initialized(input, phase, init);
    let known = pod::list(&input.known.conditions);
    let lasting = [network, initialized, ready, containers, met("PodScheduled")];
    let resize = if matches!(phase, "Succeeded" | "Failed") { Vec::new() } else { resize(input) };
    let restart = pod::may_restart_all(input.pod).then(|| restarting(input, phase));
    lasting
        .into_iter()
        .chain(restart)
        .chain(resize)
        .map(|verdict| {
            let status = if verdict.met { "True" } else { "False" };
            let old = known.iter().find(|c| c.type_ == verdict.kind && c.status == status);
            PodCondition {
                type_: verdict.kind.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.map(str::to_owned),
                message: verdict.message,
                last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or(Some(Time(input.now))),
                last_probe_time: None,
                observed_generation: input.pod.metadata.generation,
            }
        })
        .collect()
}

fn initialized(input: &Input<'_>, phase: &str, init: &[ContainerStatus]) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..met("Initialized") };
    }
    let known = pod::list(&input.known.conditions);
    // A pod that once was stays so, also while its init containers run again.
    let was = known.iter().any(|c| c.type_ == "Initialized" && c.status == "True");
    if was || init.is_empty() || input.state.initialized(input.pod) {
        return met("Initialized");
    }
    let done = |s: &&ContainerStatus| {
        let sidecar = pod::is_sidecar(input.pod, &s.name);
        let ended = s.state.as_ref().and_then(|s| s.terminated.as_ref());
        if sidecar { s.started == Some(true) } else { ended.is_some_and(|t| t.exit_code == 0) }
    };
    let open: Vec<&str> = init.iter().filter(|s| !done(s)).map(|s| s.name.as_str()).collect();
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    unmet("Initialized", "ContainersNotInitialized", Some(message))
}

fn containers_ready(input: &Input<'_>, phase: &str, init: &[ContainerStatus], app: &[ContainerStatus]) -> Verdict {
    match phase {
        "Succeeded" => return unmet("ContainersReady", "PodCompleted", None),
        "Failed" => return unmet("ContainersReady", "PodFailed", None),
        _ => {}
    }
    let sidecars = init.iter().filter(|s| pod::is_sidecar(input.pod, &s.name));
    let open: Vec<&str> = sidecars.chain(app).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if open.is_empty() {
        return met("ContainersReady");
    }
    let message = format!("containers with unready status: [{}]", open.join(" "));
    unmet("ContainersReady", "ContainersNotReady", Some(message))
}

fn ready(input: &Input<'_>, containers: &Verdict) -> Verdict {
    if !containers.met {
        return Verdict { kind: "Ready", message: containers.message.clone(), ..*containers };
    }
    let known = pod::list(&input.known.conditions);
    let gates = pod::list(&pod::spec(input.pod).readiness_gates);
    let mut problems = Vec::new();
    for gate in gates {
        match known.iter().find(|c| c.type_ == gate.condition_type) {
            None => problems.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => problems.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() { met("Ready") } else { unmet("Ready", "ReadinessGatesNotReady", Some(problems.join(", "))) }
}
