//! What differs between IPv4 and IPv6: the maps, and where a hook's context keeps the address. All else is written once.

use abi::{
    Address, Affinity, AffinityKey, Connected, Endpoint, SentKey, Service, ServiceKey, V4, V6, scope, sent_flag,
};
use aya_ebpf::{
    EbpfContext as _,
    btf_maps::SkStorage,
    helpers::generated::bpf_get_socket_cookie,
    maps::{Array, HashMap, LruHashMap},
    programs::SockAddrContext,
};

use crate::maps::{
    AFFINITY4, AFFINITY6, BACKENDS4, BACKENDS6, CONNECTED4, CONNECTED6, NODES4, NODES6, REVERSE4, REVERSE6, SERVICES4,
    SERVICES6,
};

/// One address family's maps.
pub struct Maps<A: Address> {
    services: &'static HashMap<ServiceKey<A>, Service>,
    backends: &'static Array<Endpoint<A>>,
    reverse: &'static LruHashMap<SentKey<A>, Endpoint<A>>,
    affinity: &'static LruHashMap<AffinityKey, Affinity<A>>,
    nodes: &'static HashMap<A, u32>,
    connected: &'static SkStorage<Connected<A>>,
}

/// [`V4`], for IPv4 and IPv4 inside an IPv6 socket, or [`V6`].
pub trait Family: Address {
    /// The loopback address.
    const LOOPBACK: Self;
    /// Its maps.
    fn maps() -> Maps<Self>;
    /// Whether two addresses are the same.
    fn same(self, other: Self) -> bool;
    /// The destination (or source, in recvmsg) in the context of this family's hooks.
    fn read(ctx: &SockAddrContext) -> Endpoint<Self>;
    /// Puts another address in the context of this family's hooks.
    fn write(ctx: &SockAddrContext, to: Endpoint<Self>);
}

impl Family for V4 {
    const LOOPBACK: Self = 0x7f00_0001_u32.to_be();

    #[inline(always)]
    fn maps() -> Maps<Self> {
        Maps {
            services: &SERVICES4,
            backends: &BACKENDS4,
            reverse: &REVERSE4,
            affinity: &AFFINITY4,
            nodes: &NODES4,
            connected: &CONNECTED4,
        }
    }

    #[inline(always)]
    fn same(self, other: Self) -> bool {
        self == other
    }

    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> Endpoint<Self> {
        // SAFETY: the kernel hands every sock_addr program a valid context.
        let raw = unsafe { &*ctx.sock_addr };
        Endpoint { addr: raw.user_ip4, port: raw.user_port as u16, flags: 0, pad: [] }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, to: Endpoint<Self>) {
        // SAFETY: as in `read`; these fields may be written.
        let raw = unsafe { &mut *ctx.sock_addr };
        raw.user_ip4 = to.addr;
        raw.user_port = u32::from(to.port);
    }
}

impl Family for V6 {
    const LOOPBACK: Self = [0, 0, 0, 1_u32.to_be()];

    #[inline(always)]
    fn maps() -> Maps<Self> {
        Maps {
            services: &SERVICES6,
            backends: &BACKENDS6,
            reverse: &REVERSE6,
            affinity: &AFFINITY6,
            nodes: &NODES6,
            connected: &CONNECTED6,
        }
    }

    /// By words: `==` on arrays becomes a call to `memcmp`, which the kernel's target does not have.
    #[inline(always)]
    fn same(self, other: Self) -> bool {
        self[0] == other[0] && self[1] == other[1] && self[2] == other[2] && self[3] == other[3]
    }

    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> Endpoint<Self> {
        // SAFETY: as for IPv4.
        let raw = unsafe { &*ctx.sock_addr };
        let addr = [raw.user_ip6[0], raw.user_ip6[1], raw.user_ip6[2], raw.user_ip6[3]];
        Endpoint { addr, port: raw.user_port as u16, flags: 0, pad: [0] }
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, to: Endpoint<Self>) {
        // SAFETY: as for IPv4.
        let raw = unsafe { &mut *ctx.sock_addr };
        raw.user_ip6[0] = to.addr[0];
        raw.user_ip6[1] = to.addr[1];
        raw.user_ip6[2] = to.addr[2];
        raw.user_ip6[3] = to.addr[3];
        raw.user_port = u32::from(to.port);
    }
}

impl<A: Family> Maps<A> {
    /// The service at exactly this endpoint.
    #[inline(always)]
    pub fn service(&self, at: &Endpoint<A>, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey { addr: at.addr, port: at.port, proto, scope: scope::ADDRESS, pad: A::Pad::default() };
        // SAFETY: entries are replaced whole by the loader; a reader sees the old or the new one.
        unsafe { self.services.get(&key) }
    }

    /// The service with this port as its node port.
    #[inline(always)]
    pub fn node_port(&self, port: u16, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey { addr: A::default(), port, proto, scope: scope::NODE_PORT, pad: A::Pad::default() };
        // SAFETY: as above.
        unsafe { self.services.get(&key) }
    }

    /// What kind of node address this is, if it is one.
    #[inline(always)]
    pub fn node_address(&self, at: A) -> Option<u32> {
        // SAFETY: as above.
        unsafe { self.nodes.get(&at) }.copied()
    }

    /// The backend in a slot.
    #[inline(always)]
    pub fn backend(&self, slot: u32) -> Option<Endpoint<A>> {
        self.backends.get(slot).copied()
    }

    /// The backend that a client used last and when, if it is not longer ago than `max_age`; marks it used.
    #[inline(always)]
    pub fn affine(&self, key: &AffinityKey, now: u64, max_age: u64) -> Option<Endpoint<A>> {
        let entry = self.affinity.get_ptr_mut(key)?;
        // SAFETY: a live map value; a torn timestamp would at worst choose anew.
        let entry = unsafe { &mut *entry };
        if now.wrapping_sub(entry.seen) >= max_age {
            return None;
        }
        entry.seen = now;
        Some(entry.backend)
    }

    /// Remembers the backend for a client.
    #[inline(always)]
    pub fn remember_affinity(&self, key: &AffinityKey, backend: Endpoint<A>, now: u64) {
        let _ = self.affinity.insert(key, &Affinity { backend, seen: now }, 0);
    }

    /// Remembers, with the socket, what it was connected for.
    #[inline(always)]
    pub fn remember_connected(&self, ctx: &SockAddrContext, backend: Endpoint<A>, frontend: Endpoint<A>) {
        let mut value = Connected { backend, frontend };
        let stored = self.connected.get_or_insert_ptr_mut(ctx, Some(&mut value));
        if !stored.is_null() {
            // SAFETY: not null, and the socket is ours while its hook runs.
            unsafe { *stored = value };
        }
    }

    /// The frontend of a socket that is connected to `peer`.
    #[inline(always)]
    pub fn connected(&self, ctx: &SockAddrContext, peer: &Endpoint<A>) -> Option<Endpoint<A>> {
        let stored = self.connected.get_ptr_mut(ctx);
        if stored.is_null() {
            return None;
        }
        // SAFETY: not null, and the socket lives while its hook runs.
        let stored = unsafe { *stored };
        (stored.backend.addr.same(peer.addr) && stored.backend.port == peer.port).then_some(stored.frontend)
    }

    /// Remembers, by [`sent_flag`], an answer of [`Maps::sent`]. One that is known is only looked at, which costs a fraction.
    #[inline(always)]
    pub fn remember_sent(&self, ctx: &SockAddrContext, flags: u16, at: Endpoint<A>, to: Endpoint<A>) {
        let known = self.sent(ctx, flags, at);
        if !known.is_some_and(|known| known.addr.same(to.addr) && known.port == to.port) {
            let key = SentKey { cookie: cookie(ctx), at: Endpoint { flags, ..at } };
            let _ = self.reverse.insert(&key, &to, 0);
        }
    }

    /// By [`sent_flag`]: what an unconnected socket meant when it sent to a backend, or where it was sent for a frontend.
    #[inline(always)]
    pub fn sent(&self, ctx: &SockAddrContext, flags: u16, at: Endpoint<A>) -> Option<Endpoint<A>> {
        let key = SentKey { cookie: cookie(ctx), at: Endpoint { flags, ..at } };
        // SAFETY: the value is copied at once.
        unsafe { self.reverse.get(&key) }.copied()
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid, and this helper exists at every hook used here.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The IPv4 endpoint inside an IPv6 one, if it is IPv4-mapped (`::ffff:a.b.c.d`).
#[inline(always)]
pub fn mapped(at: &Endpoint<V6>) -> Option<Endpoint<V4>> {
    let is_mapped = at.addr[0] == 0 && at.addr[1] == 0 && at.addr[2] == 0xffff_u32.to_be();
    is_mapped.then_some(Endpoint { addr: at.addr[3], port: at.port, flags: 0, pad: [] })
}

/// Puts another IPv4-mapped address in an IPv6 hook's context that holds one already.
#[inline(always)]
pub fn write_mapped(ctx: &SockAddrContext, to: Endpoint<V4>) {
    // SAFETY: as in `write`.
    let raw = unsafe { &mut *ctx.sock_addr };
    raw.user_ip6[3] = to.addr;
    raw.user_port = u32::from(to.port);
}

/// The socket's transport protocol.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as in `read`.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}
