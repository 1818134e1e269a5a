//! Reading the live maps back, for `keelson datapath services|backends`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use abi::metric;
use serde::Serialize;

use crate::datapath::{DatapathError, maps_directory};
use crate::kernel::{Kernel as _, Maps};
use crate::state::{Family, Protocol};

/// What the kernel's maps say now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    /// Frontends, ordered by address and port.
    pub services: Vec<ServiceEntry>,
    /// Addresses that node ports answer on, with their kind ([`abi::node_address`]).
    pub node_addresses: Vec<(IpAddr, u32)>,
    /// Counters since the maps were made.
    pub metrics: Metrics,
}

/// A frontend and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntry {
    /// Family of the frontend and its backends.
    pub family: Family,
    /// Address; `None` for a node port.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Seconds of session affinity, or zero.
    pub affinity_seconds: u32,
    /// Backends.
    pub backends: Vec<SocketAddr>,
    /// First slot of the backends.
    pub base: u32,
    /// Name of the backend set in the affinity map.
    pub set: u32,
}

/// The programs' counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Sockets connected to a backend.
    pub connected: u64,
    /// Datagrams of unconnected sockets sent to a backend.
    pub sent: u64,
    /// Refused for want of a backend.
    pub no_backend: u64,
    /// Chosen by session affinity.
    pub affinity: u64,
    /// Frontends that led nowhere; not zero means a bug.
    pub broken: u64,
}

/// Reads the maps below a pin directory. Works while no keelson runs.
pub fn dump(pin_dir: &Path) -> Result<Dump, DatapathError> {
    let maps = Maps::open(&maps_directory(pin_dir))?;
    let mut services = Vec::new();
    for (frontend, service) in maps.services()? {
        let slots = service.base..service.base.saturating_add(u32::from(service.count));
        let backends: Result<Vec<_>, _> = slots.map(|slot| maps.backend(frontend.family, slot)).collect();
        services.push(ServiceEntry {
            family: frontend.family,
            address: frontend.address,
            port: frontend.port,
            protocol: frontend.protocol,
            affinity_seconds: service.affinity,
            backends: backends?,
            base: service.base,
            set: service.id,
        });
    }
    services.sort_by_key(|entry| (entry.family, entry.address, entry.port, entry.protocol));
    let metrics = Metrics {
        connected: maps.metric(metric::CONNECTED)?,
        sent: maps.metric(metric::SENT)?,
        no_backend: maps.metric(metric::NO_BACKEND)?,
        affinity: maps.metric(metric::AFFINITY)?,
        broken: maps.metric(metric::BROKEN)?,
    };
    let mut node_addresses = maps.node_addresses()?;
    node_addresses.sort();
    Ok(Dump { services, node_addresses, metrics })
}
