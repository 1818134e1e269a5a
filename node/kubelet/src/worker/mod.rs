//! One task a pod: a state machine over what is desired and what is observed.
//!
//! `state` is what was observed, `plan` decides (pure), `jobs` do the work. The worker itself takes in messages (pod
//! updates, exits, verdicts of probes), lets the plan decide, starts jobs, and tells the API what is.

mod jobs;
mod observe;
mod plan;
mod resize;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use jobs::cleanup;
#[cfg(test)]
pub(crate) use state::Health;
pub(crate) use state::{Failure, Phase, Record, Run, SIGKILLED, Sandbox, State, Waiting};

use crate::allocation::Pending;
use crate::backoff::Backoff;
use crate::context::{ApiFailure, Context};
use crate::pod::{self, PodId};
use crate::probe::{self, Verdict};
use crate::status;
use crate::volumes::VolumePaths;
use jobs::Shared;
use plan::{Action, Plan};
use state::{Applied, Doom, Job, ahead, step};

/// Messages a worker may fall behind by.
const INBOX: usize = 256;
const STATUS_RETRY: Duration = Duration::from_secs(1);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The pod as it now is in the API.
    /// With the resources that it was given, and why what it asks for instead has to wait.
    Pod(Arc<Pod>, Option<Pending>),
    /// The API does not have the pod any more.
    Gone,
    /// This container or sandbox ended.
    Exited(String),
    /// The kernel killed for want of memory in this container.
    Oom(String),
    /// Events may have been missed: look at everything.
    Resync,
    /// A probe's verdict changed.
    Probe(Verdict),
}

/// A container that could not be started.
#[derive(Debug)]
pub(crate) struct StartError {
    reason: &'static str,
    message: String,
    delay: Option<Duration>,
    run: Option<Run>,
}

impl StartError {
    /// To be tried again by the worker's own back-off.
    pub(crate) fn retry(reason: &'static str, message: String) -> StartError {
        StartError { reason, message, delay: None, run: None }
    }

    /// To be tried again after this long.
    pub(crate) fn after(reason: &'static str, message: String, delay: Duration) -> StartError {
        StartError { reason, message, delay: Some(delay), run: None }
    }

    /// A pull that failed: shown as such for a moment before its back-off is.
    pub(crate) fn pull(error: String) -> StartError {
        StartError { reason: "ErrImagePull", message: error, delay: Some(Duration::from_secs(2)), run: None }
    }
}

/// What others may see of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The pod with its latest status.
    pub(crate) pod: Arc<Pod>,
    pub(crate) sandbox: Option<String>,
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) waiting: BTreeMap<String, Waiting>,
    /// Nothing of it runs or will run: its resources are free.
    pub(crate) over: bool,
}

/// The way to a worker.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// How a job ended.
enum Outcome {
    Setup(Result<(VolumePaths, Option<Timestamp>), String>),
    Refresh(Result<(VolumePaths, Option<Timestamp>), String>),
    Sandbox(Result<Sandbox, String>),
    Start(String, Option<ResourceRequirements>, Box<Result<Run, StartError>>),
    /// What containers have been given, whether all have it now, and what went wrong.
    Resized(Arc<Pod>, Vec<(String, Applied)>, Result<bool, String>),
    Cancelled,
    PostStart(String, String, Result<(), String>),
    Killed(String, String),
    Released(Result<(), String>),
    Cleaned(Result<(), String>),
    Removed(Result<(), ApiFailure>),
    Written(Box<Result<Pod, ApiFailure>>),
    Nothing,
}

/// The task.
struct Worker {
    shared: Arc<Shared>,
    context: Arc<Context>,
    pod: Arc<Pod>,
    state: State,
    inbox: mpsc::Receiver<Message>,
    own: mpsc::Sender<Message>,
    view: watch::Sender<Arc<View>>,
    bell: Arc<Notify>,
    jobs: JoinSet<(Option<Job>, Outcome)>,
    /// Ends starts that wait, when the pod is to go.
    cancel: CancellationToken,
    crashes: Backoff<String>,
    /// Failures in a row by container or [`step`], for retries of our own.
    failures: HashMap<String, u32>,
    probes: HashMap<(String, probe::Kind), (String, CancellationToken)>,
    accepted: Timestamp,
    stopping_since: Option<Timestamp>,
    stopping_grace: i64,
    gone: bool,
    cleaned: bool,
    removing: bool,
    observed: bool,
    /// Status as the API has it, as far as we know.
    known: PodStatus,
    known_version: u64,
    writing: bool,
    write_after: Option<Timestamp>,
    refresh_at: Option<Timestamp>,
    /// Containers that the kernel killed in for want of memory and whose end is not known yet.
    oom: HashSet<String>,
    /// Containers and sandboxes whose end was told before the job that starts them was done.
    ended_early: HashSet<String>,
    done: bool,
}

/// Starts a worker. `rejected` says why the node does not take the pod.
pub(crate) fn spawn(context: &Arc<Context>, pod: Arc<Pod>, rejected: Option<Failure>) -> Handle {
    let (sender, inbox) = mpsc::channel(INBOX);
    let (view_sender, view) = watch::channel(Arc::new(View { pod: Arc::clone(&pod), ..View::default() }));
    let shared = Arc::new(Shared::new(Arc::clone(context), PodId::of(&pod)));
    let known = pod::status(&pod).clone();
    let final_phase = known.phase.clone().filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"));
    let worker = Worker {
        bell: shared.objects.bell(),
        shared,
        context: Arc::clone(context),
        state: State { failure: rejected, final_phase, ..State::default() },
        inbox,
        own: sender.clone(),
        view: view_sender,
        jobs: JoinSet::new(),
        cancel: CancellationToken::new(),
        crashes: Backoff::default(),
        failures: HashMap::new(),
        probes: HashMap::new(),
        accepted: Timestamp::now(),
        stopping_since: None,
        stopping_grace: i64::MAX,
        gone: false,
        cleaned: false,
        removing: false,
        observed: false,
        known_version: version(&pod),
        known,
        writing: false,
        write_after: None,
        refresh_at: None,
        oom: HashSet::new(),
        ended_early: HashSet::new(),
        done: false,
        pod,
    };
    supervise::spawn("pod", &context.tasks, &context.shutdown, worker, |worker| Box::pin(worker.run()));
    Handle { inbox: sender, view }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn by_uid(uid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(crate::labels::POD_UID.to_owned(), uid.to_owned())])
}

fn later(now: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay).ok().and_then(|delay| now.checked_add(delay).ok()).unwrap_or(now)
}

impl Worker {
    async fn run(&mut self) {
        let shutdown = self.context.shutdown.clone();
        // Also after a panic: what was decided upon then may have been half done.
        self.observed = false;
        let bell = Arc::clone(&self.bell);
        while !self.done {
            let wake = self.step().await;
            if self.done {
                break;
            }
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep(at.duration_since(Timestamp::now()).unsigned_abs_or_zero()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(message) = self.inbox.recv() => self.take(message).await,
                Some(joined) = self.jobs.join_next() => self.joined(joined).await,
                () = bell.notified() => self.objects_changed(),
                () = timer => {}
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message).await;
            }
        }
        for (_, token) in self.probes.values() {
            token.cancel();
        }
        tracing::debug!(pod = %self.shared.id, "pod is gone");
    }

    // --- deciding ---

    /// One round: observe if need be, decide, act, tell. Answers when to look again.
    async fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        if !self.observed {
            if let Err(error) = self.observe().await {
                tracing::warn!(pod = %self.shared.id, %error, "cannot see the pod's containers");
                return Some(later(now, self.delay(step::OBSERVE)));
            }
            self.observed = true;
        }
        self.note_stopping(now);
        self.note_deadline(now);
        let stopping = self.stopping_since.is_some();
        let input = plan::Input {
            pod: &self.pod,
            state: &self.state,
            crashes: &self.crashes,
            stopping,
            stopping_since: self.stopping_since,
            refresh_at: self.refresh_at,
            now,
        };
        let plan = if stopping && self.cleaned { Plan::default() } else { plan::plan(&input) };
        let mut wake = plan.wake;
        self.carry_out(plan, now);
        self.collect();
        self.watch_health();
        self.write_status(now);
        self.publish();
        self.remove_object();
        let mut at = |time: Option<Timestamp>| {
            if let Some(time) = time {
                wake = Some(wake.map_or(time, |old| old.min(time)));
            }
        };
        at(self.write_after);
        at(self.state.waiting.values().filter_map(|waiting| waiting.holds(now)).min());
        wake
    }

    fn note_stopping(&mut self, now: Timestamp) {
        if !pod::deleting(&self.pod) && !self.gone {
            return;
        }
        let grace = pod::grace_seconds(&self.pod);
        if self.stopping_since.is_none() {
            self.stopping_since = Some(now);
            self.stopping_grace = grace;
            self.cancel.cancel();
            let kinds = [probe::Kind::Startup, probe::Kind::Liveness];
            self.probes.retain(|(_, kind), (_, token)| {
                let keep = !kinds.contains(kind);
                if !keep {
                    token.cancel();
                }
                keep
            });
        } else if grace < self.stopping_grace {
            // Someone lost patience: what is being stopped gets the shorter time.
            self.stopping_grace = grace;
            for run in self.state.records.values().filter_map(|r| r.current.clone()).filter(Run::alive) {
                let shared = Arc::clone(&self.shared);
                self.jobs.spawn(async move {
                    let left = Duration::from_secs(grace.max(0) as u64);
                    if let Err(error) = shared.context.runtime.stop_container(&run.id, left).await {
                        tracing::warn!(pod = %shared.id, %error, "cannot stop the container sooner");
                    }
                    (None, Outcome::Nothing)
                });
            }
        }
    }

    fn note_deadline(&mut self, now: Timestamp) {
        let Some(seconds) = pod::spec(&self.pod).active_deadline_seconds else { return };
        let start = pod::start_time(&self.pod).unwrap_or(self.accepted);
        let over = now.duration_since(start).as_secs() >= seconds;
        if over && self.state.finished(&self.pod).is_none() && self.stopping_since.is_none() {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.context.events.event(&self.pod, None, false, "DeadlineExceeded", message.clone());
            self.state.failure = Some(Failure { reason: "DeadlineExceeded".into(), message });
        }
    }

    // --- acting ---

    fn carry_out(&mut self, plan: Plan, now: Timestamp) {
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
            Action::Kill { name, id, message, grace } => {
                let ip = ips.into_iter().next().unwrap_or_default();
                self.job(Job::Kill(name.clone()), async move {
                    shared.kill(&pod, &name, &id, &ip, message, grace).await;
                    Outcome::Killed(name, id)
                });
            }
            Action::Resize { names, settles } => self.resize(&names, settles),
            Action::Release if self.due(step::RELEASE, now) => {
                let sandboxes: Vec<String> = self.sandboxes();
                self.job(Job::Release, async move { Outcome::Released(shared.release(&sandboxes).await) });
            }
            Action::Cleanup if self.due(step::CLEANUP, now) => {
                self.job(Job::Cleanup, async move { Outcome::Cleaned(shared.cleanup().await) });
            }
            Action::Release | Action::Cleanup => {}
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

    fn job(&mut self, job: Job, work: impl Future<Output = Outcome> + Send + 'static) {
        self.state.busy.insert(job.clone());
        self.jobs.spawn(async move { (Some(job), work.await) });
    }

    /// Lets go of replaced sandboxes whose containers are all forgotten.
    fn collect(&mut self) {
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

    /// Whether a retry's back-off is over.
    fn due(&self, what: &str, now: Timestamp) -> bool {
        self.state.waiting.get(what).and_then(|waiting| waiting.holds(now)).is_none()
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

    // --- telling ---

    fn current_status(&self, now: Timestamp) -> PodStatus {
        let terminated = self.stopping_since.is_some() && !self.state.any_alive();
        status::build(&status::Input {
            pod: &self.pod,
            state: &self.state,
            host_ip: &self.context.host_ip,
            started: self.accepted,
            terminated,
            now,
        })
    }

    fn write_status(&mut self, now: Timestamp) {
        if self.writing || self.gone || self.removing || self.write_after.is_some_and(|at| ahead(at, now)) {
            return;
        }
        self.write_after = None;
        let wanted = self.current_status(now);
        let Some(patch) = status::patch::diff(&self.shared.id, &self.known, &wanted) else { return };
        self.writing = true;
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move {
            let result = shared.context.api.patch_status(&shared.id, patch).await;
            (None, Outcome::Written(Box::new(result)))
        });
    }

    fn publish(&self) {
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.current_status(Timestamp::now()));
        let over = !self.state.any_alive() && (self.state.finished(&self.pod).is_some() || self.cleaned);
        let view = View {
            pod: Arc::new(pod),
            sandbox: self.state.sandbox.as_ref().map(|sandbox| sandbox.id.clone()),
            records: self.state.records.clone(),
            waiting: self.state.waiting.clone(),
            over,
        };
        if !self.view.send_replace(Arc::new(view)).over && over {
            self.context.freed.notify_one();
        }
    }

    /// The last thing: with no trace left and the last status told, the API object goes.
    fn remove_object(&mut self) {
        if !self.cleaned {
            return;
        }
        if self.gone {
            self.done = true;
            return;
        }
        if self.writing || self.removing || self.write_after.is_some() || !self.due(step::REMOVE, Timestamp::now()) {
            return;
        }
        self.removing = true;
        let shared = Arc::clone(&self.shared);
        self.job(Job::Remove, async move { Outcome::Removed(shared.context.api.delete(&shared.id).await) });
    }

    /// Starts and ends probes as runs come and go.
    fn watch_health(&mut self) {
        let running: HashMap<String, String> = pod::all_containers(&self.pod)
            .filter_map(|c| {
                let run = self.state.current(&c.name).filter(|run| run.phase == Phase::Running)?;
                Some((c.name.clone(), run.id.clone()))
            })
            .collect();
        self.probes.retain(|(name, _), (id, token)| {
            let keep = running.get(name) == Some(id);
            if !keep {
                token.cancel();
            }
            keep
        });
        if self.stopping_since.is_some() {
            return;
        }
        let ip = self.state.ips(&self.pod, &self.context.host_ip).into_iter().next().unwrap_or_default();
        for (name, id) in running {
            let Some(health) = self.state.health.get(&name).filter(|health| health.id == id) else { continue };
            if health.in_hook {
                continue;
            }
            let past_startup = health.started;
            let doomed = health.doomed.is_some();
            for kind in [probe::Kind::Startup, probe::Kind::Liveness, probe::Kind::Readiness] {
                // One that is being killed has its verdict: no probe of its life begins again.
                let wanted =
                    (kind == probe::Kind::Startup) != past_startup && (!doomed || kind == probe::Kind::Readiness);
                let key = (name.clone(), kind);
                let Some(container) = pod::container(&self.pod, &name) else { continue };
                if !wanted || self.probes.contains_key(&key) || kind.of(container).is_none() {
                    continue;
                }
                let initial = match kind {
                    probe::Kind::Startup => false,
                    probe::Kind::Liveness => true,
                    probe::Kind::Readiness => health.ready,
                };
                let task = probe::Task {
                    pod: Arc::clone(&self.pod),
                    container: container.clone(),
                    id: id.clone(),
                    ip: ip.clone(),
                    kind,
                    initial,
                };
                let token = self.context.shutdown.child_token();
                task.spawn(&self.context, self.own.clone(), &token);
                self.probes.insert(key, (id.clone(), token));
            }
        }
    }

    /// The wait before trying again what failed, longer each time.
    fn delay(&mut self, what: &str) -> Duration {
        let count = self.failures.entry(what.to_owned()).or_default();
        *count += 1;
        Duration::from_millis(250).saturating_mul(1 << (*count - 1).min(7)).min(Duration::from_secs(30))
    }

    fn hold(&mut self, what: &str, reason: &str, message: String) {
        let until = Some(later(Timestamp::now(), self.delay(what)));
        let waiting = Waiting { reason: reason.to_owned(), message, until };
        self.state.waiting.insert(what.to_owned(), waiting);
    }

    fn doom(&mut self, name: &str, message: String, grace: Option<i64>) {
        if let Some(health) = self.state.health.get_mut(name) {
            health.doomed = Some(Doom { message, grace });
        }
    }
}

/// A duration that may have passed.
trait UnsignedOrZero {
    fn unsigned_abs_or_zero(self) -> Duration;
}

impl UnsignedOrZero for SignedDuration {
    fn unsigned_abs_or_zero(self) -> Duration {
        if self.is_negative() { Duration::ZERO } else { self.unsigned_abs() }
    }
}
