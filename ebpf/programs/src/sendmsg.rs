//! sendmsg4 and sendmsg6: datagrams of sockets that are not connected.
//!
//! An IPv4-mapped destination of an IPv6 socket arrives at sendmsg4: the kernel unwraps it before the hook.

use abi::{metric, proto};
use aya_ebpf::programs::SockAddrContext;
use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr};

use crate::{
    balance::{Choice, PROCEED, choose, refuse},
    family::{Family, V4, V6, read4, read6, write4, write6},
    maps::count,
};

/// sendto() and sendmsg() with an IPv4 destination.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    match translate::<V4>(&ctx, read4(&ctx)) {
        Choice::Keep => PROCEED,
        Choice::Use(backend) => {
            write4(&ctx, backend);
            PROCEED
        }
        Choice::Refuse => refuse(),
    }
}

/// sendto() and sendmsg() with an IPv6 destination.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    match translate::<V6>(&ctx, read6(&ctx)) {
        Choice::Keep => PROCEED,
        Choice::Use(backend) => {
            write6(&ctx, backend);
            PROCEED
        }
        Choice::Refuse => refuse(),
    }
}

#[inline(always)]
fn translate<F: Family>(ctx: &SockAddrContext, at: F::Endpoint) -> Choice<F::Endpoint> {
    let choice = choose::<F>(ctx, &at, proto::UDP);
    if let Choice::Use(backend) = choice {
        // SAFETY: the context is valid, and this helper exists at every hook used here.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        F::remember_sent(cookie, backend, &at);
        count(metric::SENT);
    }
    choice
}
