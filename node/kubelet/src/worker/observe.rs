//! What comes in: messages, the ends of jobs, and the runtime's own account of the pod.

use std::sync::Arc;
use std::time::Duration;

use cri::v1::{ContainerFilter, PodSandboxFilter};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::task::JoinError;

use super::state::{Applied, Health, Job, Phase, Run, SIGKILLED, Sandbox, step};
use super::{Message, Outcome, STATUS_RETRY, StartError, Worker, by_uid, later, version};
use crate::allocation::{self, Pending};
use crate::context::ApiFailure;
use crate::pod;
use crate::probe::{Kind, Verdict};
use crate::runtime::CriError;

/// Seconds between SIGTERM and SIGKILL for the containers of a pod that the API does not know any more.
const FORCED_GRACE: i64 = 1;

impl Worker {
    /// Looks at everything the runtime has of this pod.
    pub(super) async fn observe(&mut self) -> Result<(), CriError> {
        let runtime = Arc::clone(&self.context.runtime);
        let uid = self.shared.id.uid.clone();
        let filter = PodSandboxFilter { label_selector: by_uid(&uid), ..PodSandboxFilter::default() };
        let mut sandboxes = Vec::new();
        for sandbox in runtime.list_pod_sandboxes(Some(filter)).await? {
            self.context.registry.add(&sandbox.id, &uid);
            if let Some(status) = runtime.pod_sandbox_status(&sandbox.id).await? {
                sandboxes.push(Sandbox::new(&status));
            }
        }
        sandboxes.sort_by_key(|sandbox| (sandbox.attempt, sandbox.created_at));
        self.state.sandbox = sandboxes.pop();
        self.state.old_sandboxes = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
        let filter = ContainerFilter { label_selector: by_uid(&uid), ..ContainerFilter::default() };
        for container in runtime.list_containers(Some(filter)).await? {
            let name = container.labels.get(crate::labels::CONTAINER_NAME).cloned().unwrap_or_default();
            if name.is_empty() {
                continue;
            }
            self.context.registry.add(&container.id, &uid);
            match runtime.container_status(&container.id).await {
                Ok(status) => self.saw(&name, Run::new(status, &container.pod_sandbox_id)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.restore();
        Ok(())
    }

    /// What an earlier process of ours knew besides: health from the API's status, back-off from the restart counts.
    fn restore(&mut self) {
        let known: Vec<_> = {
            let status = pod::status(&self.pod);
            pod::list(&status.container_statuses)
                .iter()
                .chain(pod::list(&status.init_container_statuses))
                .cloned()
                .collect()
        };
        for (name, record) in self.state.records.clone() {
            let Some(run) = record.current else { continue };
            if run.attempt > 0 && !self.observed {
                let since = Timestamp::from_nanosecond(i128::from(run.started_at)).unwrap_or(Timestamp::UNIX_EPOCH);
                self.crashes.restore(name.clone(), run.attempt, since);
            }
            let told = known.iter().find(|status| {
                status.name == name && status.container_id.as_deref().is_some_and(|id| id.ends_with(&run.id))
            });
            if self.state.applied(&name).is_none() {
                let given = pod::container(&self.pod, &name).and_then(|container| container.resources.clone());
                let resources = told.and_then(|status| status.resources.clone()).or_else(|| given.clone());
                let differs = allocation::differing(resources.as_ref(), given.as_ref()).next().is_some();
                self.state.resize.going_on |= differs && run.alive();
                self.state.applied.insert(name.clone(), Applied { id: run.id.clone(), resources });
            }
            if let (Some(health), Some(told)) = (self.state.health.get_mut(&name), told)
                && health.id == run.id
                && !self.observed
            {
                health.started |= told.started == Some(true);
                health.ready |= told.ready;
            }
        }
    }

    /// Takes in a run, new or changed.
    fn saw(&mut self, name: &str, mut run: Run) {
        if run.phase == Phase::Exited && self.oom.remove(&run.id) {
            run.killed_for_memory();
        }
        if run.phase == Phase::Running && self.state.health.get(name).is_none_or(|health| health.id != run.id) {
            let container = pod::container(&self.pod, name);
            let has = |kind: Kind| container.is_some_and(|c| kind.of(c).is_some());
            let health = Health {
                id: run.id.clone(),
                started: !has(Kind::Startup),
                ready: !has(Kind::Readiness),
                in_hook: false,
                doomed: None,
            };
            self.state.health.insert(name.to_owned(), health);
        }
        if run.phase == Phase::Running {
            self.state.waiting.remove(name);
        }
        let old = self.state.records.entry(name.to_owned()).or_default().put(run);
        if let Some(old) = old.filter(|old| !old.alive()) {
            let shared = Arc::clone(&self.shared);
            self.jobs.spawn(async move {
                shared.forget(old).await;
                (None, Outcome::Nothing)
            });
        }
    }

    /// A message from outside.
    pub(super) async fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod, pending) => self.updated(pod, pending),
            Message::Gone => self.removed(),
            Message::Oom(id) => self.ran_out_of_memory(id),
            Message::Resync => self.observed = false,
            Message::Exited(id) => self.exited(&id).await,
            Message::Probe(verdict) => self.judged(verdict),
        }
    }

    /// Nobody waits for the pod any more (a forced deletion, or our own): whatever its spec says, its containers get
    /// the shortest grace there is.
    fn removed(&mut self) {
        self.gone = true;
        let mut pod = (*self.pod).clone();
        let grace = pod::grace_seconds(&pod).min(FORCED_GRACE);
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        pod.metadata.deletion_timestamp.get_or_insert(Time(Timestamp::now()));
        self.pod = Arc::new(pod);
    }

    fn updated(&mut self, pod: Arc<Pod>, pending: Option<Pending>) {
        if version(&pod) >= self.known_version {
            self.known = pod::status(&pod).clone();
            self.known_version = version(&pod);
        }
        let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let changed = shown(&self.pod) != shown(&pod);
        if changed || self.pod.metadata.generation != pod.metadata.generation {
            // What kept a container from starting may be what has changed. A crash is none of that.
            for waiting in self.state.waiting.values_mut().filter(|waiting| waiting.reason != "CrashLoopBackOff") {
                waiting.until = None;
            }
        }
        let old = std::mem::replace(&mut self.pod, pod);
        self.resized_from(&old, pending);
        if changed {
            self.refresh_soon();
        }
    }

    /// A ConfigMap or Secret of ours changed.
    pub(super) fn objects_changed(&mut self) {
        if self.stopping_since.is_some() {
            return;
        }
        for waiting in self.state.waiting.values_mut() {
            if matches!(waiting.reason.as_str(), "FailedMount" | "CreateContainerConfigError") {
                waiting.until = None;
            }
        }
        self.refresh_soon();
    }

    /// Lets volumes show what has changed; those that are not made yet will.
    fn refresh_soon(&mut self) {
        if self.state.volumes.is_some() {
            self.refresh_at = Some(Timestamp::now());
        }
    }

    /// The kernel's word may come before or after that of the container's end.
    fn ran_out_of_memory(&mut self, id: String) {
        let runs = self.state.records.values_mut().flat_map(|record| [&mut record.current, &mut record.previous]);
        match runs.flatten().find(|run| run.id == id && !run.alive()) {
            Some(ended) => ended.killed_for_memory(),
            None => drop(self.oom.insert(id)),
        }
    }

    async fn exited(&mut self, id: &str) {
        if self.state.sandbox.as_ref().is_some_and(|sandbox| sandbox.id == id) {
            if let Some(sandbox) = &mut self.state.sandbox {
                sandbox.ready = false;
            }
            return;
        }
        let found = self.state.records.iter().find_map(|(name, record)| {
            let run = [&record.current, &record.previous].into_iter().flatten().find(|run| run.id == id)?;
            Some((name.clone(), run.sandbox.clone()))
        });
        let Some((name, sandbox)) = found else {
            // One that is just being started: the status that its job brings may be older than its end.
            if self.starting() {
                self.ended_early.insert(id.to_owned());
            }
            return;
        };
        match self.context.runtime.exited_container_status(id).await {
            Ok(status) => self.saw(&name, Run::new(status, &sandbox)),
            Err(error) => {
                tracing::warn!(pod = %self.shared.id, container = name, %error, "cannot read how the container ended");
                self.observed = false;
            }
        }
    }

    /// Whether a job is about to bring a container or sandbox that is not known yet.
    fn starting(&self) -> bool {
        self.state.busy.iter().any(|job| matches!(job, Job::Start(_) | Job::Sandbox))
    }

    fn judged(&mut self, verdict: Verdict) {
        let Verdict { container, id, kind, success } = verdict;
        let Some(health) = self.state.health.get_mut(&container).filter(|health| health.id == id) else { return };
        match (kind, success) {
            (Kind::Startup, true) => health.started = true,
            (Kind::Readiness, ready) => health.ready = ready,
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => {
                let what = if kind == Kind::Startup { "startup" } else { "liveness" };
                let spec = pod::container(&self.pod, &container).and_then(|c| kind.of(c));
                let grace = spec.and_then(|probe| probe.termination_grace_period_seconds);
                let message = format!("Container {container} failed {what} probe, will be restarted");
                self.doom(&container, message, grace);
            }
        }
        if kind != Kind::Readiness {
            self.probes.remove(&(container, kind));
        }
    }

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
                self.writing = false;
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

    pub(super) fn succeeded(&mut self, what: &str) {
        self.failures.remove(what);
        self.state.waiting.remove(what);
    }

    fn failed(&mut self, what: &str, message: String) {
        tracing::warn!(pod = %self.shared.id, what, message, "will be tried again");
        self.hold(what, what, message);
    }

    fn refreshed(&mut self, result: Result<(crate::volumes::VolumePaths, Option<Timestamp>), String>) {
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
                let waiting = super::Waiting { reason: reason.to_owned(), message, until };
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

    fn hook_ended(&mut self, name: &str, id: &str, succeeded: bool) {
        let Some(health) = self.state.health.get_mut(name).filter(|health| health.id == id) else { return };
        health.in_hook = false;
        if !succeeded {
            self.doom(name, "FailedPostStartHook".into(), None);
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
    fn lost(&mut self, name: &str) {
        if let Some(current) = self.state.records.get_mut(name).and_then(|r| r.current.as_mut()) {
            current.phase = Phase::Exited;
            current.exit_code = SIGKILLED;
            current.reason = "ContainerStatusUnknown".into();
            current.message = "The container could not be located when the pod was terminated".into();
        }
    }

    fn written(&mut self, result: Result<Pod, ApiFailure>) {
        self.writing = false;
        match result {
            Ok(pod) => {
                if version(&pod) >= self.known_version {
                    self.known_version = version(&pod);
                    self.known = pod.status.unwrap_or_default();
                }
            }
            Err(ApiFailure::Gone) => self.gone = true,
            Err(error) => {
                tracing::warn!(pod = %self.shared.id, %error, "status not written, will be tried again");
                self.write_after = Some(later(Timestamp::now(), STATUS_RETRY));
            }
        }
    }
}
