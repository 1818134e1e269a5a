//! Which pod has which address: a file that outlives the process, replaced whole at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::cni::PortMapping;
use crate::nat::HostPorts;
use crate::{NetworkError, files};

/// An attachment of a container to the pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allocation {
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
    /// The host's end of the link.
    pub(crate) host_interface: String,
    /// `namespace/name`, for people.
    pub(crate) pod: String,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortMapping>,
}

impl Allocation {
    /// The node's ports that lead here. A mapping of a protocol or address that there is not leads nowhere.
    pub(crate) fn host_ports(&self) -> HostPorts {
        let ports = self.ports.iter().filter(|port| port.host_port != 0).filter_map(|port| {
            let protocol = match port.protocol.to_ascii_lowercase().as_str() {
                "tcp" | "" => 6,
                "udp" => 17,
                "sctp" => 132,
                _ => return None,
            };
            let ip = if port.host_ip.is_empty() { Ipv4Addr::UNSPECIFIED } else { port.host_ip.parse().ok()? };
            let (at, to) =
                (SocketAddr::from((ip, port.host_port)), SocketAddr::from((self.address, port.container_port)));
            Some(((protocol, at), to))
        });
        ports.collect()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    /// Where the next search begins: an address is not used again until all others have been.
    last: Option<Ipv4Addr>,
    /// By `CONTAINER/INTERFACE`.
    allocations: BTreeMap<String, Allocation>,
}

/// The allocations of one node.
#[derive(Debug)]
pub(crate) struct Ipam {
    path: PathBuf,
    range: Option<Cidr>,
    content: Content,
}

/// No address can be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpamError {
    /// The control plane has not given this node a range yet.
    #[error("this node has no pod address range yet (Node spec.podCIDR is empty)")]
    NoRange,
    /// All are taken.
    #[error(
        "all addresses for pods in {0} are taken; delete pods of this node, or found a cluster with a larger range for each \
         node (--node-cidr-mask)"
    )]
    Exhausted(Cidr),
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] NetworkError),
}

fn key(container: &str, interface: &str) -> String {
    format!("{container}/{interface}")
}

impl Ipam {
    /// Reads the file, if there is one. One that cannot be read is refused: its addresses may be in use.
    pub(crate) fn open(path: PathBuf) -> Result<Self, NetworkError> {
        let content = match std::fs::read(&path) {
            // Replaced files are renamed, not synced: a power cut may leave blanks, and no pod's link outlives one.
            Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => Content::default(),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| NetworkError::Malformed { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(files::failed("read", &path)(error)),
        };
        Ok(Self { path, range: None, content })
    }

    /// Sets the range that new addresses come from. Pods that have one of an older range keep it.
    pub(crate) fn set_range(&mut self, range: Cidr) {
        self.range = Some(range);
    }

    /// Forgets allocations whose links are gone. Returns links that no allocation names.
    pub(crate) fn reconcile(&mut self, links: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        let before = self.content.allocations.len();
        self.content.allocations.retain(|_, allocation| links.contains(&allocation.host_interface));
        if self.content.allocations.len() != before {
            self.save()?;
        }
        let named: BTreeSet<_> = self.content.allocations.values().map(|found| &found.host_interface).collect();
        Ok(links.iter().filter(|link| !named.contains(link)).cloned().collect())
    }

    /// The host's ends that containers have.
    pub(crate) fn links(&self) -> BTreeSet<String> {
        self.content.allocations.values().map(|found| found.host_interface.clone()).collect()
    }

    /// The same with the pods' addresses.
    pub(crate) fn addresses(&self) -> Vec<(String, Ipv4Addr)> {
        self.content.allocations.values().map(|found| (found.host_interface.clone(), found.address)).collect()
    }

    /// The host ports of all containers.
    pub(crate) fn host_ports(&self) -> HostPorts {
        self.content.allocations.values().flat_map(Allocation::host_ports).collect()
    }

    /// What a container has.
    pub(crate) fn get(&self, container: &str, interface: &str) -> Option<&Allocation> {
        self.content.allocations.get(&key(container, interface))
    }

    /// Gives a container an address: the one it has already, else the next free one.
    pub(crate) fn allocate(
        &mut self,
        container: &str,
        interface: &str,
        host_interface: String,
        pod: String,
        ports: Vec<PortMapping>,
    ) -> Result<Allocation, IpamError> {
        if let Some(found) = self.get(container, interface) {
            return Ok(found.clone());
        }
        let range = self.range.ok_or(IpamError::NoRange)?;
        let addresses = range.pod_addresses().ok_or(IpamError::Exhausted(range))?;
        let taken: BTreeSet<u32> = self.content.allocations.values().map(|found| found.address.to_bits()).collect();
        let last = self.content.last.map_or(0, Ipv4Addr::to_bits);
        let after = (last.saturating_add(1)).max(*addresses.start())..=*addresses.end();
        let address = after.chain(addresses).find(|address| !taken.contains(address));
        let address = Ipv4Addr::from_bits(address.ok_or(IpamError::Exhausted(range))?);
        let allocation = Allocation { address, host_interface, pod, ports };
        self.content.last = Some(address);
        self.content.allocations.insert(key(container, interface), allocation.clone());
        if let Err(error) = self.save() {
            self.content.allocations.remove(&key(container, interface));
            return Err(error.into());
        }
        Ok(allocation)
    }

    /// Takes an address back, if the container has one.
    pub(crate) fn release(&mut self, container: &str, interface: &str) -> Result<(), NetworkError> {
        match self.content.allocations.remove(&key(container, interface)) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    fn save(&self) -> Result<(), NetworkError> {
        let text = serde_json::to_vec_pretty(&self.content)
            .map_err(|source| NetworkError::Malformed { path: self.path.clone(), source })?;
        files::replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &tempfile::TempDir) -> Ipam {
        let mut ipam = Ipam::open(directory.path().join("ipam.json")).unwrap();
        ipam.set_range("10.244.1.0/29".parse().unwrap());
        ipam
    }

    fn port(protocol: &str, host_ip: &str) -> PortMapping {
        PortMapping { host_port: 53, container_port: 5353, protocol: protocol.into(), host_ip: host_ip.into() }
    }

    fn take(ipam: &mut Ipam, container: &str) -> Result<String, IpamError> {
        let (link, ports) =
            (format!("keel{container}"), vec![port("UDP", ""), port("tcp", "127.0.0.1"), port("x", "")]);
        let found = ipam.allocate(container, "eth0", link, "default/x".into(), ports)?;
        Ok(found.address.to_string())
    }

    #[test]
    fn gives_each_its_own_and_uses_freed_ones_last() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = open(&directory);
        assert_eq!(take(&mut ipam, "a").unwrap(), "10.244.1.2");
        assert_eq!(take(&mut ipam, "b").unwrap(), "10.244.1.3");
        assert_eq!(take(&mut ipam, "a").unwrap(), "10.244.1.2", "a retry gets the same");
        ipam.release("a", "eth0").unwrap();
        ipam.release("a", "eth0").unwrap();
        assert_eq!(take(&mut ipam, "c").unwrap(), "10.244.1.4");
        drop(ipam);
        let mut ipam = open(&directory);
        assert_eq!(take(&mut ipam, "b").unwrap(), "10.244.1.3", "a restart forgets nothing");
        let ports = ipam.get("b", "eth0").unwrap().host_ports();
        let to = "10.244.1.3:5353".parse().unwrap();
        let expected =
            [(17, "0.0.0.0:53"), (6, "127.0.0.1:53")].map(|(number, at)| ((number, at.parse().unwrap()), to));
        assert_eq!(ports, HostPorts::from(expected));
        assert_eq!(take(&mut ipam, "d").unwrap(), "10.244.1.5");
        assert_eq!(take(&mut ipam, "e").unwrap(), "10.244.1.6");
        assert_eq!(take(&mut ipam, "f").unwrap(), "10.244.1.2");
        assert!(matches!(take(&mut ipam, "g"), Err(IpamError::Exhausted(_))));
    }

    #[test]
    fn follows_the_links_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let mut ipam = open(&directory);
        take(&mut ipam, "a").unwrap();
        take(&mut ipam, "b").unwrap();
        let links = BTreeSet::from(["keelb".to_owned(), "keelx".to_owned()]);
        assert_eq!(ipam.reconcile(&links).unwrap(), ["keelx"]);
        assert!(ipam.get("a", "eth0").is_none());
        assert!(ipam.get("b", "eth0").is_some());
    }

    #[test]
    fn refuses_what_it_cannot_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipam.json");
        let mut ipam = Ipam::open(path.clone()).unwrap();
        assert!(matches!(take(&mut ipam, "a"), Err(IpamError::NoRange)));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Ipam::open(path.clone()), Err(NetworkError::Malformed { .. })));
        for after_a_power_cut in ["", "\0\0\0"] {
            std::fs::write(&path, after_a_power_cut).unwrap();
            assert!(Ipam::open(path.clone()).unwrap().links().is_empty());
        }
    }
}
