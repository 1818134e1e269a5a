//! The cluster's pools of service addresses and node ports, rebuilt from the services at start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use apimachinery::status::Status;
use serde_json::Value;

use super::pool::Pool;

/// Addresses of larger ranges are handed out from their first 2^16.
const MAX_ADDRESSES: u128 = 1 << 16;

/// Both pools.
pub(crate) struct Allocators {
    range: Range,
    addresses: Mutex<Pool>,
    ports: Mutex<Pool>,
    first_port: u16,
    last_port: u16,
}

/// A range of addresses.
struct Range {
    text: String,
    base: u128,
    size: u128,
    v4: bool,
}

impl Range {
    fn parse(cidr: &str) -> Option<Self> {
        let (address, length) = cidr.split_once('/')?;
        let (address, length): (IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
        let (number, bits, v4) = match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32_u32, true),
            IpAddr::V6(v6) => (u128::from(v6), 128, false),
        };
        let host = bits.checked_sub(length)?;
        let size = 1u128.checked_shl(host)?;
        Some(Self { text: cidr.to_owned(), base: number & !(size - 1), size, v4 })
    }

    /// The position of an address in the range; the network's own and an IPv4 broadcast address are in none.
    fn position(&self, address: IpAddr) -> Option<usize> {
        let number = match address {
            IpAddr::V4(v4) if self.v4 => u128::from(u32::from(v4)),
            IpAddr::V6(v6) if !self.v4 => u128::from(v6),
            _ => return None,
        };
        let offset = number.checked_sub(self.base)?;
        (offset > 0 && offset <= self.usable()).then(|| usize::try_from(offset - 1).ok()).flatten()
    }

    fn usable(&self) -> u128 {
        (self.size.saturating_sub(if self.v4 { 2 } else { 1 })).min(MAX_ADDRESSES)
    }

    fn address(&self, position: usize) -> IpAddr {
        let number = self.base + position as u128 + 1;
        if self.v4 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(number))
        }
    }
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocators {
    /// Empty pools over a CIDR and a range of ports.
    pub(super) fn new(cidr: &str, ports: (u16, u16)) -> Result<Self, Status> {
        let range = Range::parse(cidr).ok_or_else(|| {
            Status::internal(format_args!("the service range {cidr:?} is no CIDR such as 10.96.0.0/16"))
        })?;
        let size = usize::try_from(range.usable()).unwrap_or(0);
        // As upstream: a sixteenth of the range, from 16 to 256 addresses, is left to those who choose.
        let band = |size: usize| if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        let (first_port, last_port) = ports;
        let port_count = usize::from(last_port.saturating_sub(first_port)) + 1;
        let port_band = if port_count < 32 { 0 } else { (port_count / 32).clamp(16, 128) };
        Ok(Self {
            addresses: Mutex::new(Pool::new(size, band(size))),
            range,
            ports: Mutex::new(Pool::new(port_count, port_band)),
            first_port,
            last_port,
        })
    }

    /// The range's first address: the `kubernetes` Service's.
    pub(crate) fn first_address(&self) -> IpAddr {
        self.range.address(0)
    }

    /// `IPv4` or `IPv6`.
    pub(super) fn family(&self) -> &'static str {
        if self.range.v4 { "IPv4" } else { "IPv6" }
    }

    /// Takes what an existing service holds.
    pub(super) fn adopt(&self, service: &Value) {
        for address in addresses(service) {
            if let Some(position) = address.parse().ok().and_then(|address| self.range.position(address)) {
                lock(&self.addresses).take(position);
            }
        }
        for port in node_ports(service) {
            if let Some(position) = self.port_position(port) {
                lock(&self.ports).take(position);
            }
        }
    }

    /// Takes a given address; the error is the message for the field.
    pub(super) fn take_address(&self, text: &str) -> Result<(), String> {
        let address: IpAddr =
            text.parse().map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())?;
        let position = self.range.position(address).ok_or_else(|| {
            format!(
                "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
                self.range.text
            )
        })?;
        if lock(&self.addresses).take(position) {
            Ok(())
        } else {
            Err(format!("failed to allocate IP {text}: provided IP is already allocated"))
        }
    }

    /// Takes any free address.
    pub(super) fn take_any_address(&self) -> Option<String> {
        let position = lock(&self.addresses).take_any()?;
        Some(self.range.address(position).to_string())
    }

    /// Takes a given port; the error is the message for the field.
    pub(super) fn take_port(&self, port: u16) -> Result<(), String> {
        let Some(position) = self.port_position(port) else {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.first_port, self.last_port
            ));
        };
        if lock(&self.ports).take(position) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    /// Takes any free port.
    pub(super) fn take_any_port(&self) -> Option<u16> {
        let position = lock(&self.ports).take_any()?;
        Some(self.first_port + u16::try_from(position).unwrap_or(0))
    }

    pub(super) fn release_address(&self, address: &str) {
        if let Some(position) = address.parse().ok().and_then(|address| self.range.position(address)) {
            lock(&self.addresses).release(position);
        }
    }

    pub(super) fn release_port(&self, port: u16) {
        if let Some(position) = self.port_position(port) {
            lock(&self.ports).release(position);
        }
    }

    fn port_position(&self, port: u16) -> Option<usize> {
        (self.first_port..=self.last_port).contains(&port).then(|| usize::from(port - self.first_port))
    }
}

/// The cluster IPs of a service.
pub(super) fn addresses(service: &Value) -> Vec<&str> {
    let spec = &service["spec"];
    let list = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<&str> = list.chain(spec["clusterIP"].as_str()).filter(|ip| !matches!(*ip, "" | "None")).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The node ports of a service, each once.
pub(super) fn node_ports(service: &Value) -> Vec<u16> {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
    let mut all: Vec<u16> = ports
        .chain([&spec["healthCheckNodePort"]])
        .filter_map(Value::as_u64)
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_checked() {
        let all = Allocators::new("10.96.0.0/24", (30000, 30010)).unwrap();
        assert_eq!(all.first_address().to_string(), "10.96.0.1");
        for (address, ok) in [
            ("10.96.0.1", true),
            ("10.96.0.1", false),
            ("10.96.0.0", false),
            ("10.96.0.255", false),
            ("10.96.0.254", true),
            ("10.97.0.1", false),
            ("fd00::1", false),
            ("x", false),
        ] {
            assert_eq!(all.take_address(address).is_ok(), ok, "{address}");
        }
        all.release_address("10.96.0.1");
        assert!(all.take_address("10.96.0.1").is_ok());
        for (port, ok) in [(30000, true), (30000, false), (29999, false), (30011, false)] {
            assert_eq!(all.take_port(port).is_ok(), ok, "{port}");
        }
        assert_eq!(std::iter::from_fn(|| all.take_any_port()).count(), 10);
        assert_eq!(Allocators::new("fd00::/108", (1, 2)).unwrap().first_address().to_string(), "fd00::1");
        assert!(Allocators::new("10.96.0.0", (1, 2)).is_err());
    }
}
