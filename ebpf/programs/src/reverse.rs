//! recvmsg and getpeername: whom a program believes it is talking to.

use abi::{Endpoint, V4, V6, sent_flag};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    balance::PROCEED,
    family::{Family, mapped, write_mapped},
};

/// The source that recvfrom() and recvmsg() report over IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, V4::read(&ctx), V4::write)
}

/// The source that recvfrom() and recvmsg() report over IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

/// getpeername() over IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    reverse(&ctx, V4::read(&ctx), V4::write)
}

/// getpeername() over IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

#[inline(always)]
fn reverse6(ctx: &SockAddrContext) -> i32 {
    let peer = V6::read(ctx);
    match mapped(&peer) {
        Some(peer) => reverse(ctx, peer, write_mapped),
        None => reverse(ctx, peer, V6::write),
    }
}

#[inline(always)]
fn reverse<A: Family>(ctx: &SockAddrContext, peer: Endpoint<A>, write: fn(&SockAddrContext, Endpoint<A>)) -> i32 {
    let maps = A::maps();
    if let Some(frontend) = maps.connected(ctx, &peer).or_else(|| maps.sent(ctx, sent_flag::BACK, peer)) {
        write(ctx, frontend);
    }
    PROCEED
}
