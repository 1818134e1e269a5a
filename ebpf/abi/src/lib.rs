//! Keys and values of the eBPF maps, as the programs in the kernel and their loader both see them.
//!
//! Addresses and ports are in network byte order, as the kernel hands them to a program. Every struct has its padding
//! spelled out: an implicit pad would hold stack rubbish on one side and make look-ups miss silently. The assertions
//! on sizes below are the contract; when one must change, [`VERSION`] changes with it, since a pinned map keeps the
//! layout it was made with.

#![no_std]
#![cfg_attr(feature = "user", expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait"))]

use core::fmt::Debug;
use core::hash::Hash;

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
    /// A pod's host port: it is this node's alone.
    pub const HOST_PORT: u16 = 2;
}

/// Flags of the endpoint in a [`SentKey`].
pub mod sent_flag {
    /// A backend that was sent to; the value is the frontend that was meant.
    pub const BACK: u16 = 0;
    /// A frontend that was meant; the value is the backend that was sent to.
    pub const FORTH: u16 = 1;
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

/// An IP address as the maps hold it: words in network order. [`V4`] and [`V6`], nothing else: it is for these two that
/// the sizes below are asserted.
pub trait Address: sealed::Sealed + Copy + Debug + Default + Eq + Hash + Ord + 'static {
    /// What fills an address and four bytes up to a multiple of eight.
    type Pad: Copy + Debug + Default + Eq + Hash + Ord + 'static;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An IPv4 address.
pub type V4 = u32;
/// An IPv6 address.
pub type V6 = [u32; 4];

impl Address for V4 {
    type Pad = [u32; 0];
}

impl Address for V6 {
    type Pad = [u32; 1];
}

/// A service's frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceKey<A: Address> {
    /// Address; zero for [`scope::NODE_PORT`].
    pub addr: A,
    /// Port, network order.
    pub port: u16,
    /// One of [`proto`].
    pub proto: u8,
    /// One of [`scope`].
    pub scope: u8,
    /// Zero.
    pub pad: A::Pad,
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

/// An address and port: a backend, or what to translate back to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Endpoint<A: Address> {
    /// Address.
    pub addr: A,
    /// Port, network order.
    pub port: u16,
    /// Zero, but for [`sent_flag`] in a key.
    pub flags: u16,
    /// Zero.
    pub pad: A::Pad,
}

/// What a connected socket was asked for and what it got; kept with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Connected<A: Address> {
    /// Where it is connected.
    pub backend: Endpoint<A>,
    /// Where its program believes it is connected.
    pub frontend: Endpoint<A>,
}

/// Where an unconnected socket has sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SentKey<A: Address> {
    /// The socket's cookie.
    pub cookie: u64,
    /// A backend or a frontend, by [`sent_flag`].
    pub at: Endpoint<A>,
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

/// Where a client went last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Affinity<A: Address> {
    /// The backend chosen.
    pub backend: Endpoint<A>,
    /// When it was last used, by the coarse monotonic clock in nanoseconds.
    pub seen: u64,
}

const _: () = {
    assert!(size_of::<ServiceKey<V4>>() == 8);
    assert!(size_of::<ServiceKey<V6>>() == 24);
    assert!(size_of::<Service>() == 16);
    assert!(size_of::<Endpoint<V4>>() == 8);
    assert!(size_of::<Endpoint<V6>>() == 24);
    assert!(size_of::<Connected<V4>>() == 16);
    assert!(size_of::<Connected<V6>>() == 48);
    assert!(size_of::<SentKey<V4>>() == 16);
    assert!(size_of::<SentKey<V6>>() == 32);
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<Affinity<V4>>() == 16);
    assert!(size_of::<Affinity<V6>>() == 32);
};

#[cfg(feature = "user")]
mod user {
    use crate::{Address, Affinity, AffinityKey, Connected, Endpoint, SentKey, Service, ServiceKey};

    macro_rules! pod {
        ($($name:ident),*) => {$(
            // SAFETY: `repr(C)`, only integers, no implicit padding (asserted above), every bit pattern valid.
            unsafe impl<A: Address> aya::Pod for $name<A> {}
        )*};
    }
    pod!(ServiceKey, Endpoint, Connected, SentKey, Affinity);
    // SAFETY: as above.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AffinityKey {}
}
