//! recvmsg and getpeername: whom a program believes it is talking to.

use aya_ebpf::programs::SockAddrContext;
use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr};

use crate::{
    balance::PROCEED,
    family::{Family, V4, V6, mapped, read4, read6, write_mapped, write4, write6},
};

/// The source that recvfrom() and recvmsg() report over IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(frontend) = frontend::<V4>(&ctx, &read4(&ctx)) {
        write4(&ctx, frontend);
    }
    PROCEED
}

/// The source that recvfrom() and recvmsg() report over IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

/// getpeername() over IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(frontend) = V4::connected(&ctx, &read4(&ctx)) {
        write4(&ctx, frontend);
    }
    PROCEED
}

/// getpeername() over IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    reverse6(&ctx)
}

#[inline(always)]
fn reverse6(ctx: &SockAddrContext) -> i32 {
    let peer = read6(ctx);
    if let Some(peer) = mapped(&peer) {
        if let Some(frontend) = frontend::<V4>(ctx, &peer) {
            write_mapped(ctx, frontend);
        }
    } else if let Some(frontend) = frontend::<V6>(ctx, &peer) {
        write6(ctx, frontend);
    }
    PROCEED
}

#[inline(always)]
fn frontend<F: Family>(ctx: &SockAddrContext, peer: &F::Endpoint) -> Option<F::Endpoint> {
    if let Some(frontend) = F::connected(ctx, peer) {
        return Some(frontend);
    }
    // SAFETY: the context is valid, and this helper exists at every hook used here.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    F::sent(cookie, peer)
}
