//! What `keelson server` runs with: the flags, checked against each other, with what they leave open filled in.

use crate::cli::{self, ServerArgs};
use crate::config::usable_node_address;
use anyhow::{Context, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Component, Path, PathBuf};

/// The stub resolver's own view of the real servers, where systemd-resolved runs.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The settings of one server, each final.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub args: ServerArgs,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub cluster_dns: IpAddr,
    pub resolv_conf: PathBuf,
}

impl Settings {
    /// Checks the flags together and fills in what they leave open.
    ///
    /// # Errors
    /// Says which flag is wrong, why, and what is allowed.
    pub(crate) fn new(args: ServerArgs) -> anyhow::Result<Self> {
        check_ranges(&args)?;
        let node_name = node_name(&args)?;
        let node_ip = node_ip(&args)?;
        let cluster_dns = cluster_dns(&args)?;
        check_domain(&args.cluster_domain)?;
        check_names(&args.tls_san)?;
        check_paths(&args)?;
        let resolv_conf = match &args.resolv_conf {
            Some(path) => {
                std::fs::File::open(path)
                    .with_context(|| format!("--resolv-conf: {} cannot be read", path.display()))?;
                path.clone()
            }
            None => default_resolv_conf(),
        };
        Ok(Self { args, node_name, node_ip, cluster_dns, resolv_conf })
    }

    /// Whether the component is to run.
    pub(crate) fn enabled(&self, component: cli::Component) -> bool {
        !self.args.disable.contains(&component)
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.args.data_dir
    }
}

fn check_ranges(args: &ServerArgs) -> anyhow::Result<()> {
    let (cluster, service, mask) = (args.cluster_cidr, args.service_cidr, args.node_cidr_mask);
    ensure!(
        !cluster.overlaps(service),
        "--cluster-cidr {cluster} overlaps --service-cidr {service}; choose another range"
    );
    ensure!(
        mask >= cluster.prefix(),
        "--node-cidr-mask {mask} is wider than --cluster-cidr {cluster}; it must be from {} to 30",
        cluster.prefix()
    );
    // The first address is the network's, the second the node's, the last its broadcast's.
    let room = (1u32 << (32 - mask)) - 3;
    ensure!(
        args.no_node || args.max_pods <= room,
        "--max-pods {} does not fit a /{mask} per node, which has {room} addresses for pods; lower it or --node-cidr-mask",
        args.max_pods
    );
    Ok(())
}

fn cluster_dns(args: &ServerArgs) -> anyhow::Result<IpAddr> {
    let range = args.service_cidr;
    let Some(chosen) = args.cluster_dns else {
        let tenth = range.nth(10).context("--service-cidr holds fewer than eleven addresses; give a wider one")?;
        return Ok(IpAddr::V4(tenth));
    };
    match chosen {
        IpAddr::V4(address) if range.contains(address) => {
            // The network's own, the `kubernetes` Service's, and the broadcast address.
            let taken = [Some(range.first()), range.nth(1), Some(range.last())].contains(&Some(address));
            ensure!(
                !taken,
                "--cluster-dns: {address} is taken in --service-cidr {range}; choose another address of it"
            );
        }
        other => bail!("--cluster-dns: {other} is not in --service-cidr {range}"),
    }
    Ok(chosen)
}

/// What a certificate can be for.
fn check_names(names: &[String]) -> anyhow::Result<()> {
    use apimachinery::names::{is_dns1123_subdomain, is_wildcard_dns1123_subdomain};
    for name in names {
        let known = name.parse::<IpAddr>().is_ok()
            || is_dns1123_subdomain(name).is_empty()
            || is_wildcard_dns1123_subdomain(name).is_empty();
        ensure!(known, "--tls-san: '{name}' is neither an address nor a DNS name in lower case");
    }
    Ok(())
}

fn check_paths(args: &ServerArgs) -> anyhow::Result<()> {
    let root = Path::new(&args.cgroup_root);
    let plain = root.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure!(
        root.has_root() && plain,
        "--cgroup-root: '{}' is no control group; give a path such as /keelson",
        args.cgroup_root
    );
    if let Some(endpoint) = &args.container_runtime_endpoint {
        cri::socket_path(endpoint).context("--container-runtime-endpoint")?;
    }
    Ok(())
}

fn check_domain(domain: &str) -> anyhow::Result<()> {
    if let Some(problem) = apimachinery::names::is_dns1123_subdomain(domain).first() {
        bail!("--cluster-domain: '{domain}' cannot be a domain: {problem}");
    }
    Ok(())
}

fn node_name(args: &ServerArgs) -> anyhow::Result<String> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .context("the host's name cannot be read; give --node-name")?
            .to_string_lossy()
            .to_lowercase(),
    };
    if let Some(problem) = apimachinery::names::is_dns1123_subdomain(&name).first() {
        bail!("--node-name: '{name}' cannot be a node's name: {problem}");
    }
    Ok(name)
}

fn node_ip(args: &ServerArgs) -> anyhow::Result<IpAddr> {
    let address = match args.node_ip {
        Some(address) => address,
        None => default_route_address().or_else(first_global_address).context(
            "this machine has no address that other nodes could reach; give --node-ip, or configure an interface",
        )?,
    };
    ensure!(usable_node_address(address), "--node-ip: {address} cannot be a node's address");
    ensure!(
        args.no_node || is_local(address),
        "--node-ip: no interface of this machine has {address}; give one of its own addresses"
    );
    let IpAddr::V4(v4) = address else {
        bail!("--node-ip: {address} is IPv6, which the pod network does not speak yet")
    };
    for (flag, range) in [("--cluster-cidr", args.cluster_cidr), ("--service-cidr", args.service_cidr)] {
        ensure!(!range.contains(v4), "--node-ip: {address} lies in {flag} {range}; choose another range");
    }
    Ok(address)
}

/// Whether this machine has the address: nothing else can be listened on.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The source address of the default route. Connecting a UDP socket asks the routing table and sends nothing.
fn default_route_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737), which no interface has.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| usable_node_address(*address))
}

fn first_global_address() -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        let address = IpAddr::V4(interface.address?.as_sockaddr_in()?.ip());
        usable_node_address(address).then_some(address)
    })
}

fn default_resolv_conf() -> PathBuf {
    let etc = Path::new("/etc/resolv.conf");
    let text = std::fs::read_to_string(etc).unwrap_or_default();
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim).peekable();
    let stub = servers.peek().is_some() && servers.all(|server| server.starts_with("127."));
    if stub && Path::new(RESOLVED_UPSTREAM).exists() { RESOLVED_UPSTREAM.into() } else { etc.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;

    fn settings(flags: &str) -> Result<Settings, String> {
        let words = format!("keelson server --no-node --node-name n1 --node-ip 192.0.2.7 {flags}");
        match cli::parse(words.split_whitespace().map(Into::into)) {
            Ok(Command::Server(args)) => Settings::new(args).map_err(|error| format!("{error:#}")),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn defaults() {
        let settings = settings("").unwrap();
        assert_eq!(settings.cluster_dns.to_string(), "10.96.0.10");
        assert!(settings.enabled(cli::Component::Dns));
    }

    #[test]
    fn flags_that_contradict_each_other() {
        let cases = [
            ("--cluster-cidr 10.96.0.0/12", "--cluster-cidr 10.96.0.0/12 overlaps --service-cidr 10.96.0.0/16"),
            ("--node-cidr-mask 12", "--node-cidr-mask 12 is wider than --cluster-cidr 10.244.0.0/16"),
            ("--cluster-dns 10.97.0.10", "--cluster-dns: 10.97.0.10 is not in --service-cidr 10.96.0.0/16"),
            ("--cluster-dns 10.96.0.1", "--cluster-dns: 10.96.0.1 is taken in --service-cidr 10.96.0.0/16"),
            ("--cluster-dns 10.96.255.255", "--cluster-dns: 10.96.255.255 is taken"),
            ("--service-cidr 10.96.0.0/29", "--service-cidr holds fewer than eleven addresses"),
            ("--tls-san https://a.example", "--tls-san: 'https://a.example' is neither an address nor a DNS name"),
            ("--tls-san *.example,", "--tls-san: '' is neither"),
            ("--cgroup-root k", "--cgroup-root: 'k' is no control group"),
            ("--cgroup-root /a/../..", "--cgroup-root: '/a/../..' is no control group"),
            ("--container-runtime-endpoint tcp://h:1", "--container-runtime-endpoint: "),
            ("--node-name Web_1", "--node-name: 'Web_1' cannot be a node's name"),
            ("--node-ip 127.0.0.1", "--node-ip: 127.0.0.1 cannot be a node's address"),
            ("--cluster-domain a..b", "--cluster-domain: 'a..b' cannot be a domain"),
            ("--resolv-conf /nowhere", "--resolv-conf: /nowhere cannot be read: No such file"),
            ("--node-ip 10.244.3.4", "--node-ip: 10.244.3.4 lies in --cluster-cidr 10.244.0.0/16"),
        ];
        for (flags, expected) in cases {
            let message = settings(flags).unwrap_err();
            assert!(message.starts_with(expected), "{flags}: {message}");
        }
    }

    #[test]
    fn what_a_node_needs() {
        let of_node = |flags: &str| {
            let words = format!("keelson server --node-name n1 {flags}");
            match cli::parse(words.split_whitespace().map(Into::into)) {
                Ok(Command::Server(args)) => Settings::new(args).map(drop).map_err(|error| format!("{error:#}")),
                other => panic!("{words}: {other:?}"),
            }
        };
        for (flags, expected) in [
            ("--max-pods 254", "--max-pods 254 does not fit a /24 per node, which has 253 addresses for pods"),
            ("--node-ip 192.0.2.77", "--node-ip: no interface of this machine has 192.0.2.77"),
        ] {
            let message = of_node(flags).unwrap_err();
            assert!(message.starts_with(expected), "{flags}: {message}");
        }
    }
}
