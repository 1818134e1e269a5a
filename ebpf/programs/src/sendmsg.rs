//! sendmsg4 and sendmsg6: datagrams of sockets that are not connected.
//!
//! What a socket sends to one frontend goes to one backend, for as long as the service has it: a conversation of several
//! datagrams is one to its peer. (Loops of send and receive, as QUIC's, TFTP's and many a resolver's, do not connect.)
//!
//! An IPv4-mapped destination of an IPv6 socket arrives at sendmsg4: the kernel unwraps it before the hook.

use abi::{V4, V6, metric, proto, sent_flag};
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
    let maps = A::maps();
    let mut is_first = false;
    let choice = choose(ctx, &at, proto::UDP, || {
        let earlier = maps.sent(ctx, sent_flag::FORTH, at);
        is_first = earlier.is_none();
        earlier
    });
    if let Choice::Use(backend) = choice {
        maps.remember_sent(ctx, sent_flag::BACK, backend, at);
        // Only what was chosen just now: what was known may be gone, and being forgotten at this moment.
        if is_first {
            maps.remember_sent(ctx, sent_flag::FORTH, at, backend);
        }
        count(metric::SENT);
    }
    choice.carry_out(ctx, A::write)
}
