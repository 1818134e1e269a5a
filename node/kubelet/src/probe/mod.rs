//! Probes: one task each, with its own timer; what changes a container's fate goes to the pod's worker.

mod grpc;
pub(crate) mod http;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cri::v1::ExecSyncResponse;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::pod;
use crate::runtime::PodRuntime;
use crate::worker::Message;

/// How probes introduce themselves to HTTP servers.
const PROBE_AGENT: &str = "kube-probe/1.36";

/// How much of what a command writes is told.
const MAX_OUTPUT: usize = 10 * 1024;

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Until it succeeds the others wait; when it fails the container restarts.
    Startup,
    /// When it fails the container restarts.
    Liveness,
    /// Whether the container takes part in Services.
    Readiness,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// The probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A verdict that crossed its threshold.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) container: String,
    /// The run it is about; an older run's verdict counts for nothing.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) success: bool,
}

/// What is done to find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A command that must exit 0.
    Exec(Vec<String>),
    /// A request that must answer 200 to 399.
    Http(http::Get),
    /// A connection that must stand.
    Tcp { host: String, port: u16 },
    /// gRPC's health service must answer SERVING.
    Grpc { host: String, port: u16, service: String },
}

impl Action {
    /// An HTTP request to the container, or to the host it names.
    pub(crate) fn http(container: &Container, get: &HTTPGetAction, ip: &str) -> Result<http::Get, String> {
        let headers = pod::list(&get.http_headers).iter().map(|h| (h.name.clone(), h.value.clone())).collect();
        let path = get.path.clone().unwrap_or_default();
        Ok(http::Get {
            https: get.scheme.as_deref() == Some("HTTPS"),
            host: host(get.host.as_deref(), ip),
            port: port(container, &get.port)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers,
        })
    }

    /// A TCP connection to the container, or to the host it names.
    fn tcp(container: &Container, tcp: &TCPSocketAction, ip: &str) -> Result<Action, String> {
        Ok(Action::Tcp { host: host(tcp.host.as_deref(), ip), port: port(container, &tcp.port)? })
    }

    fn of(container: &Container, probe: &Probe, ip: &str) -> Result<Action, String> {
        if let Some(exec) = &probe.exec {
            return Ok(Action::Exec(pod::list(&exec.command).to_vec()));
        }
        if let Some(get) = &probe.http_get {
            return Action::http(container, get, ip).map(Action::Http);
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Action::tcp(container, tcp, ip);
        }
        if let Some(grpc) = &probe.grpc {
            let port = u16::try_from(grpc.port).map_err(|_| format!("port {} is out of range", grpc.port))?;
            return Ok(Action::Grpc { host: ip.into(), port, service: grpc.service.clone().unwrap_or_default() });
        }
        Err("the probe names no action".into())
    }

    /// What is said of a try that took longer than it may.
    fn timed_out(&self, limit: Duration) -> String {
        let limit = format!("{}s", limit.as_secs());
        match self {
            Action::Exec(command) => format!("command timed out: {:?} timed out after {limit}", command.join(" ")),
            Action::Http(get) => {
                let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
                format!("Get \"{}\": {late}", get.url())
            }
            Action::Tcp { host, port } => format!("dial tcp {}: i/o timeout", authority(host, *port)),
            Action::Grpc { host, port, .. } => {
                format!("timeout: failed to connect service {:?} within {limit}", authority(host, *port))
            }
        }
    }
}

fn host(own: Option<&str>, ip: &str) -> String {
    own.filter(|host| !host.is_empty()).unwrap_or(ip).to_owned()
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => {
                let ports = pod::list(&container.ports);
                let found = ports.iter().find(|p| p.name.as_deref() == Some(text));
                found.ok_or_else(|| format!("couldn't find port: {text}"))?.container_port
            }
        },
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Brackets an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// What one try found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Good.
    Success,
    /// Good, with something to be told about.
    Warning(String),
    /// Bad, and what was seen.
    Failure(String),
    /// Nothing was found out, because the runtime could not even ask: neither good nor bad.
    Unknown(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Outcome {
        result.map_or_else(Outcome::Failure, |()| Outcome::Success)
    }
}

/// Tries once.
async fn attempt(runtime: &dyn PodRuntime, id: &str, action: &Action, limit: Duration) -> Outcome {
    let work = async {
        match action {
            Action::Exec(command) => exec(runtime, id, command, limit).await,
            Action::Http(get) => http::judge(get.send(PROBE_AGENT).await),
            Action::Tcp { host, port } => tcp(host, *port).await.into(),
            Action::Grpc { host, port, service } => grpc::check(&authority(host, *port), service).await.into(),
        }
    };
    // The runtime ends a command itself. One that does not answer says nothing of the container.
    if matches!(action, Action::Exec(_)) {
        return work.await;
    }
    timeout(limit, work).await.unwrap_or_else(|_| Outcome::Failure(action.timed_out(limit)))
}

async fn tcp(host: &str, port: u16) -> Result<(), String> {
    let target = authority(host, port);
    tokio::net::TcpStream::connect(&target).await.map(drop).map_err(|error| format!("dial tcp {target}: {error}"))
}

async fn exec(runtime: &dyn PodRuntime, id: &str, command: &[String], limit: Duration) -> Outcome {
    match runtime.exec_sync(id, command.to_vec(), limit).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => Outcome::Failure(output(answer)),
        Err(error) if error.is_timeout() => Outcome::Failure(Action::Exec(command.to_vec()).timed_out(limit)),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// What a command wrote, as far as it is worth telling.
pub(crate) fn output(answer: ExecSyncResponse) -> String {
    let mut all = [answer.stdout, answer.stderr].concat();
    all.truncate(MAX_OUTPUT);
    String::from_utf8_lossy(&all).trim_end().to_owned()
}

/// A probe to run.
pub(crate) struct Task {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: Container,
    pub(crate) id: String,
    pub(crate) ip: String,
    pub(crate) kind: Kind,
    /// When the container started, which is when `initialDelaySeconds` begins.
    pub(crate) started: Timestamp,
    /// What is assumed before the first verdict.
    pub(crate) initial: bool,
}

impl Task {
    /// Starts probing until cancelled.
    pub(crate) fn spawn(self, context: &Arc<Context>, verdicts: mpsc::Sender<Message>, cancel: &CancellationToken) {
        let state = (self, Arc::clone(context), verdicts, cancel.clone());
        supervise::spawn("probe", &context.tasks, cancel, state, |(task, context, verdicts, cancel)| {
            Box::pin(async {
                cancel.run_until_cancelled(task.run(context, verdicts)).await;
            })
        });
    }

    async fn run(&self, context: &Context, verdicts: &mpsc::Sender<Message>) {
        let Some(probe) = self.kind.of(&self.container).cloned() else { return };
        let positive = |value: Option<i32>, default: i32| value.filter(|v| *v > 0).unwrap_or(default) as u64;
        let period = Duration::from_secs(positive(probe.period_seconds, 10));
        let limit = Duration::from_secs(positive(probe.timeout_seconds, 1));
        let delay = Duration::from_secs(positive(probe.initial_delay_seconds, 0));
        let delay = delay.saturating_sub(age(self.started, Timestamp::now()));
        let mut counter =
            Counter::new(positive(probe.success_threshold, 1), positive(probe.failure_threshold, 3), self.initial);
        let mut timer = interval_at(Instant::now() + delay, period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let outcome = match Action::of(&self.container, &probe, &self.ip) {
                Ok(action) => attempt(context.runtime.as_ref(), &self.id, &action, limit).await,
                Err(error) => Outcome::Unknown(error),
            };
            self.tell(context, &outcome);
            let good = match outcome {
                Outcome::Success | Outcome::Warning(_) => true,
                Outcome::Failure(_) => false,
                Outcome::Unknown(_) => continue,
            };
            let Some(success) = counter.add(good) else { continue };
            let verdict =
                Verdict { container: self.container.name.clone(), id: self.id.clone(), kind: self.kind, success };
            let last = match self.kind {
                Kind::Startup => true,
                Kind::Liveness => !success,
                Kind::Readiness => false,
            };
            if verdicts.send(Message::Probe(verdict)).await.is_err() || last {
                return;
            }
        }
    }

    fn tell(&self, context: &Context, outcome: &Outcome) {
        let kind = self.kind.as_str();
        let (reason, text) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(message) => ("ProbeWarning", format!("{kind} probe warning: {message}")),
            Outcome::Failure(message) => ("Unhealthy", format!("{kind} probe failed: {message}")),
            Outcome::Unknown(message) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {message}"))
            }
        };
        context.events.event(&self.pod, Some(&self.container.name), true, reason, text);
    }
}

/// How long ago something was; nothing where somebody put the clock back.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// Counts results in a row and tells when the verdict changes.
#[derive(Debug)]
struct Counter {
    successes: u64,
    failures: u64,
    run: u64,
    last: Option<bool>,
    told: bool,
}

impl Counter {
    fn new(successes: u64, failures: u64, initial: bool) -> Counter {
        Counter { successes, failures, run: 0, last: None, told: initial }
    }

    fn add(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let enough = if success { self.successes } else { self.failures };
        if self.run < enough {
            return None;
        }
        // A failure is told again: it may be that the container was to be killed and was not.
        let changed = success != self.told || (!success && self.run == enough);
        self.told = success;
        changed.then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;

    use super::*;

    #[test]
    fn thresholds() {
        // (successes, failures, initial, results, verdicts)
        for (successes, failures, initial, results, expected) in [
            (1, 3, true, "++--+---", "7f"),
            (1, 1, false, "-+", "0f 1t"),
            (2, 2, false, "+-++--", "3t 5f"),
            (1, 3, false, "+++", "0t"),
        ] {
            let mut counter = Counter::new(successes, failures, initial);
            let told: Vec<String> = results
                .chars()
                .enumerate()
                .filter_map(|(i, c)| counter.add(c == '+').map(|ok| format!("{i}{}", if ok { "t" } else { "f" })))
                .collect();
            assert_eq!(told.join(" "), expected, "{results}");
        }
    }

    #[test]
    fn ports_by_number_and_name() {
        let named = ContainerPort { name: Some("web".into()), container_port: 8080, ..ContainerPort::default() };
        let container = Container { ports: Some(vec![named]), ..Container::default() };
        for (value, expected) in [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::String("81".into()), Some(81)),
            (IntOrString::String("web".into()), Some(8080)),
            (IntOrString::String("none".into()), None),
            (IntOrString::Int(70_000), None),
        ] {
            assert_eq!(port(&container, &value).ok(), expected, "{value:?}");
        }
    }

    #[test]
    fn too_late() {
        let get = HTTPGetAction { path: Some("x".into()), port: IntOrString::Int(80), ..HTTPGetAction::default() };
        let get = Action::http(&Container::default(), &get, "10.0.0.1").unwrap();
        for (action, expected) in [
            (Action::Exec(vec!["sleep".into(), "9".into()]), "command timed out: \"sleep 9\" timed out after 1s"),
            (
                Action::Http(get),
                "Get \"http://10.0.0.1:80/x\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            ),
            (Action::Tcp { host: "10.0.0.1".into(), port: 80 }, "dial tcp 10.0.0.1:80: i/o timeout"),
        ] {
            assert_eq!(action.timed_out(Duration::from_secs(1)), expected);
        }
    }

    #[test]
    fn a_delay_has_passed_where_the_container_is_old_enough() {
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        for (started, now, expected) in [(0, 0, 0), (0, 25, 25), (25, 0, 0)] {
            assert_eq!(age(at(started), at(now)), Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_talkative_command_is_cut_short() {
        let answer = ExecSyncResponse { stdout: vec![b'x'; 1 << 20], stderr: b"e\n".to_vec(), exit_code: 1 };
        assert_eq!(output(answer).len(), MAX_OUTPUT);
        let answer = ExecSyncResponse { stdout: b"out ".to_vec(), stderr: b"err\n".to_vec(), exit_code: 1 };
        assert_eq!(output(answer), "out err");
    }

    #[test]
    fn addresses() {
        assert_eq!(authority("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(authority("fd00::1", 80), "[fd00::1]:80");
    }
}
