//! Control groups of pods: `kubepods/{burstable,besteffort}/pod<uid>` below a root of our own, on v1, hybrid and v2 hosts.

mod convert;
mod layout;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use convert::{CPU_PERIOD, quota, shares};
pub use layout::{Hierarchy, Layout};

use crate::qos::QosClass;
use crate::resources;

/// What can go wrong with control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No hierarchy is mounted.
    #[error("no cgroup filesystem is mounted: mount cgroup2 on /sys/fs/cgroup")]
    NotMounted,
    /// A file operation failed.
    #[error("{call} {path}: {source}")]
    Io {
        /// What was tried.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { call, path, source }
}

/// The limits of one pod's group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodLimits {
    cpu_shares: Option<u64>,
    cpu_quota: Option<i64>,
    memory: Option<i64>,
    pids: Option<i64>,
}

impl PodLimits {
    /// From the pod's effective requests and limits, by class as upstream does.
    pub(crate) fn of(pod: &Pod, pids: Option<i64>) -> PodLimits {
        let class = QosClass::of(pod);
        let cpu_shares = match class {
            QosClass::BestEffort => convert::MIN_SHARES,
            _ => shares(resources::pod_request(pod, "cpu")),
        };
        PodLimits {
            cpu_shares: Some(cpu_shares),
            cpu_quota: resources::pod_limit(pod, "cpu").map(quota),
            memory: resources::pod_limit(pod, "memory"),
            pids,
        }
    }
}

/// The groups of one node.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    /// Path below each mount, without leading slash; empty for the top.
    root: PathBuf,
}

impl Cgroups {
    /// Groups below `root` (as `--cgroup-root` gives it) of this layout.
    pub(crate) fn new(layout: Layout, root: &str) -> Cgroups {
        Cgroups { layout, root: PathBuf::from(root.trim_matches('/')) }
    }

    /// Whether this is cgroup v2 alone.
    pub(crate) fn are_v2(&self) -> bool {
        matches!(self.layout, Layout::V2 { .. })
    }

    /// Makes the trees of the three classes, which together weigh as much as this many thousandths of a cpu.
    pub(crate) fn setup(&self, cpu_milli: i64) -> Result<(), CgroupError> {
        let weights = [(QosClass::Guaranteed, cpu_milli), (QosClass::Burstable, 0), (QosClass::BestEffort, 0)];
        for (class, milli) in weights {
            self.create(&self.class_path(class))?;
            self.set_weight(class, milli)?;
        }
        Ok(())
    }

    /// Gives a class the weight of what its pods ask for together.
    pub(crate) fn set_weight(&self, class: QosClass, cpu_milli: i64) -> Result<(), CgroupError> {
        let limits = PodLimits { cpu_shares: Some(shares(cpu_milli)), ..PodLimits::default() };
        self.apply(&self.class_path(class), &limits)
    }

    fn class_path(&self, class: QosClass) -> PathBuf {
        let kubepods = self.root.join("kubepods");
        match class {
            QosClass::Guaranteed => kubepods,
            QosClass::Burstable => kubepods.join("burstable"),
            QosClass::BestEffort => kubepods.join("besteffort"),
        }
    }

    /// Makes (or corrects) a pod's group.
    pub(crate) fn ensure_pod(&self, class: QosClass, uid: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        let path = self.pod_path(class, uid);
        self.create(&path)?;
        self.apply(&path, limits)
    }

    /// Makes a pod's group, or raises the limits of the one there is: containers are resized below the higher of two
    /// limits, and only then is the group brought down to the lower.
    pub(crate) fn make_room(&self, class: QosClass, uid: &str, limits: &PodLimits) -> Result<(), CgroupError> {
        let path = self.pod_path(class, uid);
        if !self.exists(&path) {
            return self.ensure_pod(class, uid, limits);
        }
        for (file, value) in self.settings(&path, limits) {
            // "max", "max 100000" and -1 are no limit at all; v1 shows no limit on memory as a huge one.
            let present = fs::read_to_string(&file).unwrap_or_default();
            let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
            let raises = number(&present).is_some_and(|present| present >= 0 && Some(present) < number(&value));
            let is_share = ["cpu.shares", "cpu.weight"].iter().any(|name| file.ends_with(name));
            if raises || is_share {
                fs::write(&file, value).map_err(io_error("write", &file))?;
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        match &self.layout {
            Layout::V2 { mount } => mount.join(path).is_dir(),
            Layout::V1 { hierarchies, .. } => {
                hierarchies.iter().filter(|h| h.is_managed()).all(|h| h.mount.join(path).is_dir())
            }
        }
    }

    /// Removes a pod's group from every hierarchy, with what the runtime left in it. `Ok(false)`: something still lives in it.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<bool, CgroupError> {
        let mut gone = true;
        for place in self.pod_places(uid) {
            gone &= remove_tree(&place)?;
        }
        Ok(gone)
    }

    /// Kills what still runs in a pod's group: with its containers removed, the runtime knows nothing of it.
    pub(crate) fn kill_pod(&self, uid: &str) {
        for pid in self.pod_places(uid).flat_map(|place| processes(&place)).collect::<HashSet<i32>>() {
            tracing::warn!(pod = uid, pid, "killing a process that the pod's containers left behind");
            // One that has ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// UIDs of all pods that have a group anywhere.
    pub(crate) fn pods(&self) -> HashSet<String> {
        let classes = self.everywhere(|class| self.class_path(class));
        let entries = classes.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned)).collect()
    }

    fn pod_path(&self, class: QosClass, uid: &str) -> PathBuf {
        self.class_path(class).join(format!("pod{uid}"))
    }

    /// Where a pod's group may be: its class may not be known any more.
    fn pod_places(&self, uid: &str) -> impl Iterator<Item = PathBuf> {
        self.everywhere(|class| self.pod_path(class, uid))
    }

    /// A path of each class, in every hierarchy.
    fn everywhere(&self, path: impl Fn(QosClass) -> PathBuf) -> impl Iterator<Item = PathBuf> {
        let paths = QosClass::ALL.map(path);
        self.layout.mounts().into_iter().flat_map(move |mount| paths.clone().map(|path| mount.join(path)))
    }

    fn create(&self, path: &Path) -> Result<(), CgroupError> {
        match &self.layout {
            Layout::V2 { mount } => create_v2(mount, path),
            Layout::V1 { hierarchies, .. } => {
                for hierarchy in hierarchies.iter().filter(|h| h.is_managed()) {
                    create_v1(hierarchy, path)?;
                }
                Ok(())
            }
        }
    }

    fn apply(&self, path: &Path, limits: &PodLimits) -> Result<(), CgroupError> {
        for (file, value) in self.settings(path, limits) {
            // A limit below what is in use fails with EBUSY on v1; the old limit stays, which is safe.
            fs::write(&file, value).map_err(io_error("write", &file))?;
        }
        Ok(())
    }

    /// Files and values that express the limits on this layout.
    fn settings(&self, path: &Path, limits: &PodLimits) -> Vec<(PathBuf, String)> {
        let mut settings = Vec::new();
        let mut set = |controller: &str, v1: &str, v2: &str, value: Option<(String, String)>| {
            let Some((old, new)) = value else { return };
            match &self.layout {
                Layout::V2 { mount } => settings.push((mount.join(path).join(v2), new)),
                Layout::V1 { hierarchies, .. } => {
                    let Some(hierarchy) = hierarchies.iter().find(|h| h.has(controller)) else { return };
                    settings.push((hierarchy.mount.join(path).join(v1), old));
                }
            }
        };
        let same = |text: String| (text.clone(), text);
        set(
            "cpu",
            "cpu.shares",
            "cpu.weight",
            limits.cpu_shares.map(|s| (s.to_string(), convert::weight(s).to_string())),
        );
        let quota = limits.cpu_quota.map(|q| (q.to_string(), format!("{q} {CPU_PERIOD}")));
        set("cpu", "cpu.cfs_quota_us", "cpu.max", quota);
        set("memory", "memory.limit_in_bytes", "memory.max", limits.memory.map(|m| same(m.to_string())));
        set("pids", "pids.max", "pids.max", limits.pids.map(|p| same(p.to_string())));
        settings
    }
}

fn create_v2(mount: &Path, path: &Path) -> Result<(), CgroupError> {
    let mut current = mount.to_owned();
    for part in path.components() {
        delegate_v2(&current)?;
        current.push(part);
        mkdir(&current)?;
    }
    Ok(())
}

/// Passes the controllers we limit by on to the children of a v2 group.
fn delegate_v2(group: &Path) -> Result<(), CgroupError> {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let file = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let wanted: Vec<String> = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"]
        .into_iter()
        .filter(|c| available.split_whitespace().any(|a| a == *c) && !enabled.split_whitespace().any(|e| e == *c))
        .map(|c| format!("+{c}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    fs::write(&file, wanted.join(" ")).map_err(io_error("write", &file))
}

fn create_v1(hierarchy: &Hierarchy, path: &Path) -> Result<(), CgroupError> {
    let mut current = hierarchy.mount.clone();
    for part in path.components() {
        let parent = current.clone();
        current.push(part);
        mkdir(&current)?;
        if hierarchy.has("cpuset") {
            // A cpuset group accepts no process until it names cpus and memory nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(current.join(file)).unwrap_or_default();
                if own.trim().is_empty() {
                    let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
                    let target = current.join(file);
                    fs::write(&target, inherited.trim()).map_err(io_error("write", &target))?;
                }
            }
        }
    }
    Ok(())
}

fn mkdir(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("mkdir", path)(error)),
        _ => Ok(()),
    }
}

/// The processes in a group and those below it.
fn processes(group: &Path) -> HashSet<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let children = fs::read_dir(group).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    let below = children.flat_map(|child| processes(&child.path()));
    // Zero stands for one in a pid namespace that is not ours.
    below.chain(text.lines().filter_map(|line| line.parse().ok())).filter(|pid| *pid > 0).collect()
}

/// rmdir, children first. `Ok(false)` when a group is still busy.
fn remove_tree(path: &Path) -> Result<bool, CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let mut gone = true;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gone &= remove_tree(&entry.path())?;
        }
    }
    if !gone {
        return Ok(false);
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(io_error("rmdir", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(dir: &Path) -> Layout {
        let hierarchy = |controllers: &[&str]| {
            let mount = dir.join(controllers.join(","));
            fs::create_dir_all(&mount).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(mount.join(file), "0-1\n").unwrap();
            }
            Hierarchy { controllers: controllers.iter().map(|c| (*c).to_owned()).collect(), mount }
        };
        let unified = dir.join("unified");
        fs::create_dir_all(&unified).unwrap();
        Layout::V1 {
            hierarchies: vec![
                hierarchy(&["cpu", "cpuacct"]),
                hierarchy(&["memory"]),
                hierarchy(&["pids"]),
                hierarchy(&["cpuset"]),
                hierarchy(&["devices"]),
            ],
            unified: Some(unified),
        }
    }

    fn limits() -> PodLimits {
        PodLimits { cpu_shares: Some(512), cpu_quota: Some(50_000), memory: Some(1 << 20), pids: Some(100) }
    }

    #[test]
    fn v1_sets_each_controller_in_its_own_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Cgroups::new(v1(dir.path()), "/keelson/n1");
        groups.setup(2000).unwrap();
        groups.set_weight(QosClass::Burstable, 300).unwrap();
        let weight = |group: &str| {
            fs::read_to_string(dir.path().join("cpu,cpuacct/keelson/n1/kubepods").join(group).join("cpu.shares"))
        };
        let classes = ["", "burstable", "besteffort"].map(|group| weight(group).unwrap());
        assert_eq!(classes, ["2048", "307", "2"]);
        groups.ensure_pod(QosClass::Burstable, "u1", &limits()).unwrap();
        let pod = "keelson/n1/kubepods/burstable/podu1";
        for (file, expected) in [
            ("cpu,cpuacct", "cpu.shares=512"),
            ("cpu,cpuacct", "cpu.cfs_quota_us=50000"),
            ("memory", "memory.limit_in_bytes=1048576"),
            ("pids", "pids.max=100"),
            ("cpuset", "cpuset.cpus=0-1"),
        ] {
            let (name, value) = expected.split_once('=').unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(file).join(pod).join(name)).unwrap(), value, "{name}");
        }
        assert!(!dir.path().join("devices").join(pod).exists(), "left to the runtime");
    }

    #[test]
    fn removal_includes_what_the_runtime_left_on_every_side() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Cgroups::new(v1(dir.path()), "");
        for side in ["unified", "devices"] {
            fs::create_dir_all(dir.path().join(side).join("kubepods/besteffort/podu2/container")).unwrap();
        }
        assert_eq!(groups.pods(), HashSet::from(["u2".to_owned()]));
        assert!(groups.remove_pod("u2").unwrap());
        assert!(groups.pods().is_empty());
    }

    #[test]
    fn processes_of_a_group_and_below() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for (group, pids) in [("", "1\n"), ("a", "0\n2\n"), ("a/b", "2\n3\n")] {
            fs::write(dir.path().join(group).join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(processes(dir.path()), HashSet::from([1, 2, 3]));
        assert!(processes(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn room_is_made_and_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let groups = Cgroups::new(Layout::V2 { mount: dir.path().to_owned() }, "/k");
        let read = |file: &str| fs::read_to_string(dir.path().join("k/kubepods/podu4").join(file)).unwrap();
        let with = |quota, memory| PodLimits { cpu_quota: Some(quota), memory: Some(memory), ..limits() };
        for (quota, memory, expected) in
            [(20_000, 1000, "20000 1000"), (30_000, 900, "30000 1000"), (10_000, 2000, "30000 2000")]
        {
            groups.make_room(QosClass::Guaranteed, "u4", &with(quota, memory)).unwrap();
            let quota = read("cpu.max").split(' ').next().unwrap().to_owned();
            assert_eq!(format!("{quota} {}", read("memory.max")), expected);
        }
        groups.ensure_pod(QosClass::Guaranteed, "u4", &with(10_000, 900)).unwrap();
        assert_eq!((read("cpu.max").as_str(), read("memory.max").as_str()), ("10000 100000", "900"));
        fs::write(dir.path().join("k/kubepods/podu4/memory.max"), "max").unwrap();
        groups.make_room(QosClass::Guaranteed, "u4", &with(10_000, 900)).unwrap();
        assert_eq!(read("memory.max"), "max", "a first limit waits until the containers have theirs");
    }

    #[test]
    fn v2_uses_weight_and_max() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let groups = Cgroups::new(Layout::V2 { mount: dir.path().to_owned() }, "/k");
        groups.ensure_pod(QosClass::Guaranteed, "u3", &limits()).unwrap();
        let read = |file: &str| fs::read_to_string(dir.path().join("k/kubepods/podu3").join(file)).unwrap();
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("cpu.weight"), "20");
        assert_eq!(read("memory.max"), "1048576");
        let control = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(control, "+cpu +memory +pids");
    }
}
