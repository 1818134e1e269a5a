//! Ending what runs in a node's control groups, and removing the groups, in every hierarchy that is mounted.

use super::processes;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Below the node's root: where the kubelet puts pods, and the runtime's own group.
const OURS: [&str; 3] = ["kubepods", "kubepods.slice", "keelson"];

/// Kills every process of every pod.
pub(crate) fn end_processes(cgroup_root: &str) -> anyhow::Result<()> {
    for group in groups(cgroup_root)? {
        // Deepest first does not matter here, but each group lists only its own processes.
        let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()) {
            processes::end_now(pid)?;
        }
    }
    Ok(())
}

/// Removes the groups, the deepest first.
pub(crate) fn remove(cgroup_root: &str) -> anyhow::Result<()> {
    let mut groups = groups(cgroup_root)?;
    if !cgroup_root.trim_matches('/').is_empty() {
        groups.extend(roots(cgroup_root)?);
    }
    for group in groups {
        match std::fs::remove_dir(&group) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be removed", group.display())),
        }
    }
    Ok(())
}

/// Every group of ours, the deepest first.
fn groups(cgroup_root: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for root in roots(cgroup_root)? {
        OURS.iter().for_each(|name| descend(&root.join(name), &mut found));
    }
    Ok(found)
}

fn descend(group: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        descend(&entry.path(), found);
    }
    found.push(group.to_owned());
}

/// The node's root in every mounted hierarchy.
fn roots(cgroup_root: &str) -> anyhow::Result<Vec<PathBuf>> {
    let layout = kubelet::Layout::detect()?;
    Ok(layout.mounts().into_iter().map(|mount| mount.join(cgroup_root.trim_start_matches('/'))).collect())
}
