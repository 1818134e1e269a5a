//! The Node object and its Lease: registered at start, kept true, renewed.

pub(crate) mod facts;

use std::sync::Arc;
use std::time::Duration;

use cri::CriError;
use cri::v1::StatusResponse;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

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
const UNREADY_FIRST: Duration = Duration::from_millis(5);
const UNREADY_LAST: Duration = Duration::from_secs(1);
/// A runtime that is being restarted is away for a moment, which makes nothing of the node's pods worse.
const UNREADY_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// Keeps one node's object.
pub(crate) struct NodeKeeper {
    pub(crate) config: Arc<KubeletConfig>,
    pub(crate) context: Arc<Context>,
    pub(crate) client: kube::Client,
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
        let uid = loop {
            match self.register().await {
                Ok(uid) => break uid,
                Err(error) => tracing::warn!(error, "cannot register the node, trying again"),
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::join!(self.leases(&uid), self.statuses());
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.config.node_name)
    }

    async fn call(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(body.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// Creates the Node, or adopts the one there is; answers its uid.
    async fn register(&self) -> Result<String, String> {
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
        let uid = |node: &Value| node["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        match self.call("POST", "/api/v1/nodes", "application/json", &node).await {
            Ok(node) => return Ok(uid(&node)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.to_string()),
        }
        // Labels may have changed since; taints are others' by now.
        let patch = json!({"metadata": {"labels": labels}});
        let kind = "application/strategic-merge-patch+json";
        let node = self.call("PATCH", &self.path(), kind, &patch).await.map_err(|error| error.to_string())?;
        Ok(uid(&node))
    }

    // --- lease ---

    async fn leases(&self, uid: &str) {
        loop {
            let wait = match self.renew(uid).await {
                Ok(()) => LEASE_INTERVAL,
                Err(error) => {
                    tracing::warn!(error, "cannot renew the node's lease");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn renew(&self, uid: &str) -> Result<(), String> {
        let collection = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let name = &self.config.node_name;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let patch = json!({"spec": {"renewTime": now}});
        let path = format!("{collection}/{name}");
        match self.call("PATCH", &path, "application/merge-patch+json", &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.to_string()),
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        });
        self.call("POST", collection, "application/json", &lease).await.map(drop).map_err(|error| error.to_string())
    }

    // --- status ---

    async fn statuses(&self) {
        let mut conditions: Vec<Value> = Vec::new();
        let mut sent = Value::Null;
        let mut sent_at = std::time::Instant::now();
        let mut ready_at: Option<std::time::Instant> = None;
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
                let path = format!("{}/status", self.path());
                let kind = "application/strategic-merge-patch+json";
                match self.call("PATCH", &path, kind, &json!({"status": status})).await {
                    Ok(_) => (sent, sent_at) = (shown, std::time::Instant::now()),
                    Err(kube::Error::Api(answer)) if answer.code == 404 => {
                        // Someone deleted the Node; a running kubelet is one all the same.
                        if let Err(error) = self.register().await {
                            tracing::warn!(error, "cannot register the node again");
                        }
                        wait = RETRY;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot write the node's status");
                        wait = RETRY;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.images.notified() => {}
                () = self.becomes_ready(), if !ready => {}
            }
        }
    }

    async fn becomes_ready(&self) {
        let mut wait = UNREADY_FIRST;
        while self.not_ready().await.is_some() {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(UNREADY_LAST);
        }
    }

    async fn status(&self, known: &[Value]) -> Value {
        let machine = Machine::read(&self.config.data_dir);
        let (capacity, allocatable) = machine.resources(self.config.max_pods);
        let runtime = match self.runtime.version().await {
            Ok(version) => format!("{}://{}", version.runtime_name, version.runtime_version),
            Err(_) => "containerd://unknown".to_owned(),
        };
        let told = self.runtime.status(false).await;
        let features = told.as_ref().ok().and_then(|told| told.features).unwrap_or_default();
        let not_ready = problems(told);
        json!({
            "addresses": [
                {"type": "InternalIP", "address": self.config.node_ip.to_string()},
                {"type": "Hostname", "address": self.config.node_name},
            ],
            "capacity": capacity,
            "allocatable": allocatable,
            "conditions": conditions(&machine, not_ready.as_deref(), known),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.config.api_port}},
            "features": {"supplementalGroupsPolicy": features.supplemental_groups_policy},
            "nodeInfo": facts::node_info(&self.config.version, &runtime),
            "images": self.images().await,
        })
    }

    /// Why the runtime cannot run pods, if it cannot.
    async fn not_ready(&self) -> Option<String> {
        problems(self.runtime.status(false).await)
    }

    async fn images(&self) -> Vec<Value> {
        let mut images = self.runtime.list_images().await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        images.truncate(MAX_IMAGES);
        let names = |image: &cri::v1::Image| -> Vec<String> {
            image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()
        };
        let shown = images.iter().map(|image| json!({"names": names(image), "sizeBytes": image.size}));
        shown.filter(|image| image["names"].as_array().is_some_and(|names| !names.is_empty())).collect()
    }
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
    use super::*;

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
