//! Choosing a backend: the same for connect and sendmsg, IPv4 and IPv6.

use abi::{AffinityKey, Endpoint, Service, metric, node_address, service_flag, setting};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_set_retval},
    programs::SockAddrContext,
};

use crate::{
    family::Family,
    maps::{SETS_ERRORS, SETTINGS, count},
};

/// What a hook returns to let the call go on.
pub const PROCEED: i32 = 1;
/// What a hook returns to end the call with an error.
const REJECT: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// What is to become of a destination.
pub enum Choice<A: Family> {
    /// Not a service: leave it alone.
    Keep,
    /// Go to this backend instead.
    Use(Endpoint<A>),
    /// A service without backends.
    Refuse,
}

impl<A: Family> Choice<A> {
    /// Makes it so; gives what the hook returns. A refusal ends the system call as if a host had answered that nobody
    /// listens; where a program cannot say so, the socket is sent where nobody ever listens.
    #[inline(always)]
    pub fn carry_out(self, ctx: &SockAddrContext, write: fn(&SockAddrContext, Endpoint<A>)) -> i32 {
        match self {
            Self::Keep => PROCEED,
            Self::Use(backend) => {
                write(ctx, backend);
                PROCEED
            }
            Self::Refuse if SETS_ERRORS.load() != 0 => {
                // SAFETY: allowed in connect and sendmsg hooks, which alone call this.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
                REJECT
            }
            Self::Refuse => {
                write(ctx, Endpoint { addr: A::LOOPBACK, port: 0, flags: 0, pad: A::Pad::default() });
                PROCEED
            }
        }
    }
}

/// Looks the destination up, and chooses among the service's backends; `earlier` is where this socket's last one went.
#[inline(always)]
pub fn choose<A: Family>(
    ctx: &SockAddrContext,
    at: &Endpoint<A>,
    proto: u8,
    earlier: impl FnOnce() -> Option<Endpoint<A>>,
) -> Choice<A> {
    let Some(service) = find(ctx, at, proto) else { return Choice::Keep };
    if service.count == 0 {
        count(metric::NO_BACKEND);
        return Choice::Refuse;
    }
    pick(ctx, service, earlier)
}

/// The service at this destination, as seen from this socket.
#[inline(always)]
fn find<A: Family>(ctx: &SockAddrContext, at: &Endpoint<A>, proto: u8) -> Option<&'static Service> {
    let maps = A::maps();
    let exact = maps.service(at, proto);
    if let Some(service) = exact
        && service.flags & service_flag::HOST_PORT == 0
    {
        return exact;
    }
    let kind = maps.node_address(at.addr);
    // In a pod, loopback is the pod's own.
    if kind == Some(node_address::LOOPBACK) && Some(&netns(ctx)) != SETTINGS.get(setting::NETNS_COOKIE) {
        return None;
    }
    if exact.is_some() {
        return exact;
    }
    let kind = kind?;
    let service = maps.node_port(at.port, proto)?;
    let not_elsewhere = service_flag::EXTERNAL_LOCAL | service_flag::HOST_PORT;
    if kind == node_address::REMOTE && service.flags & not_elsewhere != 0 {
        return None;
    }
    Some(service)
}

#[inline(always)]
fn pick<A: Family>(
    ctx: &SockAddrContext,
    service: &Service,
    earlier: impl FnOnce() -> Option<Endpoint<A>>,
) -> Choice<A> {
    if service.affinity == 0 {
        return earlier().map_or_else(|| random(service), Choice::Use);
    }
    let key = AffinityKey { client: netns(ctx), service: service.id, pad: 0 };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if let Some(backend) = A::maps().affine(&key, now, u64::from(service.affinity) * 1_000_000_000) {
        count(metric::AFFINITY);
        return Choice::Use(backend);
    }
    let choice = random(service);
    if let Choice::Use(backend) = choice {
        A::maps().remember_affinity(&key, backend, now);
    }
    choice
}

#[inline(always)]
fn random<A: Family>(service: &Service) -> Choice<A> {
    // SAFETY: takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    // A multiplication instead of a remainder: no division, and the verifier sees no zero divisor.
    let offset = (u64::from(random) * u64::from(service.count)) >> 32;
    match A::maps().backend(service.base.wrapping_add(offset as u32)) {
        Some(backend) => Choice::Use(backend),
        None => {
            count(metric::BROKEN);
            Choice::Refuse
        }
    }
}

#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid, and this helper exists at every hook used here.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}
