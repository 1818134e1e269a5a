//! The maps in the kernel, behind a trait: the one seam that tests of the reconciler replace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use abi::{Affinity4, Affinity6, AffinityKey, Backend4, Backend6, ReverseKey4, ReverseKey6, ServiceKey4, ServiceKey6};
use abi::{proto, scope};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};

use crate::state::{Family, Frontend, Protocol};

/// A call on a map that failed.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {action}")]
pub struct KernelError {
    map: &'static str,
    action: &'static str,
    #[source]
    source: MapError,
}

#[cfg(test)]
impl KernelError {
    /// Some failure.
    pub(crate) fn for_test() -> Self {
        Self { map: "SERVICES4", action: "write", source: MapError::KeyNotFound }
    }
}

/// What the reconciler does with maps.
pub(crate) trait Kernel {
    /// How many slots the family's backend array has.
    fn slots(&self, family: Family) -> u32;
    /// Every frontend.
    fn services(&self) -> Result<Vec<(Frontend, abi::Service)>, KernelError>;
    /// Adds or replaces a frontend, in one step for the programs.
    fn put_service(&mut self, frontend: &Frontend, service: &abi::Service) -> Result<(), KernelError>;
    /// Removes a frontend, if it is there.
    fn delete_service(&mut self, frontend: &Frontend) -> Result<(), KernelError>;
    /// What is in a slot.
    fn backend(&self, family: Family, slot: u32) -> Result<SocketAddr, KernelError>;
    /// Fills a slot that no frontend points at.
    fn put_backend(&mut self, slot: u32, backend: &SocketAddr) -> Result<(), KernelError>;
    /// Forgets which clients stay with these backends of a set (`None`: with any).
    fn forget_affinity(&mut self, family: Family, set: u32, gone: Option<&[SocketAddr]>) -> Result<(), KernelError>;
    /// Forgets which unconnected sockets had sent to these backends for a frontend with one of these ports.
    fn forget_reverse(&mut self, family: Family, gone: &[SocketAddr], ports: &[u16]) -> Result<(), KernelError>;
    /// The addresses that node ports answer on.
    fn node_addresses(&self) -> Result<Vec<(IpAddr, u32)>, KernelError>;
    /// Adds an address, or removes it where `kind` is `None`.
    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Result<(), KernelError>;
}

/// The pinned maps of one node.
pub(crate) struct Maps {
    services4: HashMap<MapData, ServiceKey4, abi::Service>,
    services6: HashMap<MapData, ServiceKey6, abi::Service>,
    backends4: Array<MapData, Backend4>,
    backends6: Array<MapData, Backend6>,
    reverse4: HashMap<MapData, ReverseKey4, Backend4>,
    reverse6: HashMap<MapData, ReverseKey6, Backend6>,
    affinity4: HashMap<MapData, AffinityKey, Affinity4>,
    affinity6: HashMap<MapData, AffinityKey, Affinity6>,
    nodes4: HashMap<MapData, u32, u32>,
    nodes6: HashMap<MapData, [u32; 4], u32>,
    metrics: PerCpuArray<MapData, u64>,
    settings: Array<MapData, u64>,
}

type Opened<T> = Result<T, KernelError>;

impl Maps {
    /// Opens the maps that a loader has pinned in a directory.
    pub(crate) fn open(directory: &Path) -> Opened<Self> {
        Ok(Self {
            services4: hash(directory, "SERVICES4")?,
            services6: hash(directory, "SERVICES6")?,
            backends4: array(directory, "BACKENDS4")?,
            backends6: array(directory, "BACKENDS6")?,
            reverse4: lru(directory, "REVERSE4")?,
            reverse6: lru(directory, "REVERSE6")?,
            affinity4: lru(directory, "AFFINITY4")?,
            affinity6: lru(directory, "AFFINITY6")?,
            nodes4: hash(directory, "NODES4")?,
            nodes6: hash(directory, "NODES6")?,
            metrics: data(directory, "METRICS")
                .and_then(|data| PerCpuArray::try_from(Map::PerCpuArray(data)))
                .map_err(error("METRICS", "open"))?,
            settings: array(directory, "SETTINGS")?,
        })
    }

    /// Tells the programs something of [`abi::setting`].
    pub(crate) fn set(&mut self, setting: u32, value: u64) -> Opened<()> {
        self.settings.set(setting, value, 0).map_err(error("SETTINGS", "write"))
    }

    /// A counter of [`abi::metric`], over all CPUs.
    pub(crate) fn metric(&self, metric: u32) -> Opened<u64> {
        let values = self.metrics.get(&metric, 0).map_err(error("METRICS", "read"))?;
        Ok(values.iter().sum())
    }
}

fn error(map: &'static str, action: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| KernelError { map, action, source }
}

fn data(directory: &Path, name: &'static str) -> Result<MapData, MapError> {
    let path: PathBuf = directory.join(name);
    MapData::from_pin(path)
}

fn hash<K: Pod, V: Pod>(directory: &Path, name: &'static str) -> Opened<HashMap<MapData, K, V>> {
    data(directory, name).and_then(|data| HashMap::try_from(Map::HashMap(data))).map_err(error(name, "open"))
}

fn lru<K: Pod, V: Pod>(directory: &Path, name: &'static str) -> Opened<HashMap<MapData, K, V>> {
    data(directory, name).and_then(|data| HashMap::try_from(Map::LruHashMap(data))).map_err(error(name, "open"))
}

fn array<V: Pod>(directory: &Path, name: &'static str) -> Opened<Array<MapData, V>> {
    data(directory, name).and_then(|data| Array::try_from(Map::Array(data))).map_err(error(name, "open"))
}

/// Removes an entry; one that is not there is no error.
fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, name: &'static str, key: &K) -> Opened<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(error(name, "remove")(source)),
    }
}

/// Removes the entries that `gone` picks. Entries that the programs evict meanwhile are skipped.
fn sweep<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    gone: impl Fn(&K, &V) -> bool,
) -> Opened<()> {
    let picked: Vec<K> =
        map.iter().filter_map(Result::ok).filter(|(key, value)| gone(key, value)).map(|(key, _)| key).collect();
    picked.iter().try_for_each(|key| remove(map, name, key))
}

impl Kernel for Maps {
    fn slots(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.backends4.len(),
            Family::V6 => self.backends6.len(),
        }
    }

    fn services(&self) -> Opened<Vec<(Frontend, abi::Service)>> {
        let mut found = Vec::new();
        for entry in self.services4.iter() {
            let (key, service) = entry.map_err(error("SERVICES4", "read"))?;
            found.extend(frontend4(&key).map(|frontend| (frontend, service)));
        }
        for entry in self.services6.iter() {
            let (key, service) = entry.map_err(error("SERVICES6", "read"))?;
            found.extend(frontend6(&key).map(|frontend| (frontend, service)));
        }
        Ok(found)
    }

    fn put_service(&mut self, frontend: &Frontend, service: &abi::Service) -> Opened<()> {
        match frontend.family {
            Family::V4 => self.services4.insert(key4(frontend), service, 0).map_err(error("SERVICES4", "write")),
            Family::V6 => self.services6.insert(key6(frontend), service, 0).map_err(error("SERVICES6", "write")),
        }
    }

    fn delete_service(&mut self, frontend: &Frontend) -> Opened<()> {
        match frontend.family {
            Family::V4 => remove(&mut self.services4, "SERVICES4", &key4(frontend)),
            Family::V6 => remove(&mut self.services6, "SERVICES6", &key6(frontend)),
        }
    }

    fn backend(&self, family: Family, slot: u32) -> Opened<SocketAddr> {
        match family {
            Family::V4 => self.backends4.get(&slot, 0).map(|at| address4(&at)).map_err(error("BACKENDS4", "read")),
            Family::V6 => self.backends6.get(&slot, 0).map(|at| address6(&at)).map_err(error("BACKENDS6", "read")),
        }
    }

    fn put_backend(&mut self, slot: u32, backend: &SocketAddr) -> Opened<()> {
        match backend {
            SocketAddr::V4(_) => self.backends4.set(slot, backend4(backend), 0).map_err(error("BACKENDS4", "write")),
            SocketAddr::V6(_) => self.backends6.set(slot, backend6(backend), 0).map_err(error("BACKENDS6", "write")),
        }
    }

    fn forget_affinity(&mut self, family: Family, set: u32, gone: Option<&[SocketAddr]>) -> Opened<()> {
        let is_gone = |backend: SocketAddr| gone.is_none_or(|gone| gone.contains(&backend));
        match family {
            Family::V4 => sweep(&mut self.affinity4, "AFFINITY4", |key, value| {
                key.service == set && is_gone(address4(&value.backend))
            }),
            Family::V6 => sweep(&mut self.affinity6, "AFFINITY6", |key, value| {
                key.service == set && is_gone(address6(&value.backend))
            }),
        }
    }

    fn forget_reverse(&mut self, family: Family, gone: &[SocketAddr], ports: &[u16]) -> Opened<()> {
        let is_ours = |port: u16| ports.contains(&u16::from_be(port));
        match family {
            Family::V4 => sweep(&mut self.reverse4, "REVERSE4", |key, front| {
                is_ours(front.port) && gone.contains(&address4(&Backend4 { addr: key.addr, port: key.port, flags: 0 }))
            }),
            Family::V6 => sweep(&mut self.reverse6, "REVERSE6", |key, front| {
                let backend = Backend6 { addr: key.addr, port: key.port, ..Backend6::default() };
                is_ours(front.port) && gone.contains(&address6(&backend))
            }),
        }
    }

    fn node_addresses(&self) -> Opened<Vec<(IpAddr, u32)>> {
        let mut found = Vec::new();
        for entry in self.nodes4.iter() {
            let (address, kind) = entry.map_err(error("NODES4", "read"))?;
            found.push((IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address))), kind));
        }
        for entry in self.nodes6.iter() {
            let (address, kind) = entry.map_err(error("NODES6", "read"))?;
            found.push((IpAddr::V6(ipv6(address)), kind));
        }
        Ok(found)
    }

    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Opened<()> {
        match (address, kind) {
            (IpAddr::V4(at), Some(kind)) => self.nodes4.insert(words4(at), kind, 0).map_err(error("NODES4", "write")),
            (IpAddr::V6(at), Some(kind)) => self.nodes6.insert(words6(at), kind, 0).map_err(error("NODES6", "write")),
            (IpAddr::V4(at), None) => remove(&mut self.nodes4, "NODES4", &words4(at)),
            (IpAddr::V6(at), None) => remove(&mut self.nodes6, "NODES6", &words6(at)),
        }
    }
}

fn words4(address: Ipv4Addr) -> u32 {
    address.to_bits().to_be()
}

fn words6(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
}

fn ipv6(words: [u32; 4]) -> Ipv6Addr {
    Ipv6Addr::from_bits(words.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word))))
}

fn address4(backend: &Backend4) -> SocketAddr {
    (Ipv4Addr::from_bits(u32::from_be(backend.addr)), u16::from_be(backend.port)).into()
}

fn address6(backend: &Backend6) -> SocketAddr {
    (ipv6(backend.addr), u16::from_be(backend.port)).into()
}

fn backend4(address: &SocketAddr) -> Backend4 {
    let IpAddr::V4(ip) = address.ip() else { return Backend4::default() };
    Backend4 { addr: words4(ip), port: address.port().to_be(), flags: 0 }
}

fn backend6(address: &SocketAddr) -> Backend6 {
    let IpAddr::V6(ip) = address.ip() else { return Backend6::default() };
    Backend6 { addr: words6(ip), port: address.port().to_be(), flags: 0, pad: 0 }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        proto::TCP => Some(Protocol::Tcp),
        proto::UDP => Some(Protocol::Udp),
        _ => None,
    }
}

fn key4(frontend: &Frontend) -> ServiceKey4 {
    let (addr, scope) = match frontend.address {
        Some(IpAddr::V4(address)) => (words4(address), scope::ADDRESS),
        _ => (0, scope::NODE_PORT),
    };
    ServiceKey4 { addr, port: frontend.port.to_be(), proto: number(frontend.protocol), scope }
}

fn key6(frontend: &Frontend) -> ServiceKey6 {
    let (addr, scope) = match frontend.address {
        Some(IpAddr::V6(address)) => (words6(address), scope::ADDRESS),
        _ => ([0; 4], scope::NODE_PORT),
    };
    ServiceKey6 { addr, port: frontend.port.to_be(), proto: number(frontend.protocol), scope, pad: 0 }
}

fn frontend4(key: &ServiceKey4) -> Option<Frontend> {
    let address = IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(key.addr)));
    let address = (key.scope == scope::ADDRESS).then_some(address);
    Some(Frontend { family: Family::V4, address, port: u16::from_be(key.port), protocol: protocol(key.proto)? })
}

fn frontend6(key: &ServiceKey6) -> Option<Frontend> {
    let address = (key.scope == scope::ADDRESS).then_some(IpAddr::V6(ipv6(key.addr)));
    Some(Frontend { family: Family::V6, address, port: u16::from_be(key.port), protocol: protocol(key.proto)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_backends_survive_the_maps() {
        for (address, port) in [(Some("10.96.0.1"), 443), (Some("fd00::1:2:3:4"), 53), (None, 30080)] {
            let address: Option<IpAddr> = address.map(|text| text.parse().unwrap());
            let family = address.as_ref().map_or(Family::V4, crate::state::family_of);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let frontend = Frontend { family, address, port, protocol };
                let back = match family {
                    Family::V4 => frontend4(&key4(&frontend)),
                    Family::V6 => frontend6(&key6(&frontend)),
                };
                assert_eq!(back, Some(frontend));
            }
        }
        let at: SocketAddr = "10.244.0.7:8080".parse().unwrap();
        assert_eq!(backend4(&at).addr.to_ne_bytes(), [10, 244, 0, 7]);
        assert_eq!(backend4(&at).port.to_ne_bytes(), [0x1f, 0x90]);
        assert_eq!(address4(&backend4(&at)), at);
        let at: SocketAddr = "[fd00:1:2:3::4]:80".parse().unwrap();
        assert_eq!(address6(&backend6(&at)), at);
    }
}
