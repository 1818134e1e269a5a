//! The maps in the kernel, behind a trait: the one seam that tests of the reconciler replace.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use abi::{Address, Affinity, AffinityKey, Connected, Endpoint, SentKey, ServiceKey, V4, V6, proto, scope, sent_flag};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage};

use crate::lost::Lost;
use crate::state::{Family, Frontend, Protocol, family_of};

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

/// The way of a socket: what it meant, and where it was led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) frontend: SocketAddr,
    pub(crate) backend: SocketAddr,
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
    /// Forgets clients that stay with a set's backend, for each set (by id) and backend given.
    fn forget_clients(&mut self, family: Family, gone: &HashSet<(u32, SocketAddr)>) -> Result<(), KernelError>;
    /// Forgets unconnected sockets that sent to a backend by way of a frontend that leads there no more.
    fn forget_senders(&mut self, family: Family, lost: &Lost) -> Result<(), KernelError>;
    /// The addresses that node ports answer on.
    fn node_addresses(&self) -> Result<Vec<(IpAddr, u32)>, KernelError>;
    /// Adds an address, or removes it where `kind` is `None`.
    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Result<(), KernelError>;
}

type Opened<T> = Result<T, KernelError>;

/// What the maps of one address family are called.
struct Names {
    services: &'static str,
    backends: &'static str,
    reverse: &'static str,
    affinity: &'static str,
    nodes: &'static str,
    connected: &'static str,
}

/// An address family as user space knows it.
trait Words: Address + Pod {
    const FAMILY: Family;
    const MAPS: Names;
    /// The address as the maps hold it; that of no host where it is of the other family.
    fn of(address: IpAddr) -> Self;
    fn ip(self) -> IpAddr;
}

impl Words for V4 {
    const FAMILY: Family = Family::V4;
    const MAPS: Names = Names {
        services: "SERVICES4",
        backends: "BACKENDS4",
        reverse: "REVERSE4",
        affinity: "AFFINITY4",
        nodes: "NODES4",
        connected: "CONNECTED4",
    };

    fn of(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { return Self::default() };
        address.to_bits().to_be()
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from_bits(u32::from_be(self)).into()
    }
}

impl Words for V6 {
    const FAMILY: Family = Family::V6;
    const MAPS: Names = Names {
        services: "SERVICES6",
        backends: "BACKENDS6",
        reverse: "REVERSE6",
        affinity: "AFFINITY6",
        nodes: "NODES6",
        connected: "CONNECTED6",
    };

    fn of(address: IpAddr) -> Self {
        let IpAddr::V6(address) = address else { return Self::default() };
        let bits = address.to_bits();
        [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from_bits(self.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)))).into()
    }
}

/// The maps of one address family.
struct Half<A: Words> {
    services: HashMap<MapData, ServiceKey<A>, abi::Service>,
    backends: Array<MapData, Endpoint<A>>,
    reverse: HashMap<MapData, SentKey<A>, Endpoint<A>>,
    affinity: HashMap<MapData, AffinityKey, Affinity<A>>,
    nodes: HashMap<MapData, A, u32>,
    connected: SkStorage<MapData, Connected<A>>,
}

/// The pinned maps of one node.
pub(crate) struct Maps {
    v4: Half<V4>,
    v6: Half<V6>,
    metrics: PerCpuArray<MapData, u64>,
    settings: Array<MapData, u64>,
}

impl Maps {
    /// Opens the maps that a loader has pinned in a directory.
    pub(crate) fn open(directory: &Path) -> Opened<Self> {
        Ok(Self {
            v4: Half::open(directory)?,
            v6: Half::open(directory)?,
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

    /// What the programs keep with a connected socket: which way it went. `None` for one that they did not translate.
    pub(crate) fn connected(&self, family: Family, socket: &OwnedFd) -> Option<Way> {
        match family {
            Family::V4 => self.v4.connected(socket),
            Family::V6 => self.v6.connected(socket),
        }
    }

    fn of(&self, family: Family) -> &dyn Kernel {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut dyn Kernel {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Kernel for Maps {
    fn slots(&self, family: Family) -> u32 {
        self.of(family).slots(family)
    }
    fn services(&self) -> Opened<Vec<(Frontend, abi::Service)>> {
        Ok([self.v4.services()?, self.v6.services()?].concat())
    }
    fn put_service(&mut self, frontend: &Frontend, service: &abi::Service) -> Opened<()> {
        self.of_mut(frontend.family).put_service(frontend, service)
    }
    fn delete_service(&mut self, frontend: &Frontend) -> Opened<()> {
        self.of_mut(frontend.family).delete_service(frontend)
    }
    fn backend(&self, family: Family, slot: u32) -> Opened<SocketAddr> {
        self.of(family).backend(family, slot)
    }
    fn put_backend(&mut self, slot: u32, backend: &SocketAddr) -> Opened<()> {
        self.of_mut(family_of(&backend.ip())).put_backend(slot, backend)
    }
    fn forget_clients(&mut self, family: Family, gone: &HashSet<(u32, SocketAddr)>) -> Opened<()> {
        self.of_mut(family).forget_clients(family, gone)
    }
    fn forget_senders(&mut self, family: Family, lost: &Lost) -> Opened<()> {
        self.of_mut(family).forget_senders(family, lost)
    }
    fn node_addresses(&self) -> Opened<Vec<(IpAddr, u32)>> {
        Ok([self.v4.node_addresses()?, self.v6.node_addresses()?].concat())
    }
    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Opened<()> {
        self.of_mut(family_of(&address)).set_node_address(address, kind)
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

impl<A: Words> Half<A> {
    fn open(directory: &Path) -> Opened<Self> {
        let names = A::MAPS;
        Ok(Self {
            services: hash(directory, names.services)?,
            backends: array(directory, names.backends)?,
            reverse: lru(directory, names.reverse)?,
            affinity: lru(directory, names.affinity)?,
            nodes: hash(directory, names.nodes)?,
            connected: data(directory, names.connected)
                .and_then(|data| SkStorage::try_from(Map::SkStorage(data)))
                .map_err(error(names.connected, "open"))?,
        })
    }

    fn connected(&self, socket: &OwnedFd) -> Option<Way> {
        let found = self.connected.get(socket, 0).ok()?;
        Some(Way { frontend: address(&found.frontend), backend: address(&found.backend) })
    }
}

/// For its own family alone: [`Maps`] picks the half.
impl<A: Words> Kernel for Half<A> {
    fn slots(&self, _: Family) -> u32 {
        self.backends.len()
    }

    fn services(&self) -> Opened<Vec<(Frontend, abi::Service)>> {
        let mut found = Vec::new();
        for entry in self.services.iter() {
            let (key, service) = entry.map_err(error(A::MAPS.services, "read"))?;
            found.extend(frontend(&key).map(|frontend| (frontend, service)));
        }
        Ok(found)
    }

    fn put_service(&mut self, frontend: &Frontend, service: &abi::Service) -> Opened<()> {
        self.services.insert(key::<A>(frontend), service, 0).map_err(error(A::MAPS.services, "write"))
    }

    fn delete_service(&mut self, frontend: &Frontend) -> Opened<()> {
        remove(&mut self.services, A::MAPS.services, &key(frontend))
    }

    fn backend(&self, _: Family, slot: u32) -> Opened<SocketAddr> {
        self.backends.get(&slot, 0).map(|at| address(&at)).map_err(error(A::MAPS.backends, "read"))
    }

    fn put_backend(&mut self, slot: u32, backend: &SocketAddr) -> Opened<()> {
        self.backends.set(slot, endpoint::<A>(backend), 0).map_err(error(A::MAPS.backends, "write"))
    }

    fn forget_clients(&mut self, _: Family, gone: &HashSet<(u32, SocketAddr)>) -> Opened<()> {
        sweep(&mut self.affinity, A::MAPS.affinity, |key, value| gone.contains(&(key.service, address(&value.backend))))
    }

    fn forget_senders(&mut self, _: Family, lost: &Lost) -> Opened<()> {
        sweep(&mut self.reverse, A::MAPS.reverse, |key, value| {
            let (front, backend) = match key.at.flags {
                sent_flag::FORTH => (&key.at, value),
                _ => (value, &key.at),
            };
            lost.has(address(front), address(backend))
        })
    }

    fn node_addresses(&self) -> Opened<Vec<(IpAddr, u32)>> {
        let entries = self.nodes.iter().map(|entry| entry.map(|(address, kind)| (address.ip(), kind)));
        entries.collect::<Result<_, _>>().map_err(error(A::MAPS.nodes, "read"))
    }

    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Opened<()> {
        match kind {
            Some(kind) => self.nodes.insert(A::of(address), kind, 0).map_err(error(A::MAPS.nodes, "write")),
            None => remove(&mut self.nodes, A::MAPS.nodes, &A::of(address)),
        }
    }
}

fn address<A: Words>(endpoint: &Endpoint<A>) -> SocketAddr {
    (endpoint.addr.ip(), u16::from_be(endpoint.port)).into()
}

fn endpoint<A: Words>(address: &SocketAddr) -> Endpoint<A> {
    Endpoint { addr: A::of(address.ip()), port: address.port().to_be(), flags: 0, pad: A::Pad::default() }
}

fn key<A: Words>(frontend: &Frontend) -> ServiceKey<A> {
    let (addr, scope) = match frontend.address {
        Some(address) => (A::of(address), scope::ADDRESS),
        None => (A::default(), scope::NODE_PORT),
    };
    let proto = match frontend.protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
    };
    ServiceKey { addr, port: frontend.port.to_be(), proto, scope, pad: A::Pad::default() }
}

fn frontend<A: Words>(key: &ServiceKey<A>) -> Option<Frontend> {
    let address = (key.scope == scope::ADDRESS).then(|| key.addr.ip());
    let protocol = match key.proto {
        proto::TCP => Protocol::Tcp,
        proto::UDP => Protocol::Udp,
        _ => return None,
    };
    Some(Frontend { family: A::FAMILY, address, port: u16::from_be(key.port), protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_backends_survive_the_maps() {
        for (address, port) in [(Some("10.96.0.1"), 443), (Some("fd00::1:2:3:4"), 53), (None, 30080)] {
            let address: Option<IpAddr> = address.map(|text| text.parse().unwrap());
            let family = address.as_ref().map_or(Family::V4, family_of);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let wanted = Frontend { family, address, port, protocol };
                let back = match family {
                    Family::V4 => frontend(&key::<V4>(&wanted)),
                    Family::V6 => frontend(&key::<V6>(&wanted)),
                };
                assert_eq!(back, Some(wanted));
            }
        }
        let at: SocketAddr = "10.244.0.7:8080".parse().unwrap();
        let words = endpoint::<V4>(&at);
        assert_eq!(words.addr.to_ne_bytes(), [10, 244, 0, 7]);
        assert_eq!(words.port.to_ne_bytes(), [0x1f, 0x90]);
        assert_eq!(address(&words), at);
        let at: SocketAddr = "[fd00:1:2:3::4]:80".parse().unwrap();
        assert_eq!(address(&endpoint::<V6>(&at)), at);
    }
}
