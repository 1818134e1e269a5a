//! Log rotation: a container's log of 10 MiB gives way to a new one; five are kept. Names as upstream; nothing is compressed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::pods::Pods;

const MAX_SIZE: u64 = 10 << 20;
const MAX_FILES: usize = 5;
/// Sizes have no event worth its cost: a watch would wake for every line.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rotates until shutdown.
pub(crate) async fn run(context: &Context, pods: &Pods) {
    let mut timer = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        for handle in pods.handles() {
            let view = Arc::clone(&handle.view.borrow());
            for run in view.records.values().filter_map(|record| record.current.as_ref()).filter(|run| run.alive()) {
                if let Err(error) = one(context, &run.id, Path::new(&run.log_path)).await {
                    tracing::warn!(log = run.log_path, error, "cannot rotate a container's log");
                }
            }
        }
    }
}

async fn one(context: &Context, id: &str, log: &Path) -> Result<(), String> {
    match tokio::fs::metadata(log).await {
        Ok(meta) if meta.len() >= MAX_SIZE => {}
        _ => return Ok(()),
    }
    let path = log.to_owned();
    let rotated = tokio::task::spawn_blocking(move || rotate(&path)).await.map_err(|error| error.to_string())?;
    let rotated = rotated.map_err(|error| error.to_string())?;
    if let Err(error) = context.runtime.reopen_container_log(id).await {
        // The container still writes to the old file: give it its name back.
        let _ = tokio::fs::rename(&rotated, log).await;
        return Err(error.to_string());
    }
    Ok(())
}

/// How many runs of a container the logs in its directory are of; the latest one's may have been rotated.
pub(crate) fn runs(dir: &Path) -> u32 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let run = |name: &str| name.split_once(".log")?.0.parse::<u32>().ok();
    entries.filter_map(|entry| run(entry.file_name().to_str()?)).max().map_or(0, |last| last + 1)
}

/// Removes the oldest and renames the current one.
fn rotate(log: &Path) -> io::Result<PathBuf> {
    let mut old = rotated(log)?;
    // Room for the one to come and the one in use.
    while old.len() > MAX_FILES - 2 {
        fs::remove_file(old.remove(0))?;
    }
    let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let target = PathBuf::from(format!("{}.{stamp}", log.display()));
    fs::rename(log, &target)?;
    Ok(target)
}

/// Removes a log and what was rotated away from it. What is left goes with the pod.
pub(crate) fn remove(log: &Path) {
    for file in rotated(log).unwrap_or_default().iter().map(PathBuf::as_path).chain([log]) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "cannot remove an old log");
            }
            _ => {}
        }
    }
}

/// Rotated files of a log, oldest first.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_five_with_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for n in 1..=6 {
            fs::write(dir.path().join(format!("0.log.2026010{n}-000000")), "x").unwrap();
        }
        fs::write(&log, "now").unwrap();
        fs::write(dir.path().join("1.log"), "another run").unwrap();
        let target = rotate(&log).unwrap();
        let left = rotated(&log).unwrap();
        assert_eq!(left.len(), MAX_FILES - 1);
        assert_eq!(left.last(), Some(&target));
        assert_eq!(fs::read_to_string(target).unwrap(), "now");
        assert!(left[0].display().to_string().ends_with("20260104-000000"));
        remove(&log);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["1.log"], "another run's stays");
    }
}
