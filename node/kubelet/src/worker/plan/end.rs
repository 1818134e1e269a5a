//! How containers end: those of a pod that goes, those that began badly, and all when one asks for it.

use k8s_openapi::api::core::v1::Pod;

use super::super::state::{Job, State};
use super::{Action, Input, Plan};
use crate::pod;

/// The seconds between its stop signal and SIGKILL that a container gets where there is no more time, as upstream.
pub(crate) const LEAST_GRACE: i64 = 2;

/// How a run is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// For the event.
    pub(crate) message: String,
    /// Seconds until it is killed, its preStop hook's and its wait for the others among them.
    pub(crate) grace: i64,
    /// Its preStop hook is run.
    pub(crate) hook: bool,
    /// Containers that are to end before it gets its signal.
    pub(crate) after: Vec<String>,
}

impl End {
    pub(super) fn new(message: String, grace: i64) -> End {
        End { message, grace, hook: true, after: Vec::new() }
    }
}

/// Ends containers, all hooks at once and the signals in order, then gives everything back.
pub(super) fn wind_down(input: &Input<'_>, plan: &mut Plan) {
    let Input { pod, state, .. } = *input;
    if state.any_alive() {
        let grace = remaining_grace(input);
        for name in state.records.keys().filter(|name| state.alive(name)) {
            let after = before(pod, state, name);
            let end = End { after, ..End::new(format!("Stopping container {name}"), grace) };
            kill(state, name, end, plan);
        }
        return;
    }
    if !state.busy.is_empty() {
        return;
    }
    if input.stopping {
        plan.actions.push(Action::Cleanup);
    } else if !state.released {
        plan.actions.push(Action::Release);
    }
}

fn remaining_grace(input: &Input<'_>) -> i64 {
    let grace = pod::grace_seconds(input.pod);
    let gone = input.stopping_since.map_or(0, |since| input.now.duration_since(since).as_secs().max(0));
    if grace == 0 { 0 } else { (grace - gone).max(1) }
}

/// What has to end before a container gets its signal: apps come before sidecars, and of these the last declared first.
pub(crate) fn before(pod: &Pod, state: &State, name: &str) -> Vec<String> {
    if !pod::is_sidecar(pod, name) {
        return Vec::new();
    }
    let later = pod::init_containers(pod).iter().rev().take_while(|c| c.name != name);
    let first = later.chain(pod::containers(pod)).map(|c| c.name.clone());
    first.filter(|name| state.alive(name)).collect()
}

pub(super) fn kill(state: &State, name: &str, end: End, plan: &mut Plan) {
    if let Some(run) = state.current(name)
        && !state.busy.contains(&Job::Kill(name.to_owned()))
    {
        plan.actions.push(Action::Kill { name: name.to_owned(), id: run.id.clone(), end });
    }
}

/// A container's end is that of all the others: at once, without hooks, as it is not the pod that ends.
pub(super) fn restart_all(state: &State, pod: &Pod, plan: &mut Plan) {
    let mut alive = false;
    for container in pod::all_containers(pod).filter(|c| state.alive(&c.name)) {
        alive = true;
        let message = format!("Container {} will be restarted with all containers of the pod", container.name);
        kill(state, &container.name, End { hook: false, ..End::new(message, LEAST_GRACE) }, plan);
    }
    if !alive && state.busy.is_empty() {
        plan.actions.push(Action::Reset);
    }
}

/// Ends runs that failed a probe or a hook, or whose container is another by now.
pub(super) fn kill_doomed(input: &Input<'_>, plan: &mut Plan) {
    let Input { pod, state, .. } = *input;
    for container in pod::all_containers(pod) {
        let name = &container.name;
        let Some(run) = state.current(name).filter(|run| run.alive()) else { continue };
        let grace = pod::spec(pod).termination_grace_period_seconds.unwrap_or(30);
        if let Some(doom) = state.health.get(name).filter(|h| h.id == run.id).and_then(|h| h.doomed.as_ref()) {
            kill(state, name, End::new(doom.message.clone(), doom.grace.unwrap_or(grace)), plan);
        } else if !run.hash.is_empty() && run.hash != pod::container_hash(container) {
            renew(state, name, format!("Container {name} definition changed, will be restarted"), grace, plan);
        }
    }
}

/// Ends a run so that the next may begin.
pub(super) fn renew(state: &State, name: &str, message: String, grace: i64, plan: &mut Plan) {
    if let Some(run) = state.current(name) {
        plan.renewed.push((name.to_owned(), run.id.clone()));
    }
    kill(state, name, End::new(message, grace), plan);
}
