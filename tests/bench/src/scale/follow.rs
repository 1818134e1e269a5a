//! A watch that is waited on until enough objects are as they should be.

use crate::client::{Connection, Target};
use crate::lines::Lines;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How long a phase may take. No measure of speed.
const LIMIT: Duration = Duration::from_secs(900);

/// Follows a resource.
pub(crate) struct Follower {
    _connection: Connection,
    lines: Lines,
    objects: HashMap<String, Value>,
    seen: usize,
}

impl Follower {
    /// Begins to.
    pub(crate) async fn start(target: &Target, path: &str) -> anyhow::Result<Self> {
        let mut connection = target.connect().await?;
        let lines = Lines::of(connection.stream(path).await?);
        Ok(Self { _connection: connection, lines, objects: HashMap::new(), seen: 0 })
    }

    /// How many events came.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Waits until so many objects are so; their names.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        count: usize,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let mut found: BTreeSet<String> =
            self.objects.iter().filter(|(_, object)| is_so(object)).map(|(name, _)| name.clone()).collect();
        while found.len() < count {
            let name = self.next(what).await?;
            if self.objects.get(&name).is_some_and(&is_so) {
                found.insert(name);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Waits until all objects together have so many.
    pub(crate) async fn sum(&mut self, what: &str, want: usize, of: impl Fn(&Value) -> usize) -> anyhow::Result<()> {
        while self.objects.values().map(&of).sum::<usize>() != want {
            self.next(what).await?;
        }
        Ok(())
    }

    /// Waits until no object has this label `app`.
    pub(crate) async fn until_gone(&mut self, app: &str) -> anyhow::Result<()> {
        let mut left = self.objects.values().filter(|object| object["metadata"]["labels"]["app"] == app).count();
        while left > 0 {
            let before = self.objects.len();
            self.next(app).await?;
            left -= before.saturating_sub(self.objects.len());
        }
        Ok(())
    }

    /// Takes the next event; the name of its object.
    async fn next(&mut self, what: &str) -> anyhow::Result<String> {
        let line = tokio::time::timeout(LIMIT, self.lines.next()).await;
        let line = line.with_context(|| format!("{what}: nothing after {LIMIT:?}"))??;
        let Some(line) = line else { bail!("{what}: the watch ended") };
        let mut event: Value = serde_json::from_slice(&line)?;
        let object = event["object"].take();
        ensure!(event["type"] != "ERROR", "{what}: the watch failed: {object}");
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if event["type"] == "DELETED" {
            self.objects.remove(&name);
        } else if event["type"] != "BOOKMARK" {
            self.objects.insert(name.clone(), object);
        }
        self.seen += 1;
        Ok(name)
    }
}
