//! Checks of what stands around the kernel: the runtime, free ports, name resolution, firewall, SELinux, disk.

use super::Finding;
use super::host::{self, Host};
use super::kernel::HYBRID_CGROUPS;
use super::listener::{self, Listener};
use crate::cli::CheckArgs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Port of the kubelet's API.
const KUBELET_PORT: u16 = 10250;
/// Least free space for the data directory, in bytes: images, logs and the store.
const LEAST_SPACE: u64 = 2 << 30;

pub(crate) fn findings(host: &Host, args: &CheckArgs) -> Vec<Finding> {
    vec![
        root(),
        containerd(host),
        runc(host),
        nft(host),
        port("port-apiserver", args.port, "--port"),
        port("port-kubelet", KUBELET_PORT, "ending the other kubelet"),
        resolv_conf(host),
        hosts(host),
        firewalld(host),
        ufw(host),
        selinux(host),
        data_dir(&args.data_dir),
    ]
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::ok("root", "yes")
    } else {
        Finding::failed("root", "this process is not root", "run keelson as root")
    }
}

fn containerd(host: &Host) -> Finding {
    let remedy = "install containerd 1.6 or later (apt-get install containerd, dnf install containerd)";
    let Some(program) = host.program("containerd") else {
        return Finding::failed("containerd", "not on the path", remedy);
    };
    let line = match host::version(&program) {
        Ok(line) => line,
        Err(why) => return broken("containerd", &program, &why, remedy),
    };
    // "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1"
    let version = line.split_whitespace().nth(2).unwrap_or("").trim_start_matches('v').to_owned();
    let mut parts = version.split(['.', '~', '-']).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (1, 6) => Finding::ok("containerd", version),
        _ => Finding::failed("containerd", format!("'{line}' is not 1.6 or later"), remedy),
    }
}

fn runs(check: &'static str, program: &Path, remedy: &str) -> Finding {
    match host::version(program) {
        Ok(version) => Finding::ok(check, version),
        Err(why) => broken(check, program, &why, remedy),
    }
}

fn broken(check: &'static str, program: &Path, why: &str, remedy: &str) -> Finding {
    Finding::failed(check, format!("{} does not run: {why}", program.display()), remedy)
}

/// The server takes the same: runc, else crun.
fn runc(host: &Host) -> Finding {
    let remedy = "install runc (apt-get install runc, dnf install runc)";
    let crun = || host.program("crun");
    let Some(program) = host.program("runc").or_else(crun) else {
        return Finding::failed("runc", "not on the path", remedy);
    };
    if program.ends_with("crun") && host.has(HYBRID_CGROUPS) {
        return Finding::failed("runc", "only crun is here, which does not work with hybrid cgroups", remedy);
    }
    runs("runc", &program, remedy)
}

fn nft(host: &Host) -> Finding {
    let remedy = "install nftables (apt-get install nftables, dnf install nftables)";
    match host.program("nft") {
        Some(program) => runs("nft", &program, remedy),
        None => Finding::failed("nft", "not on the path: pods could not reach the outside", remedy),
    }
}

fn port(check: &'static str, port: u16, remedy: &str) -> Finding {
    let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) else {
        return Finding::ok(check, format!("{port} is free"));
    };
    match listener::on(port) {
        Some(Listener { pid, name }) if name == "keelson" => {
            Finding::ok(check, format!("keelson listens on {port} (process {pid})"))
        }
        Some(Listener { pid, name }) => {
            Finding::warning(check, format!("{name} (process {pid}) listens on {port}"), format!("free it by {remedy}"))
        }
        None => {
            Finding::warning(check, format!("{port} cannot be listened on: {error}"), format!("free it by {remedy}"))
        }
    }
}

fn resolv_conf(host: &Host) -> Finding {
    let text = host.read("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).collect();
    let local = |server: &&str| server.starts_with("127.") || *server == "::1";
    if servers.is_empty() {
        return Finding::warning(
            "resolv.conf",
            "/etc/resolv.conf names no server: pods will resolve cluster names only",
            "name a server there, or give another file with --resolv-conf",
        );
    }
    if servers.iter().all(local) {
        let upstream = "/run/systemd/resolve/resolv.conf";
        if host.has(upstream) {
            return Finding::ok("resolv.conf", format!("a local stub; {upstream} is used instead"));
        }
        return Finding::warning(
            "resolv.conf",
            format!("{} is on this machine's loopback, which pods cannot reach", servers.join(", ")),
            "give a file with the real servers with --resolv-conf",
        );
    }
    Finding::ok("resolv.conf", servers.join(", "))
}

/// containerd copies it for every sandbox.
fn hosts(host: &Host) -> Finding {
    if host.has("/etc/hosts") {
        return Finding::ok("hosts", "/etc/hosts is there");
    }
    Finding::warning(
        "hosts",
        "/etc/hosts is missing: containerd makes no pod without it",
        "echo '127.0.0.1 localhost' > /etc/hosts",
    )
}

fn firewalld(host: &Host) -> Finding {
    if !host.has("/run/firewalld") && !host.has("/var/run/firewalld.pid") {
        return Finding::ok("firewalld", "not running");
    }
    let links = format!("{}+", network::LINK_PREFIX);
    if host.read("/etc/firewalld/zones/trusted.xml").is_some_and(|zone| zone.contains(&links)) {
        return Finding::ok("firewalld", "running, and trusts the links of pods");
    }
    Finding::warning(
        "firewalld",
        "running: its zones drop the traffic of pods",
        format!("firewall-cmd --permanent --zone=trusted --add-interface={links} && firewall-cmd --reload"),
    )
}

fn ufw(host: &Host) -> Finding {
    let enabled = |text: String| text.lines().any(|line| line.trim() == "ENABLED=yes");
    if !host.read("/etc/ufw/ufw.conf").is_some_and(enabled) {
        return Finding::ok("ufw", "not active");
    }
    let links = format!("{}+", network::LINK_PREFIX);
    if host.read("/etc/ufw/user.rules").is_some_and(|rules| rules.contains(&format!("-i {links} "))) {
        return Finding::ok("ufw", "active, and lets in what comes from pods");
    }
    Finding::warning(
        "ufw",
        "active: it drops the traffic of pods",
        format!("ufw allow in on {links} && ufw route allow in on {links}"),
    )
}

fn selinux(host: &Host) -> Finding {
    let enforcing = host.read("/sys/fs/selinux/enforce").is_some_and(|value| value == "1");
    if !enforcing {
        return Finding::ok("selinux", "not enforcing");
    }
    if host.has("/usr/share/selinux/packages/container.pp.bz2")
        || host.has("/var/lib/selinux/targeted/active/modules/200/container")
    {
        return Finding::ok("selinux", "enforcing, with container-selinux");
    }
    Finding::failed("selinux", "enforcing without container-selinux", "dnf install container-selinux")
}

fn data_dir(dir: &Path) -> Finding {
    // The directory may not be there yet: its nearest ancestor tells the file system.
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let detail = format!("{} MiB free at {}", free >> 20, dir.display());
            if free < LEAST_SPACE {
                return Finding::failed("disk", detail, "free some space, or give another --data-dir");
            }
            Finding::ok("disk", detail)
        }
        Err(error) => Finding::failed("disk", format!("{}: {error}", existing.display()), "give another --data-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    /// Files below a root, and what a check says of them.
    fn level(check: impl Fn(&Host) -> Finding, files: &[(&str, &str)]) -> Level {
        let (_dir, host) = crate::check::host::with(files);
        check(&host).level
    }

    #[test]
    fn firewalls_that_know_nothing_of_pods() {
        let (running, zone) = ("run/firewalld/pid", "etc/firewalld/zones/trusted.xml");
        assert_eq!(level(firewalld, &[]), Level::Ok);
        assert_eq!(level(firewalld, &[(running, ""), (zone, "<zone/>")]), Level::Warning);
        assert_eq!(level(firewalld, &[(running, ""), (zone, "<interface name=\"keel+\"/>")]), Level::Ok);
        let (conf, rules) = ("etc/ufw/ufw.conf", "etc/ufw/user.rules");
        assert_eq!(level(ufw, &[]), Level::Ok);
        assert_eq!(level(ufw, &[(conf, "# ENABLED=yes or no\nENABLED=no\n")]), Level::Ok);
        assert_eq!(level(ufw, &[(conf, "ENABLED=yes\n")]), Level::Warning);
        let allowed = "-A ufw-user-input -i keel+ -j ACCEPT\n";
        assert_eq!(level(ufw, &[(conf, "ENABLED=yes\n"), (rules, allowed)]), Level::Ok);
    }

    #[test]
    fn the_installer_names_the_links_of_pods() {
        let line = format!("\nlinks={}\n", network::LINK_PREFIX);
        assert!(include_str!("../../../../install.sh").contains(&line));
    }

    #[test]
    fn what_runs_containers() {
        let hybrid = (HYBRID_CGROUPS.trim_start_matches('/'), "");
        let (runc_runs, crun_runs) = (("usr/bin/runc", "-> /bin/true"), ("usr/bin/crun", "-> /bin/true"));
        for (files, want) in [
            (&[runc_runs, hybrid][..], Level::Ok),
            (&[runc_runs, crun_runs, hybrid], Level::Ok),
            (&[crun_runs], Level::Ok),
            (&[crun_runs, hybrid], Level::Failed),
            (&[hybrid], Level::Failed),
            (&[("usr/bin/runc", "-> /bin/false")], Level::Failed),
        ] {
            assert_eq!(level(runc, files), want, "{files:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_run() {
        for (check, name) in [(containerd as fn(&Host) -> Finding, "containerd"), (nft, "nft")] {
            let (_dir, host) = crate::check::host::with(&[(&format!("usr/bin/{name}"), "-> /bin/false")]);
            let found = check(&host);
            assert_eq!(found.level, Level::Failed);
            assert!(found.detail.contains("does not run"), "{}", found.detail);
        }
    }

    #[test]
    fn resolv_conf_behind_a_stub() {
        let stub = "nameserver 127.0.0.53\n";
        let cases: [(&[(&str, &str)], Level); 4] = [
            (&[("etc/resolv.conf", "nameserver 192.0.2.1\n")], Level::Ok),
            (&[("etc/resolv.conf", stub), ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n")], Level::Ok),
            (&[("etc/resolv.conf", stub)], Level::Warning),
            (&[], Level::Warning),
        ];
        for (files, want) in cases {
            assert_eq!(level(resolv_conf, files), want, "{files:?}");
        }
    }

    #[test]
    fn a_root_without_hosts() {
        assert_eq!(level(hosts, &[]), Level::Warning);
        assert_eq!(level(hosts, &[("etc/hosts", "127.0.0.1 localhost\n")]), Level::Ok);
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let finding = port("port", taken, "--port");
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.detail.contains(&std::process::id().to_string()), "{}", finding.detail);
    }
}
