//! What of a cluster can be seen on the machine, and what happens to a machine: power failures.

use crate::cluster::Cluster;
use crate::process::{output, pidfd_open, wait_readable};
use anyhow::{Context, bail};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the kernel may take to end a process that was killed.
const LIMIT: Duration = Duration::from_secs(30);
/// Mounts lie on each other; each round takes the uppermost.
const ROUNDS: usize = 8;

impl Cluster {
    /// What pods leave on the machine while they exist: links, mounts, control groups, directories, containers' bundles.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let links = self.node().ip(&["-o", "link"]).unwrap_or_default();
        found.extend(links.lines().filter(|line| !line.contains(" lo:") && !line.contains(" eth0")).map(str::to_owned));
        let data = self.data_dir().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.extend(mounts.lines().filter(|line| line.contains(&data)).map(str::to_owned));
        let is_pod = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
        found.extend(self.groups().iter().filter(|path| is_pod(path)).map(|path| path.display().to_string()));
        for dir in ["kubelet/pods", "logs/pods", "containerd/state/io.containerd.runtime.v2.task/k8s.io"] {
            let entries = std::fs::read_dir(self.data_dir().join(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        found
    }

    /// Processes in the control groups whose path contains the text, as a pod's uid or a container's id is.
    pub fn processes(&self, text: &str) -> BTreeSet<i32> {
        let groups = self.groups();
        let groups = groups.iter().filter(|path| path.to_string_lossy().contains(text));
        let lists = groups.filter_map(|path| std::fs::read_to_string(path.join("cgroup.procs")).ok());
        lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()).collect()
    }

    /// Waits until a directory below the data directory is removed.
    ///
    /// # Errors
    /// It is still there at the limit.
    pub fn wait_removed(&self, below: &str) -> anyhow::Result<()> {
        let (dir, name) = below.rsplit_once('/').context("a path below the data directory")?;
        self.wait_entries(dir, |names| !names.iter().any(|other| other == name))
    }

    /// Waits until the names in a directory below the data directory are as wished.
    ///
    /// # Errors
    /// They are not at the limit.
    pub fn wait_entries(&self, below: &str, wished: impl Fn(&[String]) -> bool) -> anyhow::Result<()> {
        let path = self.data_dir().join(below);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let kinds = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE;
        inotify.add_watch(&path, kinds).with_context(|| path.display().to_string())?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let entries = std::fs::read_dir(&path)?;
            let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
            if wished(&names) {
                return Ok(());
            }
            if !wait_readable(inotify.as_fd(), deadline.saturating_duration_since(Instant::now()))? {
                bail!("{} has {names:?}", path.display());
            }
            let _ = inotify.read_events()?;
        }
    }

    /// What a power failure does: every process of the node is gone at once, and with them all that the kernel kept for
    /// it: mounts, control groups, links, network namespaces, BPF pins. Only the data directory stays.
    ///
    /// # Errors
    /// What does not go.
    pub fn power_off(&mut self) -> anyhow::Result<()> {
        let _ = self.kill_server();
        loop {
            let mut processes = self.processes("/");
            processes.extend(self.own_processes());
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                wait_ended(pid, LIMIT)?;
            }
        }
        let prefix = format!("{}/", self.data_dir().display());
        for _ in 0..ROUNDS {
            let table = std::fs::read_to_string("/proc/mounts")?;
            let mounts =
                table.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&prefix));
            for mount in mounts.collect::<Vec<_>>().into_iter().rev() {
                let _ = output(Command::new("umount").args(["-l", mount]));
            }
        }
        let _ = std::fs::remove_dir_all(Path::new("/sys/fs/bpf/keelson").join(self.name()));
        for group in self.groups().iter().rev() {
            let _ = std::fs::remove_dir(group);
        }
        self.new_network()
    }

    /// containerd, its shims and the DNS server: whoever names the data directory on its command line.
    fn own_processes(&self) -> BTreeSet<i32> {
        let dir = self.data_dir().display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_own = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| {
                let word = String::from_utf8_lossy(word);
                word == dir.as_str() || word.starts_with(&format!("{dir}/"))
            })
        };
        pids.filter(is_own).collect()
    }

    /// The node's control groups in every hierarchy, parents first.
    fn groups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found = Vec::new();
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            descend(hierarchy.join(self.name()), &mut found);
        }
        found
    }
}

fn descend(dir: PathBuf, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(&dir) else { return };
    found.push(dir);
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        descend(entry.path(), found);
    }
}

/// Waits for the end of a process.
///
/// # Errors
/// It did not end in time.
pub fn wait_ended(pid: i32, limit: Duration) -> anyhow::Result<()> {
    let Ok(fd) = pidfd_open(pid.unsigned_abs()) else { return Ok(()) };
    if !wait_readable(fd.as_fd(), limit)? {
        bail!("process {pid} has not ended after {limit:?}");
    }
    Ok(())
}
