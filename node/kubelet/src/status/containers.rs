//! Statuses of containers from their runs, health and what holds them back.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod;
use crate::worker::{Phase, Record, Run, State};

/// One status a container, in the order of the spec.
pub(crate) fn statuses(pod: &Pod, state: &State, containers: &[Container], init: bool) -> Vec<ContainerStatus> {
    containers.iter().map(|container| one(pod, state, container, init)).collect()
}

fn one(pod: &Pod, state: &State, container: &Container, init: bool) -> ContainerStatus {
    let none = Record::default();
    let record = state.records.get(&container.name).unwrap_or(&none);
    let current = record.current.as_ref();
    let waiting = state.waiting.get(&container.name);
    let (now, last) = match (current, waiting) {
        (Some(run), _) if run.phase == Phase::Running => (running(run), record.previous.as_ref()),
        (Some(run), Some(why)) if run.phase == Phase::Exited => (waiting_for(&why.reason, &why.message), Some(run)),
        (Some(run), None) if run.phase == Phase::Exited => (ended(run), record.previous.as_ref()),
        (_, Some(why)) => (waiting_for(&why.reason, &why.message), record.previous.as_ref()),
        _ if pod::init_containers(pod).is_empty() => (waiting_for("ContainerCreating", ""), record.previous.as_ref()),
        _ => (waiting_for("PodInitializing", ""), record.previous.as_ref()),
    };
    let running = current.filter(|run| run.phase == Phase::Running);
    let health = running.and_then(|run| state.health.get(&container.name).filter(|health| health.id == run.id));
    let started = health.is_some_and(|health| health.started);
    let sidecar = init && pod::restartable(container);
    let ready = if init && !sidecar {
        current.is_some_and(|run| run.phase == Phase::Exited && run.exit_code == 0)
    } else {
        started && health.is_some_and(|health| health.ready)
    };
    ContainerStatus {
        name: container.name.clone(),
        container_id: current.map(id),
        image: current
            .map(|run| run.image.clone())
            .filter(|i| !i.is_empty() && !i.starts_with("sha256:"))
            .unwrap_or_else(|| container.image.clone().unwrap_or_default()),
        image_id: current.map(|run| run.image_id.clone()).unwrap_or_default(),
        state: Some(now),
        last_state: Some(last.filter(|run| run.phase == Phase::Exited).map(ended).unwrap_or_default()),
        restart_count: current.map_or(0, |run| run.attempt as i32),
        ready,
        started: Some(started),
        resources: running.and(container.resources.clone()),
        allocated_resources: running.and(container.resources.as_ref()).and_then(|r| r.requests.clone()),
        ..ContainerStatus::default()
    }
}

fn id(run: &Run) -> String {
    format!("containerd://{}", run.id)
}

fn time(nanos: i64) -> Option<Time> {
    Timestamp::from_nanosecond(i128::from(nanos)).ok().map(Time)
}

fn running(run: &Run) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning { started_at: time(run.started_at) }),
        ..ContainerState::default()
    }
}

fn waiting_for(reason: &str, message: &str) -> ContainerState {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..ContainerState::default()
    }
}

fn ended(run: &Run) -> ContainerState {
    let reason = match (run.reason.as_str(), run.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(id(run)),
            exit_code: run.exit_code,
            reason: Some(reason.to_owned()),
            message: (!run.message.is_empty()).then(|| run.message.clone()),
            started_at: time(run.started_at),
            finished_at: time(run.finished_at),
            signal: None,
        }),
        ..ContainerState::default()
    }
}
