//! Manifests in DATA_DIR/manifests: applied as `kubectl apply` would, and pruned when they or their files go.
//!
//! This is the server's, not a controller: its desired state is a directory of the host, and controllers know nothing but
//! the cluster. It writes through the API server as an administrator would.
//!
//! - [`files`]: what the directory says.
//! - [`api`]: objects of any kind; each carries its file's name and what was applied last.
//! - [`inventory`]: which objects each file has given, kept in the cluster, so that nothing is forgotten over a restart.

mod api;
mod files;
mod inventory;

use anyhow::Context;
use api::{Api, ObjectId, Outcome};
use files::Files;
use informer::recorder::{EventType, Recorder};
use inventory::Inventory;
use kubelet::inotify::Watch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use supervise::Backoff;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long after a failure the files are applied again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// What others need comes first: the rest keeps the order of files and documents.
const FIRST: [&str; 2] = ["Namespace", "CustomResourceDefinition"];

/// Keeps the cluster as the directory says.
pub(super) fn start(
    directory: PathBuf,
    client: kube::Client,
    node_name: &str,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // Before the first reading: what changes after that is told.
    let watch = Watch::settled(&directory).with_context(|| format!("{}: cannot be watched", directory.display()))?;
    let recorder = Recorder::new(client.clone(), "manifests", node_name, tasks, shutdown.clone());
    let keeper = Keeper { directory, watch, client, recorder, told: BTreeSet::new() };
    supervise::spawn("manifests", tasks, &shutdown.clone(), (keeper, shutdown), |(keeper, shutdown)| {
        Box::pin(async {
            shutdown.run_until_cancelled(keeper.run()).await;
        })
    });
    Ok(())
}

struct Keeper {
    directory: PathBuf,
    watch: Watch,
    client: kube::Client,
    recorder: Recorder,
    /// Failures that were told of and are not mended.
    told: BTreeSet<String>,
}

/// What did not work in a pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct Failures {
    /// Of files: somebody must mend them.
    files: BTreeSet<String>,
    /// Of objects: another try may help.
    objects: BTreeSet<String>,
}

/// What the files want.
#[derive(Debug, Default)]
struct Plan {
    /// Each object with its file, in the order to apply them.
    objects: Vec<(ObjectId, String, Value)>,
    /// Files of which not every object is known: nothing of theirs is pruned.
    unsure: BTreeSet<String>,
}

impl Keeper {
    async fn run(&mut self) {
        let mut retry = RETRY;
        loop {
            let failures = self.pass().await;
            let done = failures.objects.is_empty();
            self.tell(failures);
            let changed = self.watch.changed();
            let woken = if done { Ok(changed.await) } else { tokio::time::timeout(retry.step(), changed).await };
            match woken {
                Ok(Ok(())) => retry.reset(),
                Err(_) => {}
                Ok(Err(error)) => {
                    tracing::error!(directory = %self.directory.display(), %error, "manifests are not watched any more");
                    return;
                }
            }
        }
    }

    /// Reads the files and makes the cluster so.
    async fn pass(&self) -> Failures {
        let mut failures = Failures::default();
        let directory = self.directory.clone();
        match tokio::task::spawn_blocking(move || files::read(&directory)).await {
            Ok(Ok(files)) => {
                if let Err(why) = self.follow(files, &mut failures).await {
                    failures.objects.insert(why);
                }
            }
            // Without a list of files none is known to be gone.
            Ok(Err(error)) => {
                failures.objects.insert(format!("{}: cannot be read: {error}", self.directory.display()));
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        failures
    }

    async fn follow(&self, files: Files, failures: &mut Failures) -> Result<(), String> {
        let mut api = Api::new(self.client.clone());
        let mut inventory = Inventory::load(&mut api).await?;
        if files.is_empty() && inventory.objects.is_empty() {
            return Ok(());
        }
        let plan = plan(&mut api, files, failures).await;
        inventory.objects.extend(plan.objects.iter().map(|(id, file, _)| (id.clone(), file.clone())));
        // Known before they are made: whatever happens in between, nothing is left behind.
        inventory.save(&mut api).await?;
        for (id, file, object) in &plan.objects {
            match api.apply(id, file, object).await {
                Ok(Outcome::Unchanged) => {}
                Ok(outcome) => tracing::info!(file, object = %id, ?outcome, "applied a manifest"),
                Err(why) => drop(failures.objects.insert(format!("{file}: {id}: {why}"))),
            }
        }
        for (id, file) in stale(&inventory.objects, &plan) {
            match api.prune(&id, &file).await {
                Ok(deleted) => {
                    tracing::info!(file, object = %id, deleted, "pruned what no manifest has any more");
                    inventory.objects.remove(&id);
                }
                Err(why) => drop(failures.objects.insert(format!("{file}: {id} cannot be pruned: {why}"))),
            }
        }
        inventory.save(&mut api).await
    }

    /// Says what has gone wrong, once.
    fn tell(&mut self, failures: Failures) {
        let now: BTreeSet<String> = failures.files.into_iter().chain(failures.objects).collect();
        for failure in now.difference(&self.told) {
            tracing::error!(directory = %self.directory.display(), "manifest {failure}");
            self.recorder.event(&inventory::object_ref(), EventType::Warning, "FailedManifest", failure.as_str());
        }
        for mended in self.told.difference(&now) {
            tracing::info!("no longer: manifest {mended}");
        }
        self.told = now;
    }
}

async fn plan(api: &mut Api, files: Files, failures: &mut Failures) -> Plan {
    let mut plan = Plan::default();
    let mut seen = BTreeMap::<ObjectId, String>::new();
    for (file, objects) in files {
        let objects = match objects {
            Ok(objects) => objects,
            Err(why) => {
                failures.files.insert(format!("{file}: {why}"));
                plan.unsure.insert(file);
                continue;
            }
        };
        for object in objects {
            match api.identify(&object).await {
                Ok(id) => match seen.get(&id) {
                    Some(other) => drop(failures.files.insert(format!("{file}: {id} is in {other} already"))),
                    None => {
                        seen.insert(id.clone(), file.clone());
                        plan.objects.push((id, file.clone(), object));
                    }
                },
                // Its definition may come with this very pass.
                Err(why) => {
                    failures.objects.insert(format!("{file}: {why}"));
                    plan.unsure.insert(file.clone());
                }
            }
        }
    }
    let rank = |kind: &str| FIRST.iter().position(|first| *first == kind).unwrap_or(FIRST.len());
    plan.objects.sort_by_key(|(id, _, _)| rank(&id.kind));
    plan
}

/// What no file wants any more, namespaces last.
fn stale(known: &BTreeMap<ObjectId, String>, plan: &Plan) -> Vec<(ObjectId, String)> {
    let wanted: BTreeSet<&ObjectId> = plan.objects.iter().map(|(id, _, _)| id).collect();
    let gone = known.iter().filter(|(id, file)| !wanted.contains(id) && !plan.unsure.contains(*file));
    let mut gone: Vec<_> = gone.map(|(id, file)| (id.clone(), file.clone())).collect();
    gone.sort_by_key(|(id, _)| FIRST.contains(&id.kind.as_str()));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: &str, name: &str) -> ObjectId {
        ObjectId { api_version: "v1".into(), kind: kind.into(), namespace: String::new(), name: name.into() }
    }

    #[test]
    fn only_what_is_surely_gone_is_stale() {
        let known =
            [(id("Namespace", "n"), "a"), (id("Pod", "kept"), "a"), (id("Pod", "left"), "a"), (id("Pod", "x"), "b")];
        let known = known.map(|(id, file)| (id, file.to_owned())).into();
        let plan = Plan {
            objects: vec![(id("Pod", "kept"), "c".to_owned(), Value::Null)],
            unsure: BTreeSet::from(["b".to_owned()]),
        };
        let found: Vec<String> = stale(&known, &plan).into_iter().map(|(id, _)| id.name).collect();
        assert_eq!(found, ["left", "n"], "b cannot be read; the namespace goes last");
    }
}
