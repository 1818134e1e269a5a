//! The watchers: each follows all pods on a connection of its own, and must see every creation exactly once.

use super::pods::{PODS, Pods};
use crate::client::{Connection, Target};
use crate::lines::Lines;
use anyhow::{Context, ensure};
use memchr::memmem;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long the watchers may take to see everything. No measure of speed.
const LIMIT: Duration = Duration::from_secs(120);

/// Watchers that are connected and follow.
#[derive(Debug)]
pub(crate) struct Watchers {
    tasks: JoinSet<anyhow::Result<Vec<u32>>>,
}

impl Watchers {
    /// Connects them.
    ///
    /// # Errors
    /// A watch was refused.
    pub(crate) async fn start(target: &Target, pods: &Arc<Pods>, count: usize) -> anyhow::Result<Self> {
        let version = current_version(target).await?;
        let path = format!("{PODS}?watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let mut connection = target.connect().await?;
            let lines = Lines::of(connection.stream(&path).await?);
            tasks.spawn(follow(connection, lines, pods.clone()));
        }
        Ok(Self { tasks })
    }

    /// Waits until each has seen everything; microseconds from the request of a creation to the arrival of its event.
    ///
    /// # Errors
    /// One saw something twice, something else, or not all in time.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Duration>> {
        let mut all = Vec::new();
        let collected = tokio::time::timeout(LIMIT, async {
            while let Some(one) = self.tasks.join_next().await {
                all.extend(one??.into_iter().map(|micros| Duration::from_micros(micros.into())));
            }
            anyhow::Ok(())
        });
        collected.await.with_context(|| format!("the watchers have not seen everything after {LIMIT:?}"))??;
        all.sort_unstable();
        Ok(all)
    }
}

async fn current_version(target: &Target) -> anyhow::Result<String> {
    let list = target.connect().await?.get(&format!("{PODS}?limit=1")).await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    let version = list["metadata"]["resourceVersion"].as_str().context("the list has no resourceVersion")?;
    Ok(version.to_owned())
}

/// Ends when every pod was seen; the connection closes then.
async fn follow(_connection: Connection, mut lines: Lines, pods: Arc<Pods>) -> anyhow::Result<Vec<u32>> {
    let mut ages = Vec::with_capacity(pods.len());
    let mut seen = vec![false; pods.len()];
    while ages.len() < pods.len() {
        let Some(line) = lines.next().await? else { break };
        if memmem::find(&line[..line.len().min(40)], br#""BOOKMARK""#).is_some() {
            continue;
        }
        let text = || String::from_utf8_lossy(&line).into_owned();
        ensure!(memmem::find(&line[..line.len().min(40)], br#""ADDED""#).is_some(), "not a creation: {}", text());
        let (number, _) = Pods::number(&line).with_context(text)?;
        let known = seen.get_mut(number).context("a pod that nobody created")?;
        ensure!(!std::mem::replace(known, true), "a watcher saw the creation of pod {number} twice");
        ages.push(pods.age(number));
    }
    ensure!(ages.len() == pods.len(), "a watch ended after {} of {} events", ages.len(), pods.len());
    Ok(ages)
}
