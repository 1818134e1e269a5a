//! Health: which probes run, and what their verdicts and the hooks mean for containers.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::state::{Doom, Phase, SIGKILLED};
use crate::pod;
use crate::probe::{self, Kind, Verdict};

/// The probes that run, each for one run of its container.
#[derive(Default)]
pub(super) struct Probes(HashMap<(String, Kind), (String, CancellationToken)>);

impl Probes {
    /// Ends those that are not wanted: told of container, kind and the run's id.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str, Kind, &str) -> bool) {
        self.0.retain(|(name, kind), (id, token)| {
            let keep = wanted(name, *kind, id);
            if !keep {
                token.cancel();
            }
            keep
        });
    }
}

impl Worker {
    /// Starts and ends probes as runs come and go.
    pub(super) fn watch_health(&mut self) {
        let running: HashMap<String, (String, Timestamp)> = pod::all_containers(&self.pod)
            .filter_map(|c| {
                let run = self.state.current(&c.name).filter(|run| run.phase == Phase::Running)?;
                Some((c.name.clone(), (run.id.clone(), run.started())))
            })
            .collect();
        self.probes.retain(|name, _, id| running.get(name).is_some_and(|(now, _)| now == id));
        if self.stopping_since.is_some() {
            return;
        }
        let ip = self.state.ips(&self.pod, &self.context.host_ip).into_iter().next().unwrap_or_default();
        for (name, (id, started)) in running {
            let Some(health) = self.state.health.get(&name).filter(|health| health.id == id) else { continue };
            if health.in_hook {
                continue;
            }
            let past_startup = health.started;
            let doomed = health.doomed.is_some();
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                // One that is being killed has its verdict: no probe of its life begins again.
                let wanted = (kind == Kind::Startup) != past_startup && (!doomed || kind == Kind::Readiness);
                let key = (name.clone(), kind);
                let Some(container) = pod::container(&self.pod, &name) else { continue };
                if !wanted || self.probes.0.contains_key(&key) || kind.of(container).is_none() {
                    continue;
                }
                let initial = match kind {
                    Kind::Startup => false,
                    Kind::Liveness => true,
                    Kind::Readiness => health.ready,
                };
                let task = probe::Task {
                    pod: Arc::clone(&self.pod),
                    container: container.clone(),
                    id: id.clone(),
                    ip: ip.clone(),
                    kind,
                    started,
                    initial,
                };
                let token = self.context.shutdown.child_token();
                task.spawn(&self.context, self.own.clone(), &token);
                self.probes.0.insert(key, (id.clone(), token));
            }
        }
    }

    pub(super) fn judged(&mut self, verdict: Verdict) {
        let Verdict { container, id, kind, success } = verdict;
        let Some(health) = self.state.health.get_mut(&container).filter(|health| health.id == id) else { return };
        match (kind, success) {
            (Kind::Startup, true) => health.started = true,
            (Kind::Readiness, ready) => health.ready = ready,
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => {
                let what = if kind == Kind::Startup { "startup" } else { "liveness" };
                let spec = pod::container(&self.pod, &container);
                let grace = spec.and_then(|c| kind.of(c)).and_then(|probe| probe.termination_grace_period_seconds);
                let again = spec.is_some_and(|c| pod::should_restart(&self.pod, c, SIGKILLED));
                let then = if again { ", will be restarted" } else { "" };
                self.doom(&container, format!("Container {container} failed {what} probe{then}"), grace);
            }
        }
        if kind != Kind::Readiness {
            self.probes.0.remove(&(container, kind));
        }
    }

    /// A postStart hook ended.
    pub(super) fn hook_ended(&mut self, name: &str, id: &str, succeeded: bool) {
        let Some(health) = self.state.health.get_mut(name).filter(|health| health.id == id) else { return };
        health.in_hook = false;
        if !succeeded {
            self.doom(name, "FailedPostStartHook".into(), None);
        }
    }

    fn doom(&mut self, name: &str, message: String, grace: Option<i64>) {
        if let Some(health) = self.state.health.get_mut(name) {
            health.doomed = Some(Doom { message, grace });
        }
    }
}
