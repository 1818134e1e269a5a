//! The row of a pod: its state in a word, from its containers' states.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, at, condition, list, name, number, or, text};
use super::duration::human_duration;
use super::{AGE, Column, NAME, text as column, wide};
use crate::{meta, time};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    column("Status"),
    column("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "restartCount");
        let finished = time::parse(text(status, "lastState.terminated.finishedAt"));
        self.last = self.last.max(finished);
    }
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let mut summary = Summary::new(pod);
    if !summary.init_containers(pod) || condition(pod, "Initialized") == "True" {
        summary.containers(pod);
    }
    let reason = match meta::deletion_timestamp(pod) {
        Some(_) if text(pod, "status.reason") == "NodeLost" => "Unknown".to_owned(),
        Some(_) if !matches!(text(pod, "status.phase"), "Succeeded" | "Failed") => "Terminating".to_owned(),
        _ => summary.reason,
    };
    let restarts = match (summary.restarts.count, summary.restarts.last) {
        (count, Some(last)) if count != 0 => {
            format!("{count} ({} ago)", human_duration(now.as_second() - last.as_second()))
        }
        (count, _) => count.to_string(),
    };
    let gates = list(pod, "spec.readinessGates");
    let open = gates.iter().filter(|gate| condition(pod, text(gate, "conditionType")) == "True").count();
    let ip = list(pod, "status.podIPs").first().map_or(text(pod, "status.podIP"), |ip| text(ip, "ip"));
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        or(ip, "<none>").into(),
        or(text(pod, "spec.nodeName"), "<none>").into(),
        or(text(pod, "status.nominatedNodeName"), "<none>").into(),
        if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()).into() },
    ]
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

impl Summary {
    fn new(pod: &Value) -> Self {
        let sidecars = list(pod, "spec.initContainers").iter().filter(|one| is_sidecar(one)).count();
        let gated = list(pod, "status.conditions")
            .iter()
            .any(|one| text(one, "type") == "PodScheduled" && text(one, "reason") == "SchedulingGated");
        let reason = or(text(pod, "status.reason"), text(pod, "status.phase"));
        Self {
            reason: if gated { "SchedulingGated" } else { reason }.to_owned(),
            ready: 0,
            total: list(pod, "spec.containers").len() + sidecars,
            restarts: Restarts::default(),
            sidecar_restarts: Restarts::default(),
        }
    }

    /// Whether the pod is still initialising.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let specs = list(pod, "spec.initContainers");
        for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
            self.restarts.add(status);
            let spec = specs.iter().find(|spec| text(spec, "name") == text(status, "name"));
            let sidecar = spec.is_some_and(is_sidecar);
            if sidecar {
                self.sidecar_restarts.add(status);
            }
            let terminated = at(status, "state.terminated");
            if !terminated.is_null() && number(terminated, "exitCode") == 0 {
                continue;
            }
            if sidecar && at(status, "started") == true {
                self.ready += usize::from(at(status, "ready") == true);
                continue;
            }
            let waiting = text(status, "state.waiting.reason");
            self.reason = if !terminated.is_null() {
                format!("Init:{}", termination(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &Value) {
        self.restarts = std::mem::take(&mut self.sidecar_restarts);
        let mut running = false;
        for status in list(pod, "status.containerStatuses").iter().rev() {
            self.restarts.add(status);
            let (waiting, terminated) = (text(status, "state.waiting.reason"), at(status, "state.terminated"));
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if !terminated.is_null() {
                self.reason = termination(terminated);
            } else if at(status, "ready") == true && !at(status, "state.running").is_null() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition(pod, "Ready") == "True";
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn is_sidecar(spec: &Value) -> bool {
    text(spec, "restartPolicy") == "Always"
}

fn termination(terminated: &Value) -> String {
    match (text(terminated, "reason"), number(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
