//! `keelson await`: follows a server's start and ends when its node is Ready. For the installer, which cannot count on kubectl.

use crate::cli::AwaitArgs;
use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to leave a server alone that does not answer yet.
const RETRY: Duration = Duration::from_millis(100);

/// Tells a line a stage on standard error and prints what was asked for; fails when the time is up.
pub(crate) fn run(args: &AwaitArgs) -> anyhow::Result<()> {
    crate::server::install_crypto_provider()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(args.timeout);
    let begun = Instant::now();
    runtime.block_on(async {
        match tokio::time::timeout(limit, stages(args, begun)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("not ready after {} s", args.timeout),
        }
    })
}

async fn stages(args: &AwaitArgs, begun: Instant) -> anyhow::Result<()> {
    let client = connect(&args.kubeconfig).await?;
    say(begun, "the API server answers");
    let mut known = false;
    let node = |node: &Node| {
        if !std::mem::replace(&mut known, true) {
            say(begun, &format!("node {} registered", node.metadata.name.as_deref().unwrap_or_default()));
        }
        ready(node)
    };
    until(&Api::all(client.clone()), "", node).await;
    if let Some(service) = &args.service {
        let (namespace, name) = service.split_once('/').context("--service is NAMESPACE/NAME")?;
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        until(&slices, &format!("kubernetes.io/service-name={name}"), all_ready).await;
        let service = Api::<Service>::namespaced(client, namespace).get(name).await?;
        println!("{}", service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?);
    }
    Ok(())
}

/// Returns once an object is as wanted. The server may restart under us: then it lists and watches again.
async fn until<K>(api: &Api<K>, labels: &str, mut wanted: impl FnMut(&K) -> bool)
where
    K: Clone + DeserializeOwned + Debug,
{
    loop {
        if let Ok(true) = seen(api, labels, &mut wanted).await {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether an object is as wanted, now or before the watch ends.
async fn seen<K>(api: &Api<K>, labels: &str, wanted: &mut impl FnMut(&K) -> bool) -> anyhow::Result<bool>
where
    K: Clone + DeserializeOwned + Debug,
{
    let list = api.list(&ListParams::default().labels(labels)).await?;
    if list.items.iter().any(&mut *wanted) {
        return Ok(true);
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let mut events = api.watch(&WatchParams::default().labels(labels), &version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
            && wanted(&object)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A client, once the kubeconfig is written and the server behind it answers. There is no event for a server that is
/// not there yet, so this tries.
async fn connect(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    loop {
        if let Ok(client) = client(kubeconfig).await
            && client.apiserver_version().await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn client(path: &Path) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path).context("kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

fn all_ready(slice: &EndpointSlice) -> bool {
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().is_none_or(|all| all.ready.unwrap_or(true));
    !endpoints.is_empty() && endpoints.iter().all(ready)
}

fn say(begun: Instant, stage: &str) {
    eprintln!("           {stage} ({:.1} s)", begun.elapsed().as_secs_f64());
}
