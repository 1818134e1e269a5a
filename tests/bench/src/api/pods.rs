//! The objects of the load: pods of 2.7 KB that no node runs.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The length of a pod as it is sent.
const LENGTH: usize = 2_700;
/// Stands for a pod's number in the template; as long as one.
const NUMBER: &str = "NNNNN";
/// What comes before the number in the bytes of every pod, once, and nowhere else.
const NAME: &[u8] = br#""name":"bench-pod-"#;
/// The label that updates change.
const BEFORE: &[u8] = br#""example.com/revision":"a""#;
const AFTER: &[u8] = br#""example.com/revision":"b""#;
/// All of them.
pub(crate) const PODS: &str = "/api/v1/namespaces/bench/pods";

/// The pods, and when each was asked for.
#[derive(Debug)]
pub(crate) struct Pods {
    template: Vec<u8>,
    places: Vec<usize>,
    epoch: Instant,
    /// Microseconds since `epoch`.
    asked: Vec<AtomicU64>,
}

impl Pods {
    /// So many pods.
    pub(crate) fn new(count: usize) -> Self {
        let unpadded = template(0).len();
        let template = template(LENGTH.saturating_sub(unpadded)).into_bytes();
        let places = memmem::find_iter(&template, NUMBER).collect();
        let asked = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { template, places, epoch: Instant::now(), asked }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }

    /// What to send to create one. From now on its delivery is awaited.
    pub(crate) fn body(&self, number: usize) -> Bytes {
        let (mut body, digits) = (BytesMut::from(&self.template[..]), format!("{number:05}"));
        for &place in &self.places {
            body[place..place + NUMBER.len()].copy_from_slice(digits.as_bytes());
        }
        self.asked[number].store(self.now(), Ordering::Relaxed);
        body.freeze()
    }

    /// Where one is.
    pub(crate) fn path(number: usize) -> String {
        format!("{PODS}/bench-pod-{number:05}")
    }

    /// A pod as the server gave it, with its label changed to what it was not before.
    pub(crate) fn changed(pod: &[u8]) -> Option<Bytes> {
        let place = memmem::find(pod, BEFORE)?;
        let mut changed = BytesMut::from(pod);
        changed[place..place + AFTER.len()].copy_from_slice(AFTER);
        Some(changed.freeze())
    }

    /// The patch that changes it back.
    pub(crate) fn patch() -> Bytes {
        Bytes::from_static(br#"{"metadata":{"labels":{"example.com/revision":"a"}}}"#)
    }

    /// Which pod some bytes are about, and where they say so.
    pub(crate) fn number(bytes: &[u8]) -> Option<(usize, usize)> {
        let place = memmem::find(bytes, NAME)? + NAME.len();
        let digits = std::str::from_utf8(bytes.get(place..place + NUMBER.len())?).ok()?;
        Some((digits.parse().ok()?, place))
    }

    /// Microseconds since a pod was asked for.
    pub(crate) fn age(&self, number: usize) -> u32 {
        let asked = self.asked[number].load(Ordering::Relaxed);
        u32::try_from(self.now().saturating_sub(asked)).unwrap_or(u32::MAX)
    }

    /// Forgets when each was asked for.
    pub(crate) fn forget(&self) {
        self.asked.iter().for_each(|asked| asked.store(0, Ordering::Relaxed));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A pod as a Deployment of some ordinary service would make it.
fn template(padding: usize) -> String {
    let name = format!("bench-pod-{NUMBER}");
    let probe = |path| json!({"httpGet": {"path": path, "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3});
    let field = |path| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "bench",
            "labels": {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-production", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6d4cf56db6", "example.com/revision": "a", "example.com/number": NUMBER},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "example.com/checksum": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "example.com/note": "x".repeat(padding)},
        },
        "spec": {
            "serviceAccountName": "default", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}],
            "containers": [{
                "name": "web", "image": "registry.example.com/shop/web:1.27.3", "imagePullPolicy": "IfNotPresent",
                "args": ["--listen=:8080", "--log-format=json", "--graceful-timeout=20s"],
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
                "env": [{"name": "POD_NAME", "valueFrom": field("metadata.name")}, {"name": "POD_IP", "valueFrom": field("status.podIP")}, {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "web-database", "key": "url"}}}, {"name": "CACHE_ADDRESS", "value": "cache.shop.svc.cluster.local:6379"}, {"name": "GOMAXPROCS", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
                "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
                "volumeMounts": [{"name": "config", "mountPath": "/etc/web", "readOnly": true}, {"name": "cache", "mountPath": "/var/cache/web"}],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
            "volumes": [{"name": "config", "configMap": {"name": "web-config"}}, {"name": "cache", "emptyDir": {"sizeLimit": "100Mi"}}],
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_its_length_and_its_number() {
        let pods = Pods::new(100);
        let body = pods.body(42);
        assert_eq!(body.len(), LENGTH);
        let (number, place) = Pods::number(&body).unwrap();
        assert_eq!(number, 42);
        assert_eq!(Pods::number(&body[place..]), None);
        let object: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(object["metadata"]["name"], "bench-pod-00042");
    }

    #[test]
    fn a_change_and_its_patch() {
        let changed = Pods::changed(&Pods::new(1).body(0)).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&changed).unwrap();
        assert_eq!(object["metadata"]["labels"]["example.com/revision"], "b");
        assert_eq!(Pods::changed(&changed), None);
        serde_json::from_slice::<serde_json::Value>(&Pods::patch()).unwrap();
    }
}
