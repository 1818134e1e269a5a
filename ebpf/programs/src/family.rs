//! What differs between IPv4 and IPv6: the maps, the shape of keys, and where a hook's context keeps the address.

use abi::{
    Affinity4, Affinity6, AffinityKey, Backend4, Backend6, Connected4, Connected6, ReverseKey4, ReverseKey6, Service,
    ServiceKey4, ServiceKey6, scope,
};
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{
    AFFINITY4, AFFINITY6, BACKENDS4, BACKENDS6, CONNECTED4, CONNECTED6, NODES4, NODES6, REVERSE4, REVERSE6, SERVICES4,
    SERVICES6,
};

/// One address family's maps, behind one set of functions. An endpoint is [`Backend4`] or [`Backend6`].
pub trait Family {
    /// Address and port.
    type Endpoint: Copy + PartialEq;

    /// The service at exactly this endpoint.
    fn service(at: &Self::Endpoint, proto: u8) -> Option<&'static Service>;
    /// What kind of node address this is, if it is one.
    fn node_address(at: &Self::Endpoint) -> Option<u32>;
    /// The service with this endpoint's port as its node port.
    fn node_port(at: &Self::Endpoint, proto: u8) -> Option<&'static Service>;
    /// The backend in a slot.
    fn backend(slot: u32) -> Option<Self::Endpoint>;
    /// The backend that a client used last and when, if it is not longer ago than `max_age`; marks it used.
    fn affine(key: &AffinityKey, now: u64, max_age: u64) -> Option<Self::Endpoint>;
    /// Remembers the backend for a client.
    fn remember_affinity(key: &AffinityKey, backend: Self::Endpoint, now: u64);
    /// Remembers, with the socket, what it was connected for.
    fn remember_connected(ctx: &SockAddrContext, backend: Self::Endpoint, frontend: Self::Endpoint);
    /// The frontend of a socket that is connected to `peer`.
    fn connected(ctx: &SockAddrContext, peer: &Self::Endpoint) -> Option<Self::Endpoint>;
    /// Remembers what an unconnected socket meant by sending to `backend`.
    fn remember_sent(cookie: u64, backend: Self::Endpoint, frontend: &Self::Endpoint);
    /// What an unconnected socket meant when it sent to `peer`.
    fn sent(cookie: u64, peer: &Self::Endpoint) -> Option<Self::Endpoint>;
}

/// IPv4, and IPv4 inside an IPv6 socket.
pub struct V4;
/// IPv6.
pub struct V6;

impl Family for V4 {
    type Endpoint = Backend4;

    #[inline(always)]
    fn service(at: &Backend4, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey4 { addr: at.addr, port: at.port, proto, scope: scope::ADDRESS };
        // SAFETY: entries are replaced whole by the loader; a reader sees the old or the new one.
        unsafe { SERVICES4.get(&key) }
    }

    #[inline(always)]
    fn node_address(at: &Backend4) -> Option<u32> {
        // SAFETY: as above.
        unsafe { NODES4.get(&at.addr) }.copied()
    }

    #[inline(always)]
    fn node_port(at: &Backend4, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey4 { addr: 0, port: at.port, proto, scope: scope::NODE_PORT };
        // SAFETY: as above.
        unsafe { SERVICES4.get(&key) }
    }

    #[inline(always)]
    fn backend(slot: u32) -> Option<Backend4> {
        BACKENDS4.get(slot).copied()
    }

    #[inline(always)]
    fn affine(key: &AffinityKey, now: u64, max_age: u64) -> Option<Backend4> {
        let entry = AFFINITY4.get_ptr_mut(key)?;
        // SAFETY: a live map value; a torn timestamp would at worst choose anew.
        let entry = unsafe { &mut *entry };
        if now.wrapping_sub(entry.seen) >= max_age {
            return None;
        }
        entry.seen = now;
        Some(entry.backend)
    }

    #[inline(always)]
    fn remember_affinity(key: &AffinityKey, backend: Backend4, now: u64) {
        let _ = AFFINITY4.insert(key, &Affinity4 { backend, seen: now }, 0);
    }

    #[inline(always)]
    fn remember_connected(ctx: &SockAddrContext, backend: Backend4, frontend: Backend4) {
        let mut value = Connected4 { backend, frontend };
        let stored = CONNECTED4.get_or_insert_ptr_mut(ctx, Some(&mut value));
        if !stored.is_null() {
            // SAFETY: not null, and the socket is ours while its hook runs.
            unsafe { *stored = value };
        }
    }

    #[inline(always)]
    fn connected(ctx: &SockAddrContext, peer: &Backend4) -> Option<Backend4> {
        let stored = CONNECTED4.get_ptr_mut(ctx);
        if stored.is_null() {
            return None;
        }
        // SAFETY: not null, and the socket lives while its hook runs.
        let stored = unsafe { *stored };
        (stored.backend.addr == peer.addr && stored.backend.port == peer.port).then_some(stored.frontend)
    }

    #[inline(always)]
    fn remember_sent(cookie: u64, backend: Backend4, frontend: &Backend4) {
        let key = ReverseKey4 { cookie, addr: backend.addr, port: backend.port, pad: 0 };
        let _ = REVERSE4.insert(&key, frontend, 0);
    }

    #[inline(always)]
    fn sent(cookie: u64, peer: &Backend4) -> Option<Backend4> {
        let key = ReverseKey4 { cookie, addr: peer.addr, port: peer.port, pad: 0 };
        // SAFETY: the value is copied at once.
        unsafe { REVERSE4.get(&key) }.copied()
    }
}

impl Family for V6 {
    type Endpoint = Backend6;

    #[inline(always)]
    fn service(at: &Backend6, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey6 { addr: at.addr, port: at.port, proto, scope: scope::ADDRESS, pad: 0 };
        // SAFETY: entries are replaced whole by the loader; a reader sees the old or the new one.
        unsafe { SERVICES6.get(&key) }
    }

    #[inline(always)]
    fn node_address(at: &Backend6) -> Option<u32> {
        // SAFETY: as above.
        unsafe { NODES6.get(&at.addr) }.copied()
    }

    #[inline(always)]
    fn node_port(at: &Backend6, proto: u8) -> Option<&'static Service> {
        let key = ServiceKey6 { addr: [0; 4], port: at.port, proto, scope: scope::NODE_PORT, pad: 0 };
        // SAFETY: as above.
        unsafe { SERVICES6.get(&key) }
    }

    #[inline(always)]
    fn backend(slot: u32) -> Option<Backend6> {
        BACKENDS6.get(slot).copied()
    }

    #[inline(always)]
    fn affine(key: &AffinityKey, now: u64, max_age: u64) -> Option<Backend6> {
        let entry = AFFINITY6.get_ptr_mut(key)?;
        // SAFETY: a live map value; a torn timestamp would at worst choose anew.
        let entry = unsafe { &mut *entry };
        if now.wrapping_sub(entry.seen) >= max_age {
            return None;
        }
        entry.seen = now;
        Some(entry.backend)
    }

    #[inline(always)]
    fn remember_affinity(key: &AffinityKey, backend: Backend6, now: u64) {
        let _ = AFFINITY6.insert(key, &Affinity6 { backend, seen: now }, 0);
    }

    #[inline(always)]
    fn remember_connected(ctx: &SockAddrContext, backend: Backend6, frontend: Backend6) {
        let mut value = Connected6 { backend, frontend };
        let stored = CONNECTED6.get_or_insert_ptr_mut(ctx, Some(&mut value));
        if !stored.is_null() {
            // SAFETY: not null, and the socket is ours while its hook runs.
            unsafe { *stored = value };
        }
    }

    #[inline(always)]
    fn connected(ctx: &SockAddrContext, peer: &Backend6) -> Option<Backend6> {
        let stored = CONNECTED6.get_ptr_mut(ctx);
        if stored.is_null() {
            return None;
        }
        // SAFETY: not null, and the socket lives while its hook runs.
        let stored = unsafe { *stored };
        (same(&stored.backend.addr, &peer.addr) && stored.backend.port == peer.port).then_some(stored.frontend)
    }

    #[inline(always)]
    fn remember_sent(cookie: u64, backend: Backend6, frontend: &Backend6) {
        let key = ReverseKey6 { cookie, addr: backend.addr, port: backend.port, pad: [0; 3] };
        let _ = REVERSE6.insert(&key, frontend, 0);
    }

    #[inline(always)]
    fn sent(cookie: u64, peer: &Backend6) -> Option<Backend6> {
        let key = ReverseKey6 { cookie, addr: peer.addr, port: peer.port, pad: [0; 3] };
        // SAFETY: the value is copied at once.
        unsafe { REVERSE6.get(&key) }.copied()
    }
}

/// Compares by words: `==` on arrays becomes a call to `memcmp`, which the kernel's target does not have.
#[inline(always)]
fn same(a: &[u32; 4], b: &[u32; 4]) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

/// The destination (or source, in recvmsg) in an IPv4 hook's context.
#[inline(always)]
pub fn read4(ctx: &SockAddrContext) -> Backend4 {
    // SAFETY: the kernel hands every sock_addr program a valid context.
    let raw = unsafe { &*ctx.sock_addr };
    Backend4 { addr: raw.user_ip4, port: raw.user_port as u16, flags: 0 }
}

/// Puts another address in an IPv4 hook's context.
#[inline(always)]
pub fn write4(ctx: &SockAddrContext, to: Backend4) {
    // SAFETY: as in `read4`; these fields may be written.
    let raw = unsafe { &mut *ctx.sock_addr };
    raw.user_ip4 = to.addr;
    raw.user_port = u32::from(to.port);
}

/// The destination (or source) in an IPv6 hook's context.
#[inline(always)]
pub fn read6(ctx: &SockAddrContext) -> Backend6 {
    // SAFETY: as in `read4`.
    let raw = unsafe { &*ctx.sock_addr };
    let addr = [raw.user_ip6[0], raw.user_ip6[1], raw.user_ip6[2], raw.user_ip6[3]];
    Backend6 { addr, port: raw.user_port as u16, flags: 0, pad: 0 }
}

/// Puts another address in an IPv6 hook's context.
#[inline(always)]
pub fn write6(ctx: &SockAddrContext, to: Backend6) {
    // SAFETY: as in `write4`.
    let raw = unsafe { &mut *ctx.sock_addr };
    raw.user_ip6[0] = to.addr[0];
    raw.user_ip6[1] = to.addr[1];
    raw.user_ip6[2] = to.addr[2];
    raw.user_ip6[3] = to.addr[3];
    raw.user_port = u32::from(to.port);
}

/// The IPv4 endpoint inside an IPv6 one, if it is IPv4-mapped (`::ffff:a.b.c.d`).
#[inline(always)]
pub fn mapped(at: &Backend6) -> Option<Backend4> {
    let is_mapped = at.addr[0] == 0 && at.addr[1] == 0 && at.addr[2] == 0xffff_u32.to_be();
    is_mapped.then_some(Backend4 { addr: at.addr[3], port: at.port, flags: 0 })
}

/// Puts another IPv4-mapped address in an IPv6 hook's context that holds one already.
#[inline(always)]
pub fn write_mapped(ctx: &SockAddrContext, to: Backend4) {
    // SAFETY: as in `write4`.
    let raw = unsafe { &mut *ctx.sock_addr };
    raw.user_ip6[3] = to.addr;
    raw.user_port = u32::from(to.port);
}

/// The socket's transport protocol.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as in `read4`.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}
