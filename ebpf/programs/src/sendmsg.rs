//! sendmsg4 and sendmsg6: datagrams of sockets that are not connected.
//!
//! An IPv4-mapped destination of an IPv6 socket arrives at sendmsg4: the kernel unwraps it before the hook.

use abi::{V4, V6, metric, proto};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    balance::{Choice, choose},
    family::Family,
    maps::count,
};

/// sendto() and sendmsg() with an IPv4 destination.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<V4>(&ctx)
}

/// sendto() and sendmsg() with an IPv6 destination.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<V6>(&ctx)
}

#[inline(always)]
fn send<A: Family>(ctx: &SockAddrContext) -> i32 {
    let at = A::read(ctx);
    let choice = choose(ctx, &at, proto::UDP);
    if let Choice::Use(backend) = choice {
        A::maps().remember_sent(ctx, backend, &at);
        count(metric::SENT);
    }
    choice.carry_out(ctx, A::write)
}
