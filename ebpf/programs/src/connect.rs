//! connect4 and connect6: TCP connections and connected datagram sockets.

use abi::{Endpoint, V4, V6, metric, proto};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    balance::{Choice, choose},
    family::{Family, mapped, protocol, write_mapped},
    maps::count,
};

/// connect() of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, V4::read(&ctx), V4::write)
}

/// connect() of an IPv6 socket, which may hold an IPv4 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let at = V6::read(&ctx);
    match mapped(&at) {
        Some(at) => connect(&ctx, at, write_mapped),
        None => connect(&ctx, at, V6::write),
    }
}

#[inline(always)]
fn connect<A: Family>(ctx: &SockAddrContext, at: Endpoint<A>, write: fn(&SockAddrContext, Endpoint<A>)) -> i32 {
    let proto = protocol(ctx);
    if proto != proto::TCP && proto != proto::UDP {
        return Choice::<A>::Keep.carry_out(ctx, write);
    }
    let choice = choose(ctx, &at, proto, || None);
    if let Choice::Use(backend) = choice {
        A::maps().remember_connected(ctx, backend, at);
        count(metric::CONNECTED);
    }
    choice.carry_out(ctx, write)
}
