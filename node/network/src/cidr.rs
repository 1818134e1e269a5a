//! Address ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address range of either family, such as `10.244.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// A text that is no address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.244.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    /// First address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: &IpAddr) -> bool {
        mask(*address, self.length) == Some(self.address)
    }

    /// The addresses that pods may have, for an IPv4 range: without network, broadcast, and the first, which is left
    /// for the node.
    pub fn pod_addresses(&self) -> Option<std::ops::RangeInclusive<u32>> {
        let IpAddr::V4(first) = self.address else { return None };
        if self.length > 30 {
            return None;
        }
        let first = first.to_bits();
        Some(first + 2..=first + (u32::MAX >> self.length) - 1)
    }
}

/// Clears the host bits, where the length fits the family.
fn mask(address: IpAddr, length: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            (length <= 32).then(|| Ipv4Addr::from_bits(v4.to_bits() & !host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            (length <= 128).then(|| std::net::Ipv6Addr::from_bits(v6.to_bits() & !host).into())
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length = length.parse().ok()?;
            let address = mask(address.parse().ok()?, length)?;
            Some(Self { address, length })
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_contains() {
        for (text, inside, outside) in [
            ("10.244.0.0/16", "10.244.255.1", "10.245.0.0"),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.8"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("fd00:1::/64", "fd00:1::9", "fd00:2::9"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), text);
            assert!(cidr.contains(&inside.parse().unwrap()), "{text} {inside}");
            assert!(!cidr.contains(&outside.parse().unwrap()), "{text} {outside}");
        }
        assert_eq!("10.244.1.7/24".parse::<Cidr>().unwrap().to_string(), "10.244.1.0/24");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_for_pods() {
        let range = |text: &str| text.parse::<Cidr>().unwrap().pod_addresses();
        let found = range("10.244.1.0/24").unwrap();
        assert_eq!(Ipv4Addr::from_bits(*found.start()).to_string(), "10.244.1.2");
        assert_eq!(Ipv4Addr::from_bits(*found.end()).to_string(), "10.244.1.254");
        assert_eq!(range("10.244.1.0/30").map(std::iter::Iterator::count), Some(1));
        assert_eq!(range("10.244.1.0/31"), None);
        assert_eq!(range("fd00::/64"), None);
    }
}
