//! `keelson await`: follows a server's start and ends when its node is Ready. For the installer, which cannot count on kubectl.

use crate::cli::AwaitArgs;
use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to leave a server alone that does not answer yet.
const RETRY: Duration = Duration::from_millis(100);

/// Prints a line a stage; fails when the time is up.
pub(crate) fn run(args: &AwaitArgs) -> anyhow::Result<()> {
    crate::server::install_crypto_provider()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(args.timeout);
    let begun = Instant::now();
    runtime.block_on(async {
        match tokio::time::timeout(limit, stages(&args.kubeconfig, begun)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("not ready after {} s", args.timeout),
        }
    })
}

async fn stages(kubeconfig: &Path, begun: Instant) -> anyhow::Result<()> {
    let client = connect(kubeconfig).await?;
    say(begun, "the API server answers");
    let nodes: Api<Node> = Api::all(client);
    loop {
        // The server may restart under us: list and watch again.
        if let Ok(true) = node_ready(&nodes, begun).await {
            return Ok(());
        }
        tokio::time::sleep(RETRY).await;
    }
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

async fn node_ready(nodes: &Api<Node>, begun: Instant) -> anyhow::Result<bool> {
    let list = nodes.list(&ListParams::default()).await?;
    if list.items.iter().any(ready) {
        return Ok(true);
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let mut events = nodes.watch(&WatchParams::default(), &version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(node) => {
                say(begun, &format!("node {} registered", node.metadata.name.unwrap_or_default()));
            }
            WatchEvent::Modified(node) if ready(&node) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

fn say(begun: Instant, stage: &str) {
    println!("           {stage} ({:.1} s)", begun.elapsed().as_secs_f64());
}
