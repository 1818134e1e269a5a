//! Acting: a plan carried out, each piece of work a job of its own.

use std::sync::Arc;

use jiff::Timestamp;

use super::jobs;
use super::plan::{Action, Plan};
use super::state::{Applied, Job, Phase, step};
use super::{Outcome, Worker};
use crate::pod;

impl Worker {
    pub(super) fn carry_out(&mut self, plan: Plan, now: Timestamp) {
        for (name, waiting) in plan.waiting {
            let known = self
                .state
                .waiting
                .get(&name)
                .is_some_and(|old| old.reason == waiting.reason && old.message == waiting.message);
            if !known {
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    self.shared.id.name, self.shared.id.namespace, self.shared.id.uid
                );
                self.context.events.event(&self.pod, Some(&name), true, "BackOff", message);
            }
            self.state.waiting.insert(name, waiting);
        }
        for (name, ended) in plan.counted {
            self.crashes.next(name, ended);
        }
        self.state.renewed.extend(plan.renewed);
        for action in plan.actions {
            self.act(action, now);
        }
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        let shared = Arc::clone(&self.shared);
        let pod = Arc::clone(&self.pod);
        let ips = self.state.ips(&pod, &self.context.host_ip);
        match action {
            Action::Setup => {
                let cancel = self.cancel.clone();
                self.job(Job::Setup, async move {
                    tokio::select! {
                        result = shared.first_setup(&pod, &ips) => Outcome::Setup(result),
                        () = cancel.cancelled() => Outcome::Nothing,
                    }
                });
            }
            Action::Refresh => self.refresh(),
            Action::Sandbox { attempt } => {
                let old = self.state.sandbox.as_ref().map(|sandbox| sandbox.id.clone());
                let attempt = attempt + self.failures.get(step::SANDBOX).copied().unwrap_or(0);
                self.job(Job::Sandbox, async move { Outcome::Sandbox(shared.sandbox(&pod, old, attempt).await) });
            }
            Action::Start { name, attempt } => self.start(name, attempt, ips),
            Action::Kill { name, id, end } => {
                let ip = ips.into_iter().next().unwrap_or_default();
                let others = self.view.subscribe();
                self.job(Job::Kill(name.clone()), async move {
                    shared.kill(&pod, &name, &id, &ip, end, others).await;
                    Outcome::Killed(name, id)
                });
            }
            Action::Reset if self.due(step::RESET, now) => self.reset(),
            Action::Resize { names, settles } => self.resize(&names, settles),
            Action::Release if self.due(step::RELEASE, now) => {
                let sandboxes: Vec<String> = self.sandboxes();
                self.job(Job::Release, async move { Outcome::Released(shared.release(&sandboxes).await) });
            }
            Action::Cleanup if self.due(step::CLEANUP, now) => {
                self.job(Job::Cleanup, async move { Outcome::Cleaned(shared.cleanup().await) });
            }
            Action::Reset | Action::Release | Action::Cleanup => {}
        }
    }

    fn start(&mut self, name: String, attempt: u32, ips: Vec<String>) {
        let (Some(sandbox), Some(volumes)) = (self.state.sandbox.clone(), self.state.volumes.clone()) else { return };
        let ephemeral = || pod::ephemeral_containers(&self.pod).into_iter().find(|c| c.name == name);
        let Some(container) = pod::container(&self.pod, &name).cloned().or_else(ephemeral) else { return };
        let target = pod::debug_target(&self.pod, &name).map(|target| {
            let running = self.state.current(target).filter(|run| run.phase == Phase::Running);
            running.map(|run| run.id.clone()).ok_or_else(|| target.to_owned())
        });
        let (shared, pod, cancel) = (Arc::clone(&self.shared), Arc::clone(&self.pod), self.cancel.clone());
        let resources = container.resources.clone();
        self.job(Job::Start(name.clone()), async move {
            let place = jobs::Place { sandbox, volumes, ips, target };
            let start = shared.start(&pod, &container, attempt, place);
            tokio::select! {
                biased;
                () = cancel.cancelled() => Outcome::Cancelled,
                result = start => Outcome::Start(name, resources, Box::new(result)),
            }
        });
    }

    fn resize(&mut self, names: &[String], settles: bool) {
        let updates = names.iter().filter_map(|name| self.state.applied(name).map(|had| (name.clone(), had.clone())));
        let updates: Vec<(String, Applied)> = updates.collect();
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        self.job(Job::Resize, async move {
            let mut done = Vec::new();
            let result = shared.resize(&pod, updates, settles, &mut done).await;
            Outcome::Resized(pod, done, result.map(|()| settles))
        });
    }

    /// Forgets all runs, those that ask for it last: until then their end is what tells a next process of ours to go on.
    fn reset(&mut self) {
        let (asking, others): (Vec<_>, Vec<_>) =
            pod::all_containers(&self.pod).partition(|container| self.state.ended_for_all(container));
        let records = others.into_iter().chain(asking).filter_map(|c| self.state.records.get(&c.name).cloned());
        let (current, previous): (Vec<_>, Vec<_>) = records.map(|record| (record.current, record.previous)).unzip();
        let shared = Arc::clone(&self.shared);
        self.job(Job::Reset, async move {
            for run in previous.into_iter().flatten() {
                shared.forget(run).await;
            }
            Outcome::Reset(shared.remove_runs(current.into_iter().flatten()).await)
        });
    }

    pub(super) fn job(&mut self, job: Job, work: impl Future<Output = Outcome> + Send + 'static) {
        self.state.busy.insert(job.clone());
        self.jobs.spawn(async move { (Some(job), work.await) });
    }

    /// Lets go of replaced sandboxes whose containers are all forgotten.
    pub(super) fn collect(&mut self) {
        if self.stopping_since.is_some() || !self.state.busy.is_empty() {
            return;
        }
        for id in self.state.take_spent_sandboxes() {
            let shared = Arc::clone(&self.shared);
            self.jobs.spawn(async move {
                shared.forget_sandbox(&id).await;
                (None, Outcome::Nothing)
            });
        }
    }

    fn sandboxes(&self) -> Vec<String> {
        let current = self.state.sandbox.as_ref().map(|sandbox| sandbox.id.clone());
        self.state.old_sandboxes.iter().cloned().chain(current).collect()
    }

    fn refresh(&mut self) {
        self.refresh_at = None;
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let ips = self.state.ips(&pod, &self.context.host_ip);
        let cancel = self.cancel.clone();
        self.job(Job::Refresh, async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Outcome::Nothing,
                result = shared.setup(&pod, &ips) => Outcome::Refresh(result),
            }
        });
    }
}
