//! connect4 and connect6: TCP connections and connected datagram sockets.

use abi::{metric, proto};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    balance::{Choice, PROCEED, choose, refuse},
    family::{Family, V4, V6, mapped, protocol, read4, read6, write_mapped, write4, write6},
    maps::count,
};

/// connect() of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let at = read4(&ctx);
    match translate::<V4>(&ctx, at) {
        Choice::Keep => PROCEED,
        Choice::Use(backend) => {
            write4(&ctx, backend);
            PROCEED
        }
        Choice::Refuse => refuse(),
    }
}

/// connect() of an IPv6 socket, which may hold an IPv4 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let at = read6(&ctx);
    if let Some(at) = mapped(&at) {
        return match translate::<V4>(&ctx, at) {
            Choice::Keep => PROCEED,
            Choice::Use(backend) => {
                write_mapped(&ctx, backend);
                PROCEED
            }
            Choice::Refuse => refuse(),
        };
    }
    match translate::<V6>(&ctx, at) {
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
    let proto = protocol(ctx);
    if proto != proto::TCP && proto != proto::UDP {
        return Choice::Keep;
    }
    let choice = choose::<F>(ctx, &at, proto);
    if let Choice::Use(backend) = choice {
        F::remember_connected(ctx, backend, at);
        count(metric::CONNECTED);
    }
    choice
}
