//! The Node object and its Lease: registered at start, kept true, renewed.

pub(crate) mod facts;

use std::sync::Arc;
use std::time::Duration;

use cri::CriError;
use cri::v1::StatusResponse;
use informer::kinds::Node;
use informer::rest::{self, Path, Rest};
use informer::{Informer, ObjectKey};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use supervise::Backoff;
use tokio::sync::{Notify, watch};

use crate::config::KubeletConfig;
use crate::context::Context;
use facts::Machine;

const LEASE_INTERVAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;
/// How often the machine is measured.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// An unchanged status is sent this often all the same.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// While the runtime is not ready, which mostly means that containerd has not loaded the CNI configuration yet and
/// tells nobody when it has: asked again after this, then less and less often.
const UNREADY: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
/// A runtime that is being restarted is away for a moment, which makes nothing of the node's pods worse.
const UNREADY_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);
/// Who goes on saying otherwise is answered no more often than this.
const REPLY: Duration = Duration::from_secs(1);
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// Keeps one node's object.
pub(crate) struct NodeKeeper {
    pub(crate) config: Arc<KubeletConfig>,
    pub(crate) context: Arc<Context>,
    pub(crate) rest: Rest,
    /// The node as the API server shows it.
    pub(crate) shown: Informer<Node>,
    pub(crate) runtime: cri::Runtime,
    pub(crate) images: Arc<Notify>,
}

impl NodeKeeper {
    /// Registers and keeps the status until shutdown.
    pub(crate) async fn run(&self) {
        let shutdown = self.context.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        while let Err(error) = self.register().await {
            tracing::warn!(error = rest::message(&error), "cannot register the node, trying again");
            tokio::time::sleep(RETRY).await;
        }
        tokio::join!(self.leases(), self.statuses());
    }

    fn path(&self) -> Path {
        node_path(&self.config.node_name)
    }

    /// Creates the Node, or adopts the one there is.
    async fn register(&self) -> rest::Result<()> {
        let mut labels: Map<String, Value> =
            self.config.node_labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        for (key, value) in [
            ("kubernetes.io/hostname", self.config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", facts::arch()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", facts::arch()),
        ] {
            labels.insert(key.to_owned(), json!(value));
        }
        let status = self.status(&[]).await;
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.config.node_name, "labels": labels,
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {"taints": self.config.node_taints},
            "status": status,
        });
        match self.rest.create(&Path::collection("", "v1", "nodes", ""), &node).await {
            // Labels may have changed since; taints are others' by now.
            Err(error) if rest::is_already_exists(&error) => {
                self.rest.merge(&self.path(), &json!({"metadata": {"labels": labels}})).await.map(drop)
            }
            made => made.map(drop),
        }
    }

    // --- lease ---

    async fn leases(&self) {
        loop {
            let wait = match renew(&self.rest, &self.config.node_name).await {
                Ok(()) => LEASE_INTERVAL,
                Err(error) => {
                    tracing::warn!(error = rest::message(&error), "cannot renew the node's lease");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    // --- status ---

    async fn statuses(&self) {
        let mut conditions: Vec<Value> = Vec::new();
        let mut sent = Value::Null;
        let mut sent_at = std::time::Instant::now();
        let mut ready_at: Option<std::time::Instant> = None;
        let mut changes = self.shown.changed();
        loop {
            if let Some(at) = ready_at {
                let left = UNREADY_PATIENCE.saturating_sub(at.elapsed());
                // What is so after that is told.
                let _ = tokio::time::timeout(left, self.becomes_ready()).await;
            }
            let status = self.status(&conditions).await;
            let ready = status["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            if ready {
                ready_at = Some(std::time::Instant::now());
            }
            conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let mut wait = STATUS_INTERVAL;
            let shown = without_heartbeats(&status);
            if shown != sent || sent_at.elapsed() >= HEARTBEAT {
                let patch = json!({"status": status});
                match self.rest.strategic_merge(&self.path().child("status"), &patch).await {
                    Ok(_) => (sent, sent_at) = (shown, std::time::Instant::now()),
                    Err(error) if rest::is_not_found(&error) => {
                        // Someone deleted the Node; a running kubelet is one all the same.
                        if let Err(error) = self.register().await {
                            tracing::warn!(error = rest::message(&error), "cannot register the node again");
                        }
                        wait = RETRY;
                    }
                    Err(error) => {
                        tracing::warn!(error = rest::message(&error), "cannot write the node's status");
                        wait = RETRY;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.images.notified() => {}
                () = self.becomes_ready(), if !ready => {}
                () = self.contradicted(&mut changes, &conditions) => sent = Value::Null,
            }
        }
    }

    /// Ends when the API server shows the node otherwise than was said: given up by the node controller while nothing came
    /// from here, or deleted.
    async fn contradicted(&self, changes: &mut watch::Receiver<u64>, said: &[Value]) {
        let said_at = tokio::time::Instant::now();
        // The informer, and with it the sender, lives as long as `self`.
        while changes.changed().await.is_ok() {
            let node = self.shown.get(&ObjectKey::cluster(&self.config.node_name));
            if !node.is_some_and(|node| agrees(&node, said)) {
                return tokio::time::sleep_until(said_at + REPLY).await;
            }
        }
    }

    async fn becomes_ready(&self) {
        let mut retry = UNREADY;
        while self.not_ready().await.is_some() {
            tokio::time::sleep(retry.step()).await;
        }
    }

    async fn status(&self, known: &[Value]) -> Value {
        let machine = Machine::read(&self.config.data_dir);
        let (capacity, allocatable) = machine.resources(self.config.max_pods);
        let told = self.runtime.status(false).await;
        let features = told.as_ref().map(|told| told.features.unwrap_or_default());
        let mut status = json!({
            "addresses": [
                {"type": "InternalIP", "address": self.config.node_ip.to_string()},
                {"type": "Hostname", "address": self.config.node_name},
            ],
            "capacity": capacity,
            "allocatable": allocatable,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.config.api_port}},
            "nodeInfo": facts::node_info(&self.config.version),
        });
        // Of a runtime that does not answer, to whichever question, what was known stays.
        if let Ok(features) = features {
            status["features"] = json!({"supplementalGroupsPolicy": features.supplemental_groups_policy});
            if let Ok(version) = self.runtime.version().await {
                let version = format!("{}://{}", version.runtime_name, version.runtime_version);
                status["nodeInfo"]["containerRuntimeVersion"] = json!(version);
            }
            if let Ok(images) = self.runtime.list_images().await {
                status["images"] = json!(shown_images(images));
            }
        }
        status["conditions"] = conditions(&machine, problems(told).as_deref(), known);
        status
    }

    /// Why the runtime cannot run pods, if it cannot.
    async fn not_ready(&self) -> Option<String> {
        problems(self.runtime.status(false).await)
    }
}

/// The largest images, as a node's status shows them.
fn shown_images(mut images: Vec<cri::v1::Image>) -> Vec<Value> {
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    images.truncate(MAX_IMAGES);
    let names = |image: &cri::v1::Image| -> Vec<String> {
        image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()
    };
    let shown = images.iter().map(|image| json!({"names": names(image), "sizeBytes": image.size}));
    shown.filter(|image| image["names"].as_array().is_some_and(|names| !names.is_empty())).collect()
}

/// Renews the node's lease, or makes it.
async fn renew(rest: &Rest, name: &str) -> rest::Result<()> {
    let leases = Path::collection("coordination.k8s.io", "v1", "leases", "kube-node-lease");
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let patch = json!({"spec": {"renewTime": now}});
    if rest::absent_is_none(rest.merge(&leases.clone().child(name), &patch).await)?.is_some() {
        return Ok(());
    }
    // Of the Node as it is now: one that was registered again has another uid, and its lease would be collected.
    let node = rest.get(&node_path(name)).await?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    });
    rest.create(&leases, &lease).await.map(drop)
}

fn node_path(name: &str) -> Path {
    Path::object("", "v1", "nodes", "", name)
}

fn problems(told: Result<StatusResponse, CriError>) -> Option<String> {
    let status = match told {
        Ok(told) => told.status.unwrap_or_default(),
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let problems: Vec<String> = status
        .conditions
        .iter()
        .filter(|c| !c.status && matches!(c.r#type.as_str(), "RuntimeReady" | "NetworkReady"))
        .map(|c| {
            let what = if c.r#type == "NetworkReady" { "container runtime network" } else { "container runtime" };
            format!("{what} not ready: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
        })
        .collect();
    (!problems.is_empty()).then(|| format!("[{}]", problems.join(", ")))
}

fn agrees(node: &Node, said: &[Value]) -> bool {
    let shows = |condition: &Value| {
        let shown = &node.status.conditions;
        shown.iter().any(|shown| condition["type"] == *shown.r#type && condition["status"] == *shown.status)
    };
    said.iter().all(shows)
}

/// The status as far as a change of it is worth telling.
fn without_heartbeats(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastHeartbeatTime");
        }
    }
    status
}

fn conditions(machine: &Machine, not_ready: Option<&str>, known: &[Value]) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let pressure = |kind: &str, found: bool, bad: (&str, &str), good: (&str, &str)| {
        let (reason, message) = if found { bad } else { good };
        (kind.to_owned(), found, reason.to_owned(), message.to_owned())
    };
    let verdicts = [
        pressure(
            "MemoryPressure",
            machine.memory_pressure(),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            machine.disk_pressure(),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            machine.pid_pressure(),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match not_ready {
            None => ("Ready".to_owned(), true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
            Some(why) => ("Ready".to_owned(), false, "KubeletNotReady".to_owned(), why.to_owned()),
        },
    ];
    verdicts
        .into_iter()
        .map(|(kind, met, reason, message)| {
            let status = if met { "True" } else { "False" };
            let same = known.iter().find(|c| c["type"] == kind.as_str() && c["status"] == status);
            let since = same.map_or(json!(now), |c| c["lastTransitionTime"].clone());
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_lost_lease_is_made_anew_for_the_node_as_it_is() {
        let made = Arc::new(Mutex::new(Value::Null));
        let answer = |code: u16, body: &Value| {
            let body = Full::new(bytes::Bytes::from(body.to_string()));
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(body).unwrap())
        };
        let kept = Arc::clone(&made);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let kept = Arc::clone(&kept);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                match (head.method.as_str(), head.uri.path()) {
                    ("PATCH", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n") => {
                        let missing =
                            json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "no lease"});
                        answer(404, &missing)
                    }
                    ("GET", "/api/v1/nodes/n") => answer(200, &json!({"metadata": {"uid": "second"}})),
                    ("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases") => {
                        *kept.lock().unwrap() = serde_json::from_slice(&body).unwrap();
                        answer(201, &json!({}))
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        renew(&Rest::new(kube::Client::new(service, "default")), "n").await.unwrap();
        let made = made.lock().unwrap();
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "second");
        assert_eq!(made["spec"]["holderIdentity"], "n");
    }

    #[test]
    fn transition_times_stay_while_the_verdict_does() {
        let machine = Machine { memory: 1 << 30, memory_available: 1 << 30, ..Machine::default() };
        let mut known = conditions(&machine, None, &[]).as_array().unwrap().clone();
        for condition in &mut known {
            condition["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        }
        let again = conditions(&machine, Some("no network"), &known);
        for condition in again.as_array().unwrap() {
            let kept = condition["lastTransitionTime"] == "2020-01-01T00:00:00Z";
            assert_eq!(kept, condition["type"] != "Ready", "{condition}");
        }
        let (a, b) =
            (json!({"conditions": [{"lastHeartbeatTime": "1"}]}), json!({"conditions": [{"lastHeartbeatTime": "2"}]}));
        assert_eq!(without_heartbeats(&a), without_heartbeats(&b));
    }
}
