//! Checks of the kernel: version, BPF, file systems, control groups, sysctls.

use super::Finding;
use super::host::Host;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

/// Oldest kernel that the datapath is known to load on: netns cookies and BPF links at every hook that is used.
const OLDEST: (u32, u32) = (5, 15);
/// First kernel with tcx, which later stages of the datapath use where it is there.
const FULL: (u32, u32) = (6, 6);

/// There where cgroup v2 is mounted beside v1.
pub(super) const HYBRID_CGROUPS: &str = "/sys/fs/cgroup/unified/cgroup.procs";

pub(crate) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings =
        vec![version(host), btf(host), programs(), bpf_filesystem(host), cgroups(host), overlayfs(host), swap(host)];
    findings.extend([clock(), resources(host), sockets()]);
    findings.extend(SYSCTLS.iter().map(|sysctl| sysctl.finding(host)));
    findings
}

fn version(host: &Host) -> Finding {
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let remedy = format!("boot a kernel of {}.{} or later", FULL.0, FULL.1);
    if found < OLDEST {
        Finding::failed("kernel", format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1), remedy)
    } else if found < FULL {
        Finding::warning("kernel", format!("{release} has no tcx hooks"), remedy)
    } else {
        Finding::ok("kernel", release)
    }
}

fn btf(host: &Host) -> Finding {
    if host.has("/sys/kernel/btf/vmlinux") {
        Finding::ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        Finding::failed("btf", "/sys/kernel/btf/vmlinux is missing", "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")
    }
}

/// Loads the smallest program of each type and the smallest map of each kind that the datapath uses.
fn programs() -> Finding {
    use aya::maps::MapType;
    let programs = [("cgroup_sock_addr", ProgramType::CgroupSockAddr), ("sched_cls", ProgramType::SchedClassifier)];
    let maps = [
        ("hash", MapType::Hash),
        ("array", MapType::Array),
        ("lru_hash", MapType::LruHash),
        ("percpu_array", MapType::PerCpuArray),
        ("lpm_trie", MapType::LpmTrie),
        ("ringbuf", MapType::RingBuf),
    ];
    let mut missing: Vec<String> = Vec::new();
    for (name, kind) in programs {
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => missing.push(format!("program type {name}")),
            Err(error) => missing.push(format!("program type {name} ({error})")),
        }
    }
    for (name, kind) in maps {
        match is_map_supported(kind) {
            Ok(true) => {}
            Ok(false) => missing.push(format!("map type {name}")),
            Err(error) => missing.push(format!("map type {name} ({error})")),
        }
    }
    let refused = proxy::datapath::refused_hooks().into_iter();
    missing.extend(refused.map(|(name, error)| format!("attach type {name} ({error})")));
    if missing.is_empty() {
        return Finding::ok("bpf", "program, attach and map types are there");
    }
    let remedy =
        "run as root with CAP_BPF and CAP_NET_ADMIN, on a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF";
    Finding::failed("bpf", format!("the kernel refuses: {}", missing.join(", ")), remedy)
}

/// Tries to end a UDP socket of our own.
fn sockets() -> Finding {
    match proxy::sockets::can_abort() {
        Ok(()) => Finding::ok("sock_diag", "UDP sockets can be ended"),
        Err(error) => Finding::warning(
            "sock_diag",
            format!("connected UDP sockets stay with backends that are gone: {error}"),
            "boot a kernel with CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY; run as root with CAP_NET_ADMIN",
        ),
    }
}

fn bpf_filesystem(host: &Host) -> Finding {
    if !host.read("/proc/filesystems").is_some_and(|text| text.contains("\tbpf")) {
        return Finding::failed(
            "bpffs",
            "the kernel has no bpf file system",
            "boot a kernel with CONFIG_BPF_SYSCALL=y",
        );
    }
    Finding::ok("bpffs", "maps and links can be pinned")
}

fn cgroups(host: &Host) -> Finding {
    let remedy = "mount cgroup2 (systemd does), with the cpu, memory and pids controllers";
    if host.has("/sys/fs/cgroup/cgroup.controllers") {
        let controllers = host.read("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let missing: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|c| !controllers.contains(c)).collect();
        if missing.is_empty() {
            return Finding::ok("cgroups", "v2");
        }
        return Finding::failed("cgroups", format!("v2 without the controllers {}", missing.join(", ")), remedy);
    }
    let missing: Vec<_> =
        ["cpu", "memory", "pids"].into_iter().filter(|c| !host.has(&format!("/sys/fs/cgroup/{c}/tasks"))).collect();
    if !missing.is_empty() {
        return Finding::failed("cgroups", format!("v1 without the controllers {}", missing.join(", ")), remedy);
    }
    if host.has(HYBRID_CGROUPS) {
        return Finding::ok("cgroups", "hybrid: v1 controllers, v2 at /sys/fs/cgroup/unified");
    }
    Finding::failed("cgroups", "v1 alone: eBPF programs attach to cgroup2, which is not mounted", remedy)
}

fn overlayfs(host: &Host) -> Finding {
    if host.read("/proc/filesystems").is_some_and(|text| text.contains("overlay")) || host.has("/sys/module/overlay") {
        return Finding::ok("overlayfs", "there");
    }
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    if host.read(&format!("/lib/modules/{release}/modules.dep")).is_some_and(|text| text.contains("/overlay.ko")) {
        return Finding::ok("overlayfs", "a module, which the first mount loads");
    }
    Finding::failed("overlayfs", "this kernel has no overlay", "boot a kernel with CONFIG_OVERLAY_FS")
}

fn swap(host: &Host) -> Finding {
    let used = host.read("/proc/swaps").map_or(0, |text| text.lines().count().saturating_sub(1));
    if used == 0 {
        Finding::ok("swap", "off")
    } else {
        Finding::warning("swap", format!("{used} areas on: memory limits of pods do not bound swap"), "swapoff -a")
    }
}

fn clock() -> Finding {
    match clock_synchronised() {
        Some(true) => Finding::ok("clock", "synchronised"),
        _ => Finding::warning(
            "clock",
            "the kernel does not know its clock to be synchronised",
            "run chrony or systemd-timesyncd: certificates and leases depend on the time",
        ),
    }
}

/// adjtimex(2) without changing anything: `None` where the call itself is refused.
#[expect(unsafe_code, reason = "adjtimex has no safe wrapper")]
fn clock_synchronised() -> Option<bool> {
    // SAFETY: all-zero is a valid timex; modes 0 reads and changes nothing.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// CAP_SYS_RESOURCE, bit 24 of the effective set.
fn resources(host: &Host) -> Finding {
    const CAP_SYS_RESOURCE: u64 = 24;
    let effective = host
        .read("/proc/self/status")
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("CapEff:"))
                .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        })
        .unwrap_or(0);
    if effective & (1 << CAP_SYS_RESOURCE) != 0 {
        Finding::ok("CAP_SYS_RESOURCE", "held")
    } else {
        Finding::warning(
            "CAP_SYS_RESOURCE",
            "missing: containers keep our oom_score_adj",
            "give it back to this service if the kernel should prefer killing pods",
        )
    }
}

/// A setting below /proc/sys that must reach a value.
struct Sysctl {
    name: &'static str,
    path: &'static str,
    least: u64,
    /// Set by `keelson server` itself, so that a low value is no reason to stop.
    ours: bool,
}

const SYSCTLS: [Sysctl; 4] = [
    Sysctl { name: "net.ipv4.ip_forward", path: "/proc/sys/net/ipv4/ip_forward", least: 1, ours: true },
    Sysctl {
        name: "fs.inotify.max_user_instances",
        path: "/proc/sys/fs/inotify/max_user_instances",
        least: 512,
        ours: false,
    },
    Sysctl {
        name: "fs.inotify.max_user_watches",
        path: "/proc/sys/fs/inotify/max_user_watches",
        least: 65536,
        ours: false,
    },
    Sysctl { name: "kernel.pid_max", path: "/proc/sys/kernel/pid_max", least: 32768, ours: false },
];

impl Sysctl {
    fn finding(&self, host: &Host) -> Finding {
        let Self { name, path, least, ours } = *self;
        match host.number(path) {
            Some(value) if value >= least => Finding::ok(name, value.to_string()),
            Some(value) if ours => Finding::ok(name, format!("{value}; `keelson server` sets it to {least}")),
            Some(value) => {
                Finding::warning(name, format!("{value} is low for a full node"), format!("sysctl -w {name}={least}"))
            }
            None => Finding::warning(name, format!("{path} cannot be read"), "mount /proc"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;
    use crate::check::host::with as host;

    #[test]
    fn kernel_versions() {
        for (release, level) in [
            ("6.18.44-fc", Level::Ok),
            ("5.15.0-91-generic", Level::Warning),
            ("4.19.0", Level::Failed),
            ("", Level::Failed),
        ] {
            let (_dir, host) = host(&[("/proc/sys/kernel/osrelease", release)]);
            assert_eq!(version(&host).level, level, "{release}");
        }
    }

    #[test]
    fn overlayfs_may_be_a_module() {
        let release = ("/proc/sys/kernel/osrelease", "6.12\n");
        let module = "kernel/fs/overlayfs/overlay.ko.xz:\n";
        let cases: [(&[(&str, &str)], Level); 4] = [
            (&[("/proc/filesystems", "nodev\toverlay\n")], Level::Ok),
            (&[release, ("/lib/modules/6.12/modules.dep", module)], Level::Ok),
            (&[release, ("/lib/modules/6.11/modules.dep", module)], Level::Failed),
            (&[release], Level::Failed),
        ];
        for (files, level) in cases {
            let (_dir, host) = host(files);
            assert_eq!(overlayfs(&host).level, level, "{files:?}");
        }
    }

    #[test]
    fn cgroup_layouts() {
        let v1 =
            [("/sys/fs/cgroup/cpu/tasks", ""), ("/sys/fs/cgroup/memory/tasks", ""), ("/sys/fs/cgroup/pids/tasks", "")];
        let hybrid: Vec<_> = v1.into_iter().chain([(HYBRID_CGROUPS, "")]).collect();
        let cases: [(&[(&str, &str)], Level); 4] = [
            (&[("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids io")], Level::Ok),
            (&[("/sys/fs/cgroup/cgroup.controllers", "cpu")], Level::Failed),
            (&v1, Level::Failed),
            (&hybrid, Level::Ok),
        ];
        for (files, level) in cases {
            let (_dir, host) = host(files);
            assert_eq!(cgroups(&host).level, level, "{files:?}");
        }
    }

    #[test]
    fn a_sysctl_that_keelson_sets_is_no_problem() {
        let (_dir, host) =
            host(&[("/proc/sys/net/ipv4/ip_forward", "0\n"), ("/proc/sys/fs/inotify/max_user_instances", "128\n")]);
        assert_eq!(SYSCTLS[0].finding(&host).level, Level::Ok);
        assert_eq!(SYSCTLS[1].finding(&host).remedy, "sysctl -w fs.inotify.max_user_instances=512");
    }
}
