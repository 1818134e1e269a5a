//! The stages of a start as a client sees them: each is waited for by a watch, from the moment the server is started.

use crate::client::{Call, Target};
use crate::kubeconfig::Kubeconfig;
use crate::lines::Lines;
use crate::netns;
use anyhow::Context;
use bytes::Bytes;
use cluster_tests::Cluster;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use std::ops::Index;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long all stages together may take.
const LIMIT: Duration = Duration::from_secs(90);
/// Between attempts to connect: a port that opens tells nobody.
const RETRY: Duration = Duration::from_millis(2);
const POD: &str = "/api/v1/namespaces/default/pods/first";
const POD_WATCH: &str = "/api/v1/namespaces/default/pods?watch=true&fieldSelector=metadata.name%3Dfirst";

/// Where a cluster is.
#[derive(Debug)]
pub(crate) struct Place {
    pub data_dir: PathBuf,
    namespace: PathBuf,
    node: String,
}

/// What is reached during a start.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    Api,
    Node,
    Account,
    Pod,
}

/// Seconds from the start of the server until each stage.
#[derive(Debug, Default)]
pub(crate) struct Times([f64; 4]);

impl Index<Stage> for Times {
    type Output = f64;

    fn index(&self, stage: Stage) -> &f64 {
        &self.0[stage as usize]
    }
}

impl Place {
    /// The cluster's.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            data_dir: cluster.data_dir().to_owned(),
            namespace: cluster.node().path(),
            node: cluster.name().to_owned(),
        }
    }

    /// Runs a client inside the cluster's network namespace.
    fn run<T: Send>(&self, client: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
        netns::inside(&self.namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { tokio::time::timeout(LIMIT, client).await.context("not done in time")? })
        })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }
}

/// A start with an empty data directory, until the first pod runs.
pub(crate) fn cold(place: &Place, begun: Instant) -> anyhow::Result<Times> {
    let kubeconfig = wait_for_kubeconfig(place)?;
    place.run(async move {
        let target = Target::new(kubeconfig);
        api_ready(&target).await?;
        let api = begun.elapsed().as_secs_f64();
        let (node, (account, pod)) =
            tokio::try_join!(node_ready(&target, &place.node, begun), pod_running(&target, begun))?;
        Ok(Times([api, node, account, pod]))
    })
}

/// A start with the data of an earlier one, until the node has renewed its Lease.
pub(crate) fn warm(place: &Place, begun: Instant) -> anyhow::Result<Times> {
    let from = jiff::Timestamp::now();
    let kubeconfig = Kubeconfig::read(&place.kubeconfig())?;
    place.run(async move {
        let target = Target::new(kubeconfig);
        api_ready(&target).await?;
        let api = begun.elapsed().as_secs_f64();
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?watch=true";
        let mut connection = target.connect().await?;
        let mut leases = Lines::of(connection.stream(path).await?);
        let renewed = |_: &str, lease: &Value| {
            let time = lease["spec"]["renewTime"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            lease["metadata"]["name"] == place.node.as_str() && time.is_some_and(|time| time > from)
        };
        leases.wait_for("the node's Lease", renewed).await?;
        Ok(Times([api, begun.elapsed().as_secs_f64(), 0.0, 0.0]))
    })
}

/// Deletes the pod of [`cold`] and waits until it is gone.
pub(crate) fn delete_pod(place: &Place) -> anyhow::Result<()> {
    let target = Target::new(Kubeconfig::read(&place.kubeconfig())?);
    place.run(async move {
        let (mut watcher, mut connection) = (target.connect().await?, target.connect().await?);
        let mut pods = Lines::of(watcher.stream(POD_WATCH).await?);
        let path = format!("{POD}?gracePeriodSeconds=1");
        connection.call(Call { method: &http::Method::DELETE, ..Call::get(&path) }, Bytes::new()).await?;
        pods.wait_for("the pod's end", |kind, _| kind == "DELETED").await.map(drop)
    })
}

/// Waits, by the directory's events, until the server has written the administrator's kubeconfig.
fn wait_for_kubeconfig(place: &Place) -> anyhow::Result<Kubeconfig> {
    let path = place.kubeconfig();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(&place.data_dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let error = match Kubeconfig::read(&path) {
            Ok(kubeconfig) => return Ok(kubeconfig),
            Err(error) => error,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if !cluster_tests::wait_readable(inotify.as_fd(), left)? {
            return Err(error.context("no kubeconfig in time"));
        }
        drop(inotify.read_events());
    }
}

/// Tries until the server says to the administrator that it is ready.
async fn api_ready(target: &Target) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let attempt = async { target.connect().await?.get("/readyz").await };
        match attempt.await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context("the API server is not ready in time")),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn node_ready(target: &Target, name: &str, begun: Instant) -> anyhow::Result<f64> {
    let mut connection = target.connect().await?;
    let mut nodes = Lines::of(connection.stream("/api/v1/nodes?watch=true").await?);
    let ready = |_: &str, node: &Value| {
        let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        ready && node["metadata"]["name"] == name
    };
    nodes.wait_for("the node", ready).await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// When the default ServiceAccount was there, and when a pod posted right then was Running.
async fn pod_running(target: &Target, begun: Instant) -> anyhow::Result<(f64, f64)> {
    let (mut connection, mut watcher) = tokio::try_join!(target.connect(), target.connect())?;
    let accounts = "/api/v1/namespaces/default/serviceaccounts?watch=true";
    let mut accounts = Lines::of(watcher.stream(accounts).await?);
    accounts.wait_for("the ServiceAccount", |_, account| account["metadata"]["name"] == "default").await?;
    let account = begun.elapsed().as_secs_f64();
    let mut watcher = target.connect().await?;
    let mut pods = Lines::of(watcher.stream(POD_WATCH).await?);
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "keelson.dev/busybox:1", "command": ["sleep", "3600"]}],
        },
    });
    connection.call(Call::post("/api/v1/namespaces/default/pods"), pod.to_string().into()).await?;
    pods.wait_for("the first pod", |_, pod| pod["status"]["phase"] == "Running").await?;
    Ok((account, begun.elapsed().as_secs_f64()))
}
