//! Statuses of containers from their runs, health and what holds them back.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, ResourceRequirements, VolumeMount, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod;
use crate::worker::{Phase, Record, Run, SIGKILLED, State};

/// What the pod's containers are to have in common.
#[derive(Clone, Copy)]
pub(crate) struct Role<'a> {
    /// They run before the others, each to its end or, as a sidecar, beside them.
    pub(crate) init: bool,
    /// Nothing of the pod runs any more or will: what is not known to have ended counts as killed.
    pub(crate) over: bool,
    /// What stays as it was told, where the runtime remembers nothing.
    pub(crate) told: &'a [ContainerStatus],
}

/// One status a container, in the order of the spec.
pub(crate) fn statuses(pod: &Pod, state: &State, containers: &[Container], role: Role<'_>) -> Vec<ContainerStatus> {
    containers.iter().map(|container| one(pod, state, container, role)).collect()
}

/// Statuses of the ephemeral containers, which are never ready.
pub(crate) fn ephemeral(pod: &Pod, state: &State) -> Vec<ContainerStatus> {
    let role = Role { init: false, over: false, told: &[] };
    let unready = |status| ContainerStatus { ready: false, started: None, ..status };
    statuses(pod, state, &pod::ephemeral_containers(pod), role).into_iter().map(unready).collect()
}

fn one(pod: &Pod, state: &State, container: &Container, role: Role<'_>) -> ContainerStatus {
    let none = Record::default();
    let record = match (state.records.get(&container.name), role.told.iter().find(|s| s.name == container.name)) {
        (None, Some(told)) => return told.clone(),
        (record, _) => record.unwrap_or(&none),
    };
    let current = record.current.as_ref();
    let waiting = state.waiting.get(&container.name).filter(|_| !role.over);
    let (now, last) = match (current, waiting) {
        (Some(run), _) if run.phase == Phase::Running => (running(run), record.previous.as_ref()),
        (Some(run), Some(why)) if run.phase == Phase::Exited => (waiting_for(&why.reason, &why.message), Some(run)),
        (Some(run), None) if run.phase == Phase::Exited => (ended(run), record.previous.as_ref()),
        (_, Some(why)) => (waiting_for(&why.reason, &why.message), record.previous.as_ref()),
        _ if role.over && !role.init && state.initialized(pod) => (vanished(), record.previous.as_ref()),
        _ if pod::init_containers(pod).is_empty() => (waiting_for("ContainerCreating", ""), record.previous.as_ref()),
        _ => (waiting_for("PodInitializing", ""), record.previous.as_ref()),
    };
    let running = current.filter(|run| run.phase == Phase::Running);
    let health = running.and_then(|run| state.health.get(&container.name).filter(|health| health.past_start(&run.id)));
    let sidecar = role.init && pod::restartable(container);
    let ready = if role.init && !sidecar {
        current.is_some_and(|run| run.phase == Phase::Exited && run.exit_code == 0)
    } else {
        health.is_some_and(|health| health.ready)
    };
    let user = current.and_then(|run| run.user.as_ref()).map(|user| LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: Some(user.supplemental_groups.clone()),
    });
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
        restart_count: state.runs(&container.name).saturating_sub(1) as i32,
        ready,
        started: Some(health.is_some()),
        resources: current.map(|_| resources(state, container)),
        allocated_resources: current.and(container.resources.as_ref()).and_then(|r| r.requests.clone()),
        user: user.map(|linux| ContainerUser { linux: Some(linux) }),
        volume_mounts: container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mount).collect()),
        ..ContainerStatus::default()
    }
}

/// What a running container has by now; one that does not run will have what it was given.
fn resources(state: &State, container: &Container) -> ResourceRequirements {
    let applied = state.applied(&container.name).filter(|_| state.alive(&container.name));
    let resources = applied.map_or(&container.resources, |applied| &applied.resources);
    resources.clone().unwrap_or_default()
}

fn mount(mount: &VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only.unwrap_or(false);
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        // No runtime here is asked for it.
        recursive_read_only: read_only.then(|| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
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

/// One that ended unseen, or never began.
fn vanished() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: SIGKILLED,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            ..ContainerStateTerminated::default()
        }),
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
