//! What comes in: messages, and the runtime's own account of the pod.

use std::sync::Arc;

use cri::v1::{ContainerFilter, PodSandboxFilter};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{Applied, Health, Job, Phase, Run, Sandbox};
use super::{Message, Outcome, Worker, by_uid};
use crate::allocation::{self, Pending};
use crate::logs;
use crate::pod;
use crate::probe::Kind;
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
        let containers = runtime.list_containers(Some(filter)).await?;
        let gone = |run: &&Run| run.alive() && containers.iter().all(|container| container.id != run.id);
        let records = self.state.records.iter();
        let gone = records.filter(|(_, record)| record.current.as_ref().filter(gone).is_some());
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.lost(&name);
        }
        for container in containers {
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
        self.count_logs().await;
        Ok(())
    }

    /// Of containers that the runtime remembers nothing of, logs tell how often they ran.
    async fn count_logs(&mut self) {
        let unknown = pod::all_containers(&self.pod).filter(|c| !self.state.records.contains_key(&c.name));
        let names: Vec<String> = unknown.map(|container| container.name.clone()).collect();
        let dir = self.shared.log_dir();
        if names.is_empty() || !tokio::fs::try_exists(&dir).await.unwrap_or(false) {
            return;
        }
        let count = move || names.into_iter().map(|name| (logs::runs(&dir.join(&name)), name)).collect::<Vec<_>>();
        let counted = tokio::task::spawn_blocking(count).await.unwrap_or_default();
        self.state.logged = counted.into_iter().map(|(runs, name)| (name, runs)).collect();
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
                self.crashes.restore(pod::backoff_key(&name, &run.hash), run.attempt, run.started());
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
    pub(super) fn saw(&mut self, name: &str, mut run: Run) {
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
            Message::ClockSet => self.refresh_soon(),
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
        self.told.saw(&pod);
        let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let changed = shown(&self.pod) != shown(&pod);
        if changed || self.pod.metadata.generation != pod.metadata.generation {
            // What kept a container from starting may be what has changed. A crash is none of that.
            for waiting in self.state.waiting.values_mut().filter(|waiting| waiting.reason != "CrashLoopBackOff") {
                waiting.until = None;
            }
        }
        let old = std::mem::replace(&mut self.pod, pod);
        let resized = !allocation::same(&old, &self.pod);
        self.resized_from(&old, pending);
        if changed || resized {
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

    pub(super) async fn exited(&mut self, id: &str) {
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
    pub(super) fn starting(&self) -> bool {
        self.state.busy.iter().any(|job| matches!(job, Job::Start(_) | Job::Sandbox))
    }
}
