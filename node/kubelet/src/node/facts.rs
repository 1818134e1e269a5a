//! What this machine is and has: for the Node's capacity, nodeInfo and conditions.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Memory kept from pods, as upstream's hard eviction threshold.
const MEMORY_RESERVE: u64 = 100 << 20;
/// Disk kept from pods, as upstream's nodefs.available<10%.
const DISK_RESERVE_PERCENT: u64 = 10;

/// Sizes of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes.
    pub(crate) memory_available: u64,
    /// Bytes of the filesystem that holds the data directory.
    pub(crate) disk: u64,
    /// Bytes of it an ordinary user may still take.
    pub(crate) disk_available: u64,
    pub(crate) tasks: u64,
    pub(crate) tasks_max: u64,
}

impl Machine {
    /// Measures it.
    pub(crate) fn read(data_dir: &Path) -> Machine {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (disk, disk_available) = nix::sys::statvfs::statvfs(data_dir).map_or((0, 0), |stat| {
            let unit = stat.fragment_size();
            (stat.blocks() * unit, stat.blocks_available() * unit)
        });
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let tasks = loadavg.split(' ').nth(3).and_then(|f| f.split_once('/')).and_then(|(_, all)| all.parse().ok());
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: meminfo_bytes(&meminfo, "MemTotal"),
            memory_available: meminfo_bytes(&meminfo, "MemAvailable"),
            disk,
            disk_available,
            tasks: tasks.unwrap_or(0),
            tasks_max: read_number("/proc/sys/kernel/pid_max").min(read_number("/proc/sys/kernel/threads-max")),
        }
    }

    /// What pods may use of the memory.
    pub(crate) fn memory_allocatable(&self) -> u64 {
        self.memory.saturating_sub(MEMORY_RESERVE)
    }

    /// No pod may take more than half of the ids that the kernel has for processes and threads.
    pub(crate) fn pod_pids(&self) -> u64 {
        self.tasks_max / 2
    }

    fn disk_allocatable(&self) -> u64 {
        self.disk - self.disk / 100 * DISK_RESERVE_PERCENT
    }

    /// Capacity and allocatable, as the Node's status has them.
    pub(crate) fn resources(&self, max_pods: u32) -> (Value, Value) {
        let common = |memory: u64, disk: u64| {
            let mut map = json!({
                "cpu": self.cpus.to_string(),
                "memory": format!("{}Ki", memory / 1024),
                "ephemeral-storage": format!("{}Ki", disk / 1024),
                "pods": max_pods.to_string(),
            });
            for (name, bytes) in hugepages() {
                map[name] = json!(bytes.to_string());
            }
            map
        };
        (common(self.memory, self.disk), common(self.memory_allocatable(), self.disk_allocatable()))
    }

    pub(crate) fn memory_pressure(&self) -> bool {
        self.memory > 0 && self.memory_available < MEMORY_RESERVE
    }

    pub(crate) fn disk_pressure(&self) -> bool {
        self.disk > 0 && self.disk_available < self.disk / 100 * DISK_RESERVE_PERCENT
    }

    pub(crate) fn pid_pressure(&self) -> bool {
        self.tasks_max > 0 && self.tasks > self.tasks_max / 100 * 95
    }
}

fn read_number(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX)
}

fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Huge pages by size, named as resources are.
fn hugepages() -> Vec<(String, u64)> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut found: Vec<(String, u64)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count: u64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            let size = if kib >= 1 << 20 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
            Some((format!("hugepages-{size}"), count * kib * 1024))
        })
        .collect();
    found.sort();
    found
}

/// Whether the kernel enforces AppArmor's profiles.
pub(crate) fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Go's name of this machine's architecture.
pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// status.nodeInfo.
pub(crate) fn node_info(kubelet: &str) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os = read("/etc/os-release");
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let machine = read("/etc/machine-id");
    let uuid = read("/sys/class/dmi/id/product_uuid");
    json!({
        "architecture": arch(),
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "kubeProxyVersion": "",
        "kubeletVersion": kubelet,
        "machineID": machine,
        "operatingSystem": "linux",
        "osImage": os,
        "systemUUID": if uuid.is_empty() { &machine } else { &uuid },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory > machine.memory_available && machine.disk > 0, "{machine:?}");
        let (capacity, allocatable) = machine.resources(110);
        assert_eq!(capacity["pods"], "110");
        assert!(capacity["memory"].as_str().unwrap().ends_with("Ki"));
        assert_ne!(capacity["ephemeral-storage"], allocatable["ephemeral-storage"]);
    }

    #[test]
    fn pressure() {
        let roomy = Machine {
            memory: 1 << 30,
            memory_available: 1 << 29,
            disk: 1000,
            disk_available: 500,
            tasks: 10,
            tasks_max: 1000,
            cpus: 1,
        };
        assert!(!roomy.memory_pressure() && !roomy.disk_pressure() && !roomy.pid_pressure());
        let tight = Machine { memory_available: 50 << 20, disk_available: 90, tasks: 960, ..roomy };
        assert!(tight.memory_pressure() && tight.disk_pressure() && tight.pid_pressure());
    }
}
