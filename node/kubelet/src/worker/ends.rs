//! What the ends of jobs mean.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinError;

use super::state::{Applied, Job, Phase, Run, SIGKILLED, step};
use super::{Outcome, StartError, Waiting, Worker, later};
use crate::context::ApiFailure;
use crate::pod;
use crate::volumes::VolumePaths;

impl Worker {
    /// The end of a job.
    pub(super) async fn joined(&mut self, joined: Result<(Option<Job>, Outcome), JoinError>) {
        let (job, outcome) = match joined {
            Ok(joined) => joined,
            Err(error) => {
                // A job of ours panicked: which one is not known, so everything is looked at anew.
                tracing::error!(pod = %self.shared.id, %error, "a job of the pod's worker failed");
                if let Ok(panic) = error.try_into_panic() {
                    supervise::panicked("pod job", &*panic);
                }
                self.state.busy.clear();
                self.told.lost();
                self.removing = false;
                self.observed = false;
                return;
            }
        };
        if let Some(job) = job {
            self.state.busy.remove(&job);
        }
        match outcome {
            Outcome::Setup(Ok((volumes, refresh))) => {
                self.state.volumes = Some(volumes);
                self.refresh_at = refresh;
                self.succeeded(step::POD);
            }
            Outcome::Setup(Err(message)) => self.hold(step::POD, "FailedMount", message),
            Outcome::Refresh(result) => self.refreshed(result),
            Outcome::Sandbox(Ok(mut sandbox)) => {
                sandbox.ready &= !self.ended_early.remove(&sandbox.id);
                let old = self.state.sandbox.replace(sandbox);
                self.state.old_sandboxes.extend(old.map(|old| old.id));
                self.succeeded(step::POD);
                self.failures.remove(step::SANDBOX);
            }
            Outcome::Sandbox(Err(message)) => {
                *self.failures.entry(step::SANDBOX.into()).or_default() += 1;
                self.hold(step::POD, "FailedCreatePodSandBox", message);
            }
            Outcome::Start(name, resources, result) => {
                let id = (*result).as_ref().map_or_else(|error| error.run.as_ref(), Some).map(|run| run.id.clone());
                if let Some(id) = id.clone() {
                    self.state.applied.insert(name.clone(), Applied { id, resources });
                }
                match *result {
                    Ok(run) => self.started(name, run),
                    Err(error) => self.not_started(name, error),
                }
                if let Some(id) = id.filter(|id| self.ended_early.remove(id)) {
                    self.exited(&id).await;
                }
            }
            // The container may exist by now: only the runtime knows.
            Outcome::Cancelled => self.observed = false,
            Outcome::PostStart(name, id, result) => self.hook_ended(&name, &id, result.is_ok()),
            Outcome::Killed(name, id) => self.killed(&name, &id).await,
            Outcome::Resized(pod, done, result) => self.resized(&pod, done, result),
            Outcome::Reset(Ok(())) => self.reset_done(),
            Outcome::Reset(Err(message)) => self.failed(step::RESET, message),
            Outcome::Released(Ok(())) => {
                self.state.released = true;
                self.state.volumes = None;
                self.succeeded(step::RELEASE);
            }
            Outcome::Released(Err(message)) => self.failed(step::RELEASE, message),
            Outcome::Cleaned(Ok(())) => {
                self.cleaned = true;
                self.succeeded(step::CLEANUP);
            }
            Outcome::Cleaned(Err(message)) => self.failed(step::CLEANUP, message),
            Outcome::Removed(Ok(()) | Err(ApiFailure::Gone)) => self.done = true,
            Outcome::Removed(Err(error)) => {
                self.removing = false;
                self.failed(step::REMOVE, error.to_string());
            }
            Outcome::Written(result) => self.written(*result),
            Outcome::Nothing => {}
        }
        if !self.starting() {
            self.ended_early.clear();
        }
    }

    fn refreshed(&mut self, result: Result<(VolumePaths, Option<Timestamp>), String>) {
        match result {
            Ok((_, refresh)) => {
                // Something may have changed again meanwhile.
                self.refresh_at = self.refresh_at.into_iter().chain(refresh).min();
                self.failures.remove(step::REFRESH);
            }
            Err(message) => {
                tracing::info!(pod = %self.shared.id, message, "volumes keep their old content");
                self.refresh_at = Some(later(Timestamp::now(), self.delay(step::REFRESH).max(Duration::from_secs(5))));
            }
        }
    }

    fn started(&mut self, name: String, run: Run) {
        let id = run.id.clone();
        self.failures.remove(&name);
        self.state.waiting.remove(&name);
        self.saw(&name, run);
        let container = pod::container(&self.pod, &name).cloned();
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).is_some_and(|l| l.post_start.is_some());
        if let (Some(container), true, Some(health)) = (container, hook, self.state.health.get_mut(&name)) {
            health.in_hook = true;
            let ip = self.state.ips(&self.pod, &self.context.host_ip).into_iter().next().unwrap_or_default();
            let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
            self.jobs.spawn(async move {
                let result = shared.post_start(&pod, &container, &id, &ip).await;
                (None, Outcome::PostStart(name, id, result))
            });
        }
    }

    fn not_started(&mut self, name: String, error: StartError) {
        let StartError { reason, message, delay, run } = error;
        tracing::info!(pod = %self.shared.id, container = name, reason, message, "container not started");
        if let Some(run) = run {
            // It exists, and ended before it ran: crash back-off governs it, or its policy ends it for good.
            let code = run.exit_code;
            self.saw(&name, run);
            if pod::container(&self.pod, &name).is_some_and(|c| !pod::should_restart(&self.pod, c, code)) {
                self.succeeded(&name);
                return;
            }
        }
        match delay {
            Some(delay) => {
                let until = Some(later(Timestamp::now(), delay));
                let waiting = Waiting { reason: reason.to_owned(), message, until };
                self.state.waiting.insert(name, waiting);
            }
            None => {
                self.hold(&name, reason, message);
                let least = Some(later(Timestamp::now(), Duration::from_secs(2)));
                if let Some(waiting) = self.state.waiting.get_mut(&name) {
                    waiting.until = waiting.until.max(least);
                }
            }
        }
    }

    /// All containers begin anew: what they did is remembered as their last state, and counted.
    fn reset_done(&mut self) {
        self.succeeded(step::RESET);
        for container in pod::all_containers(&self.pod) {
            self.failures.remove(&container.name);
            self.state.waiting.remove(&container.name);
            if let Some(record) = self.state.records.get_mut(&container.name)
                && let Some(run) = record.current.take()
            {
                record.previous = Some(run);
            }
        }
    }

    async fn killed(&mut self, name: &str, id: &str) {
        if let Some(run) = self.state.current(name).filter(|run| run.id == id) {
            let sandbox = run.sandbox.clone();
            match self.context.runtime.container_status(id).await {
                Ok(status) => match Run::new(status, &sandbox) {
                    // Made but never started, because the pod went meanwhile: the runtime has nothing to stop, and
                    // leaves it so for ever.
                    run if run.phase == Phase::Created => self.lost(name),
                    run => self.saw(name, run),
                },
                Err(error) if error.is_not_found() => self.lost(name),
                Err(_) => self.observed = false,
            }
        }
    }

    /// A run whose end nobody will tell.
    pub(super) fn lost(&mut self, name: &str) {
        if let Some(current) = self.state.records.get_mut(name).and_then(|r| r.current.as_mut()) {
            current.phase = Phase::Exited;
            current.exit_code = SIGKILLED;
            current.reason = "ContainerStatusUnknown".into();
            current.message = "The container could not be located when the pod was terminated".into();
        }
    }
}
