//! What a worker has observed of its pod: sandbox, containers with their runs, health, and what keeps them from starting.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use cri::v1::{ContainerState as CriState, ContainerStatus, LinuxContainerUser, PodSandboxStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::allocation::Pending;
use crate::api::last_of_log;
use crate::labels;
use crate::pod;
use crate::volumes::VolumePaths;

/// What a container exits with that was killed: 128 + SIGKILL.
pub(crate) const SIGKILLED: i32 = 128 + 9;

/// Whether a run of a container goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running,
    /// It ended.
    Exited,
}

/// One run of a container: a container of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    /// How many runs there were before.
    pub(crate) attempt: u32,
    pub(crate) phase: Phase,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    pub(crate) log_path: String,
    /// Who its first process ran as, where the runtime tells.
    pub(crate) user: Option<LinuxContainerUser>,
}

impl Run {
    /// From what CRI says; the sandbox's id is not in a ContainerStatus.
    pub(crate) fn new(status: ContainerStatus, sandbox: &str) -> Run {
        let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        let phase = match status.state() {
            CriState::ContainerCreated => Phase::Created,
            CriState::ContainerRunning => Phase::Running,
            CriState::ContainerExited | CriState::ContainerUnknown => Phase::Exited,
        };
        let attempt = annotation(labels::RESTART_COUNT)
            .parse()
            .unwrap_or_else(|_| status.metadata.as_ref().map_or(0, |meta| meta.attempt));
        let image = status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        Run {
            hash: annotation(labels::HASH),
            attempt,
            phase,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: if status.state() == CriState::ContainerUnknown { SIGKILLED } else { status.exit_code },
            message: termination_message(&status, phase),
            reason: status.reason,
            image,
            image_id: status.image_ref,
            log_path: status.log_path,
            user: status.user.and_then(|user| user.linux),
            sandbox: sandbox.to_owned(),
            id: status.id,
        }
    }

    /// Whether it has not ended.
    pub(crate) fn alive(&self) -> bool {
        self.phase != Phase::Exited
    }

    /// Notes that the kernel killed in it for want of memory: a run that ended by that says so.
    pub(crate) fn killed_for_memory(&mut self) {
        if self.exit_code == SIGKILLED {
            self.reason = "OOMKilled".into();
        }
    }

    /// When its first process started.
    pub(crate) fn started(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.started_at)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// When it ended; for one that never ran, when it was made.
    pub(crate) fn ended_at(&self) -> Timestamp {
        let nanos = [self.finished_at, self.started_at, self.created_at].into_iter().find(|n| *n > 0).unwrap_or(0);
        Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// How much of a termination file is told, and of a log in its place; upstream's limits.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_LINES: u64 = 80;
const MAX_LOG_BYTES: usize = 2048;

/// A container's last words: its termination file, or by policy the end of its log where it failed without any.
fn termination_message(status: &ContainerStatus, phase: Phase) -> String {
    if phase != Phase::Exited {
        return String::new();
    }
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let file = annotation(labels::TERMINATION_FILE);
    let mut words = match end_of_file(file, MAX_MESSAGE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            format!("Error on reading termination log {file}: {error}").into_bytes()
        }
        words => words.unwrap_or_default(),
    };
    let fallback = annotation(labels::TERMINATION_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    if words.is_empty() && fallback {
        words = last_of_log(Path::new(&status.log_path), MAX_LOG_LINES, MAX_LOG_BYTES)
            .unwrap_or_else(|error| format!("Error on reading termination message from logs: {error}").into_bytes());
    }
    if words.is_empty() {
        return status.message.clone();
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// The last `bytes` bytes of a file, whose size is up to the container that writes it.
fn end_of_file(path: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut words = Vec::new();
    file.take(bytes).read_to_end(&mut words)?;
    Ok(words)
}

/// The runs of one container that still exist in the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The latest.
    pub(crate) current: Option<Run>,
    /// The one before; kept for its log and status.
    pub(crate) previous: Option<Run>,
}

impl Record {
    /// Takes in a run, new or changed; answers one that is now too old to keep.
    pub(crate) fn put(&mut self, run: Run) -> Option<Run> {
        match &mut self.current {
            Some(current) if current.id == run.id => {
                *current = run;
                None
            }
            Some(current) if (current.attempt, current.created_at) > (run.attempt, run.created_at) => {
                match &mut self.previous {
                    Some(previous) if previous.id == run.id => {
                        *previous = run;
                        None
                    }
                    Some(previous) if previous.attempt >= run.attempt => Some(run),
                    previous => previous.replace(run),
                }
            }
            current => {
                let old = current.replace(run);
                match old {
                    Some(old) => self.previous.replace(old),
                    None => None,
                }
            }
        }
    }
}

/// The pod's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<String>,
    pub(crate) created_at: i64,
}

impl Sandbox {
    /// From what CRI says.
    pub(crate) fn new(status: &PodSandboxStatus) -> Sandbox {
        let network = status.network.as_ref();
        let first = network.map(|n| n.ip.clone()).filter(|ip| !ip.is_empty());
        let more = network.into_iter().flat_map(|n| n.additional_ips.iter().map(|ip| ip.ip.clone()));
        Sandbox {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |meta| meta.attempt),
            ready: status.state() == cri::v1::PodSandboxState::SandboxReady,
            ips: first.into_iter().chain(more).collect(),
            created_at: status.created_at,
        }
    }
}

/// What probes have found of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) id: String,
    /// Past its startup probe.
    pub(crate) started: bool,
    /// By its readiness probe; true without one.
    pub(crate) ready: bool,
    /// Its postStart hook runs.
    pub(crate) in_hook: bool,
    /// Why it has to be killed, for the event.
    pub(crate) doomed: Option<Doom>,
}

impl Health {
    /// Whether this run is past its startup probe and postStart hook.
    pub(crate) fn past_start(&self, id: &str) -> bool {
        self.id == id && self.started && !self.in_hook
    }
}

/// Why a running container has to go although its pod stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doom {
    pub(crate) message: String,
    pub(crate) grace: Option<i64>,
}

/// What is held back or counted beside containers: no container is called so, their names have no slash.
pub(crate) mod step {
    /// Set-up and sandbox: the pod itself.
    pub(crate) const POD: &str = "";
    pub(crate) const OBSERVE: &str = "/observe";
    pub(crate) const SANDBOX: &str = "/sandbox";
    pub(crate) const REFRESH: &str = "/refresh";
    pub(crate) const RELEASE: &str = "/release";
    pub(crate) const CLEANUP: &str = "/cleanup";
    pub(crate) const RESIZE: &str = "/resize";
    pub(crate) const RESET: &str = "/reset";
    pub(crate) const REMOVE: &str = "/remove";
}

/// Why a container (or a [`step`]) that should go on does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Not before then.
    pub(crate) until: Option<Timestamp>,
}

/// No retry waits longer than this: a time that lies further ahead was set before somebody put the clock back.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(10 * 60);

/// Whether it is not time yet.
pub(crate) fn ahead(until: Timestamp, now: Timestamp) -> bool {
    until > now && until.duration_since(now) <= LONGEST_WAIT
}

impl Waiting {
    /// Until when it holds, if it still does.
    pub(crate) fn holds(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| ahead(*until, now))
    }
}

/// Why the whole pod has failed, whatever its containers did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A change of the resources of a pod that runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resize {
    /// Why the node has not granted what is asked for, where it has not.
    pub(crate) pending: Option<Pending>,
    /// What was granted is being brought to the containers and the pod's group.
    pub(crate) going_on: bool,
    /// Why that failed when it was last tried.
    pub(crate) error: Option<String>,
}

/// The resources that a run of a container has.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) id: String,
    pub(crate) resources: Option<ResourceRequirements>,
}

/// Everything observed of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) sandbox: Option<Sandbox>,
    /// Earlier sandboxes that still exist.
    pub(crate) old_sandboxes: Vec<String>,
    pub(crate) records: BTreeMap<String, Record>,
    /// By container or [`step`].
    pub(crate) waiting: BTreeMap<String, Waiting>,
    pub(crate) health: BTreeMap<String, Health>,
    /// Host paths of the volumes, once they are ready.
    pub(crate) volumes: Option<VolumePaths>,
    pub(crate) failure: Option<Failure>,
    /// A terminal phase that the API already has: it never changes back.
    pub(crate) final_phase: Option<String>,
    /// Volumes, sandbox and cgroup of a finished pod are given back.
    pub(crate) released: bool,
    pub(crate) resize: Resize,
    /// By container.
    pub(crate) applied: BTreeMap<String, Applied>,
    /// Runs that were ended in order to begin anew, by container.
    pub(crate) renewed: BTreeMap<String, String>,
    /// How many runs of a container its logs tell of, where the runtime remembers none.
    pub(crate) logged: BTreeMap<String, u32>,
    /// What is being done.
    pub(crate) busy: HashSet<Job>,
}

/// Work in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// cgroup and volumes.
    Setup,
    /// What volumes show, brought up to date.
    Refresh,
    /// A new sandbox.
    Sandbox,
    /// Pull, create, start one container.
    Start(String),
    /// Stop one container.
    Kill(String),
    /// Give the containers and the pod's group other limits.
    Resize,
    /// Forget all runs.
    Reset,
    /// Give back what a finished pod held.
    Release,
    /// Remove everything of a deleted pod.
    Cleanup,
    /// Delete the API object.
    Remove,
}

impl State {
    /// The latest run of a container.
    pub(crate) fn current(&self, name: &str) -> Option<&Run> {
        self.records.get(name)?.current.as_ref()
    }

    /// How many runs of a container there were, the latest among them.
    pub(crate) fn runs(&self, name: &str) -> u32 {
        let known = self.records.get(name).into_iter().flat_map(|record| [&record.current, &record.previous]);
        let known = known.flatten().map(|run| run.attempt + 1).max();
        known.or_else(|| self.logged.get(name).copied()).unwrap_or(0)
    }

    /// Whether a lasting container is about to run, or runs and is in its postStart hook.
    pub(crate) fn is_starting(&self, pod: &Pod) -> bool {
        pod::all_containers(pod).any(|container| {
            let run = self.current(&container.name).filter(|run| run.alive());
            let health = self.health.get(&container.name);
            self.busy.contains(&Job::Start(container.name.clone()))
                || health.is_some_and(|health| health.in_hook && run.is_some_and(|run| run.id == health.id))
        })
    }

    /// Whether a container ended in a way that all of them are to begin anew.
    pub(crate) fn ended_for_all(&self, container: &Container) -> bool {
        let run = self.current(&container.name).filter(|run| !run.alive());
        run.is_some_and(|run| pod::restarts_all(container, run.exit_code))
    }

    /// Whether all containers are to begin anew.
    pub(crate) fn restarts_all(&self, pod: &Pod) -> bool {
        pod::all_containers(pod).any(|container| self.ended_for_all(container))
    }

    /// Whether the container runs (or is about to).
    pub(crate) fn alive(&self, name: &str) -> bool {
        self.current(name).is_some_and(Run::alive)
    }

    /// Any container that has not ended.
    pub(crate) fn any_alive(&self) -> bool {
        self.records.keys().any(|name| self.alive(name))
    }

    /// The resources that the latest run of a container has, where it is known.
    pub(crate) fn applied(&self, name: &str) -> Option<&Applied> {
        let run = self.current(name)?;
        self.applied.get(name).filter(|applied| applied.id == run.id)
    }

    /// Whether a container's latest run was ended in order to begin anew, whatever its policy says.
    pub(crate) fn is_renewed(&self, name: &str) -> bool {
        self.current(name).is_some_and(|run| self.renewed.get(name) == Some(&run.id))
    }

    /// Earlier sandboxes that none of the remembered runs belongs to.
    pub(crate) fn take_spent_sandboxes(&mut self) -> Vec<String> {
        let runs = self.records.values().flat_map(|record| [&record.current, &record.previous]).flatten();
        let used: HashSet<&str> = runs.map(|run| run.sandbox.as_str()).collect();
        let (kept, spent) =
            std::mem::take(&mut self.old_sandboxes).into_iter().partition(|id| used.contains(id.as_str()));
        self.old_sandboxes = kept;
        spent
    }

    /// Whether a job of one container is in flight.
    pub(crate) fn is_busy(&self, name: &str) -> bool {
        self.busy.iter().any(|job| matches!(job, Job::Start(n) | Job::Kill(n) if n == name))
    }

    /// The addresses of the pod: the sandbox's, or the host's.
    pub(crate) fn ips(&self, pod: &Pod, host_ip: &str) -> Vec<String> {
        match &self.sandbox {
            Some(_) if pod::host_network(pod) => vec![host_ip.to_owned()],
            Some(sandbox) => sandbox.ips.clone(),
            None => Vec::new(),
        }
    }

    /// Whether every init container has done its part: an app container that was started in this sandbox proves it.
    pub(crate) fn initialized(&self, pod: &Pod) -> bool {
        let sandbox = self.sandbox.as_ref().map(|s| s.id.as_str()).unwrap_or_default();
        let here = |run: &&Run| sandbox.is_empty() || run.sandbox == sandbox;
        if pod::containers(pod).iter().any(|c| self.current(&c.name).filter(here).is_some()) {
            return true;
        }
        pod::init_containers(pod).iter().all(|c| {
            let Some(run) = self.current(&c.name).filter(here) else { return false };
            if pod::restartable(c) {
                self.health.get(&c.name).is_some_and(|h| h.past_start(&run.id))
            } else {
                run.phase == Phase::Exited && run.exit_code == 0
            }
        })
    }

    /// Whether the pod's work is over: `Some(success)`.
    pub(crate) fn finished(&self, pod: &Pod) -> Option<bool> {
        match self.final_phase.as_deref() {
            Some("Succeeded") => return Some(true),
            Some(_) => return Some(false),
            None => {}
        }
        if self.failure.is_some() {
            return Some(false);
        }
        if self.restarts_all(pod) {
            return None;
        }
        let over = |name: &str| self.current(name).filter(|run| !run.alive()).map(|run| run.exit_code);
        for container in pod::init_containers(pod).iter().filter(|c| !pod::restartable(c)) {
            if let Some(code) = over(&container.name)
                && code != 0
                && !self.initialized(pod)
                && !pod::should_restart(pod, container, code)
            {
                return Some(false);
            }
        }
        let mut success = true;
        for container in pod::containers(pod) {
            let code = over(&container.name)?;
            let again = pod::should_restart(pod, container, code) || self.is_renewed(&container.name);
            if again || self.busy.contains(&Job::Start(container.name.clone())) {
                return None;
            }
            success &= code == 0;
        }
        (!pod::containers(pod).is_empty()).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, attempt: u32) -> Run {
        let status = ContainerStatus { id: id.into(), state: CriState::ContainerExited.into(), ..Default::default() };
        Run { attempt, created_at: i64::from(attempt), ..Run::new(status, "s") }
    }

    #[test]
    fn a_record_keeps_the_last_two_runs_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut record = Record::default();
            let dropped: Vec<String> =
                order.iter().filter_map(|n| record.put(run(&format!("c{n}"), *n))).map(|run| run.id).collect();
            assert_eq!(record.current.as_ref().map(|r| r.id.as_str()), Some("c2"), "{order:?}");
            assert_eq!(record.previous.as_ref().map(|r| r.id.as_str()), Some("c1"), "{order:?}");
            assert_eq!(dropped, ["c0"], "{order:?}");
        }
    }

    #[test]
    fn a_wait_ends_with_its_time_or_with_a_clock_that_is_put_back() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let waiting = Waiting { reason: String::new(), message: String::new(), until: Some(at(300)) };
        for (now, holds) in [(0, true), (299, true), (300, false), (9000, false), (-299, true), (-3600, false)] {
            assert_eq!(waiting.holds(at(now)).is_some(), holds, "{now}");
        }
    }

    #[test]
    fn last_words() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("t"), dir.path().join("l"));
        let entry = |tag: &str, text: &str| format!("2026-01-01T00:00:00Z stdout {tag} {text}\n");
        let two = entry("F", "one two") + &entry("F", "three");
        let many = (0..100).map(|n| entry("F", &n.to_string())).collect::<String>();
        let (unended, long) =
            (entry("P", "DO") + &entry("P", "NE"), entry("P", &"a".repeat(2000)) + &entry("F", &"b".repeat(100)));
        let last = (20..100).map(|n| format!("{n}\n")).collect::<String>();
        for (words, policy, code, log_text, expected) in [
            ("bye", "File", 1, &two, "bye"),
            ("", "File", 1, &two, ""),
            ("", "FallbackToLogsOnError", 1, &two, "one two\nthree\n"),
            ("", "FallbackToLogsOnError", 1, &unended, "DONE"),
            ("", "FallbackToLogsOnError", 1, &many, &last),
            ("", "FallbackToLogsOnError", 1, &long, &format!("{}{}\n", "a".repeat(1947), "b".repeat(100))),
            ("", "FallbackToLogsOnError", 0, &two, ""),
            ("bye", "FallbackToLogsOnError", 1, &two, "bye"),
            (&format!("{}end", "x".repeat(5000)), "File", 1, &two, &format!("{}end", "x".repeat(4093))),
        ] {
            std::fs::write(&file, words).unwrap();
            std::fs::write(&log, log_text).unwrap();
            let status = ContainerStatus {
                exit_code: code,
                state: CriState::ContainerExited.into(),
                log_path: log.display().to_string(),
                annotations: [
                    (labels::TERMINATION_FILE.to_owned(), file.display().to_string()),
                    (labels::TERMINATION_POLICY.to_owned(), policy.to_owned()),
                ]
                .into(),
                ..Default::default()
            };
            assert_eq!(Run::new(status, "").message, expected, "{policy} {code}");
        }
    }
}
