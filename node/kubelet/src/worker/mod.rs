//! One task a pod: a state machine over what is desired and what is observed.
//!
//! `state` is what was observed, `plan` decides (pure), `jobs` do the work. The worker itself goes round and round: it takes
//! in messages and the ends of jobs (`observe`, `ends`), lets the plan decide, carries it out (`act`), probes (`health`), and
//! tells the API what is (`tell`).

mod act;
mod ends;
mod health;
mod jobs;
mod observe;
mod plan;
mod resize;
mod state;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
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
use crate::probe::{Kind, Verdict};
use crate::volumes::VolumePaths;
use health::Probes;
use jobs::Shared;
use plan::Plan;
use state::{Applied, Job, step};
use tell::Told;

/// Messages a worker may fall behind by.
const INBOX: usize = 256;

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
    /// Somebody set the clock: what was to come at some time may be due.
    ClockSet,
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

impl View {
    /// Whether the container of this name runs.
    fn alive(&self, name: &str) -> bool {
        self.records.get(name).and_then(|record| record.current.as_ref()).is_some_and(Run::alive)
    }
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
    Reset(Result<(), String>),
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
    probes: Probes,
    accepted: Timestamp,
    stopping_since: Option<Timestamp>,
    stopping_grace: i64,
    gone: bool,
    cleaned: bool,
    removing: bool,
    observed: bool,
    told: Told,
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
    let final_phase = pod::status(&pod).phase.clone().filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"));
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
        probes: Probes::default(),
        accepted: Timestamp::now(),
        stopping_since: None,
        stopping_grace: i64::MAX,
        gone: false,
        cleaned: false,
        removing: false,
        observed: false,
        told: Told::of(&pod),
        refresh_at: None,
        oom: HashSet::new(),
        ended_early: HashSet::new(),
        done: false,
        pod,
    };
    supervise::spawn("pod", &context.tasks, &context.shutdown, worker, |worker| Box::pin(worker.run()));
    Handle { inbox: sender, view }
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
        self.probes.retain(|_, _, _| false);
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
        at(self.told.again_at());
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
            self.cancel.cancel();
            self.probes.retain(|_, kind, _| kind == Kind::Readiness);
        } else if grace >= self.stopping_grace {
            return;
        }
        self.stopping_grace = grace;
        // What is being stopped already, be it that someone lost patience or that a restart became an end, gets no more
        // time than this.
        for (name, record) in &self.state.records {
            let Some(run) = record.current.clone().filter(Run::alive) else { continue };
            if !self.state.busy.contains(&Job::Kill(name.clone())) {
                continue;
            }
            let after = plan::before(&self.pod, &self.state, name);
            let (shared, others) = (Arc::clone(&self.shared), self.view.subscribe());
            self.jobs.spawn(async move {
                if let Err(error) = shared.stop(&run.id, grace, &after, others).await {
                    tracing::warn!(pod = %shared.id, %error, "cannot stop the container sooner");
                }
                (None, Outcome::Nothing)
            });
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

    // --- waiting ---

    /// Whether a retry's back-off is over.
    fn due(&self, what: &str, now: Timestamp) -> bool {
        self.state.waiting.get(what).and_then(|waiting| waiting.holds(now)).is_none()
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

    pub(super) fn succeeded(&mut self, what: &str) {
        self.failures.remove(what);
        self.state.waiting.remove(what);
    }

    fn failed(&mut self, what: &str, message: String) {
        tracing::warn!(pod = %self.shared.id, what, message, "will be tried again");
        self.hold(what, what, message);
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
