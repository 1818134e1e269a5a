//! Ways that datagrams took and that lead nowhere now.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::state::{Family, Frontend, Protocol, family_of};

/// Ways of datagrams: from a frontend to a backend that it led to.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    ways: HashSet<(Frontend, SocketAddr)>,
    /// Where they ended.
    backends: HashSet<SocketAddr>,
    /// Where node ports answer.
    nodes: BTreeSet<IpAddr>,
}

impl Lost {
    /// Adds a way from a frontend to a backend. There are none for TCP: a connection ends with its peer.
    pub(crate) fn add(&mut self, frontend: Frontend, backend: SocketAddr) {
        if frontend.protocol == Protocol::Udp {
            self.ways.insert((frontend, backend));
            self.backends.insert(backend);
        }
    }

    /// Says where node ports answer.
    pub(crate) fn at_nodes<'a>(&mut self, addresses: impl Iterator<Item = &'a IpAddr>) {
        self.nodes.extend(addresses);
    }

    /// Whether the way of a socket that meant `front` and was sent to `backend` is lost.
    pub(crate) fn has(&self, front: SocketAddr, backend: SocketAddr) -> bool {
        let way = |address| {
            let family = family_of(&backend.ip());
            (Frontend { family, address, port: front.port(), protocol: Protocol::Udp }, backend)
        };
        self.ways.contains(&way(Some(front.ip())))
            || (self.ways.contains(&way(None)) && self.nodes.contains(&front.ip()))
    }

    /// Whether some way to the backend is lost.
    pub(crate) fn ended_at(&self, backend: &SocketAddr) -> bool {
        self.backends.contains(backend)
    }

    /// Whether some are of the family.
    pub(crate) fn is_of(&self, family: Family) -> bool {
        self.ways.iter().any(|(frontend, _)| frontend.family == family)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }
}

#[cfg(test)]
impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = |(front, backend): &(Frontend, SocketAddr)| {
            let address = front.address.map_or("node".to_owned(), |address| address.to_string());
            format!("{address}:{}>{backend}", front.port)
        };
        let ways: BTreeSet<_> = self.ways.iter().map(way).collect();
        f.write_str(&Vec::from_iter(ways).join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gone_is_lost() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let front = |address: Option<&str>, port, protocol| {
            let address = address.map(|text| text.parse().unwrap());
            Frontend { family: Family::V4, address, port, protocol }
        };
        let mut lost = Lost::default();
        let backends = [at("10.0.0.1:53"), at("10.0.0.2:53"), at("10.0.0.3:53")];
        lost.add(front(Some("10.96.0.1"), 53, Protocol::Udp), backends[0]);
        lost.add(front(Some("10.96.0.1"), 80, Protocol::Tcp), backends[0]);
        lost.add(front(None, 30053, Protocol::Udp), backends[0]);
        lost.at_nodes(["192.0.2.1".parse().unwrap()].iter());
        for (from, to, expected) in [
            ("10.96.0.1:53", "10.0.0.1:53", true),
            ("10.96.0.1:53", "10.0.0.2:53", false),
            ("10.96.0.2:53", "10.0.0.1:53", false),
            ("10.96.0.1:80", "10.0.0.1:53", false),
            ("192.0.2.1:30053", "10.0.0.1:53", true),
            ("192.0.2.2:30053", "10.0.0.1:53", false),
            ("[::1]:53", "[::2]:53", false),
        ] {
            assert_eq!(lost.has(at(from), at(to)), expected, "{from} {to}");
        }
        assert_eq!(backends.map(|backend| lost.ended_at(&backend)), [true, false, false]);
        assert!(lost.is_of(Family::V4) && !lost.is_of(Family::V6) && !lost.is_empty());
    }
}
