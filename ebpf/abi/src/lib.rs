//! Keys and values of the eBPF maps, as the programs in the kernel and their loader both see them.
//!
//! Addresses and ports are in network byte order, as the kernel hands them to a program. Every struct has its padding
//! spelled out: an implicit pad would hold stack rubbish on one side and make look-ups miss silently. The assertions
//! on sizes below are the contract; when one must change, [`VERSION`] changes with it, since a pinned map keeps the
//! layout it was made with.

#![no_std]
#![cfg_attr(feature = "user", expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait"))]

/// Version of the layouts here; part of the directory that the maps are pinned in.
pub const VERSION: &str = "v1";

/// Transport protocols by IANA's numbers.
pub mod proto {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// What the address of a service key means.
pub mod scope {
    /// The address itself: a cluster IP, an external IP, a load balancer's address.
    pub const ADDRESS: u8 = 0;
    /// A node port: the address is zero, and the entry holds for every address in the node-address map.
    pub const NODE_PORT: u8 = 1;
}

/// Flags of [`Service`].
pub mod service_flag {
    /// `externalTrafficPolicy: Local`: on another node, only that node's own endpoints may answer.
    pub const EXTERNAL_LOCAL: u16 = 1;
}

/// Values of the node-address maps.
pub mod node_address {
    /// An address of this node.
    pub const LOCAL: u32 = 1;
    /// A loopback address: it means this node only in the node's own network namespace.
    pub const LOOPBACK: u32 = 2;
    /// An address of another node.
    pub const REMOTE: u32 = 3;
}

/// Indexes of the counters, which every CPU keeps for itself.
pub mod metric {
    /// Connections and connected datagram sockets sent to a backend.
    pub const CONNECTED: u32 = 0;
    /// Datagrams of unconnected sockets sent to a backend.
    pub const SENT: u32 = 1;
    /// Refused because the service has no backend.
    pub const NO_BACKEND: u32 = 2;
    /// Backends chosen by session affinity.
    pub const AFFINITY: u32 = 3;
    /// Entries that pointed at no backend: always zero unless an update went wrong.
    pub const BROKEN: u32 = 4;
    /// How many counters there are.
    pub const COUNT: u32 = 8;
}

/// Indexes of the settings that the loader gives the programs.
pub mod setting {
    /// Cookie of the node's own network namespace.
    pub const NETNS_COOKIE: u32 = 0;
    /// How many settings there are.
    pub const COUNT: u32 = 4;
}

/// A service's frontend over IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceKey4 {
    /// Address, network order; zero for [`scope::NODE_PORT`].
    pub addr: u32,
    /// Port, network order.
    pub port: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// One of [`scope`].
    pub scope: u8,
}

/// A service's frontend over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceKey6 {
    /// Address, network order; zero for [`scope::NODE_PORT`].
    pub addr: [u32; 4],
    /// Port, network order.
    pub port: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// One of [`scope`].
    pub scope: u8,
    /// Zero.
    pub pad: u32,
}

/// Where a frontend's backends are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// First slot in the backend array.
    pub base: u32,
    /// How many slots; zero refuses connections.
    pub count: u16,
    /// Of [`service_flag`].
    pub flags: u16,
    /// Names the backend set in the affinity map.
    pub id: u32,
    /// Seconds that a client stays with its backend; zero for no affinity.
    pub affinity: u32,
}

/// An IPv4 backend, and an address to translate back to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Backend4 {
    /// Address, network order.
    pub addr: u32,
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub flags: u16,
}

/// An IPv6 backend, and an address to translate back to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Backend6 {
    /// Address, network order.
    pub addr: [u32; 4],
    /// Port, network order.
    pub port: u16,
    /// Zero.
    pub flags: u16,
    /// Zero.
    pub pad: u32,
}

/// What a connected IPv4 socket was asked for and what it got; kept with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Connected4 {
    /// Where it is connected.
    pub backend: Backend4,
    /// Where its program believes it is connected.
    pub frontend: Backend4,
}

/// What a connected IPv6 socket was asked for and what it got; kept with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Connected6 {
    /// Where it is connected.
    pub backend: Backend6,
    /// Where its program believes it is connected.
    pub frontend: Backend6,
}

/// A backend that an unconnected IPv4 socket has sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ReverseKey4 {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address, network order.
    pub addr: u32,
    /// The backend's port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// A backend that an unconnected IPv6 socket has sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ReverseKey6 {
    /// The socket's cookie.
    pub cookie: u64,
    /// The backend's address, network order.
    pub addr: [u32; 4],
    /// The backend's port, network order.
    pub port: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// A client of a service with session affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AffinityKey {
    /// The client: the cookie of its network namespace.
    pub client: u64,
    /// [`Service::id`].
    pub service: u32,
    /// Zero.
    pub pad: u32,
}

/// Where a client went last, over IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affinity4 {
    /// The backend chosen.
    pub backend: Backend4,
    /// When it was last used, by the coarse monotonic clock in nanoseconds.
    pub seen: u64,
}

/// Where a client went last, over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affinity6 {
    /// The backend chosen.
    pub backend: Backend6,
    /// When it was last used, by the coarse monotonic clock in nanoseconds.
    pub seen: u64,
}

const _: () = {
    assert!(size_of::<ServiceKey4>() == 8);
    assert!(size_of::<ServiceKey6>() == 24);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Backend4>() == 8);
    assert!(size_of::<Backend6>() == 24);
    assert!(size_of::<Connected4>() == 16);
    assert!(size_of::<Connected6>() == 48);
    assert!(size_of::<ReverseKey4>() == 16);
    assert!(size_of::<ReverseKey6>() == 32);
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<Affinity4>() == 16);
    assert!(size_of::<Affinity6>() == 32);
};

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ty),* $(,)?) => {$(
            // SAFETY: `repr(C)`, only integers, no implicit padding (asserted above), every bit pattern valid.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(
        crate::ServiceKey4,
        crate::ServiceKey6,
        crate::Service,
        crate::Backend4,
        crate::Backend6,
        crate::Connected4,
        crate::Connected6,
        crate::ReverseKey4,
        crate::ReverseKey6,
        crate::AffinityKey,
        crate::Affinity4,
        crate::Affinity6,
    );
}
