//! Choosing a backend: the same for connect and sendmsg, IPv4 and IPv6.

use abi::{AffinityKey, Service, metric, node_address, service_flag, setting};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_set_retval},
    programs::SockAddrContext,
};

use crate::{
    family::Family,
    maps::{SETTINGS, count},
};

/// What a hook returns to let the call go on.
pub const PROCEED: i32 = 1;
/// What a hook returns to end the call with an error.
const REJECT: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// What is to become of a destination.
pub enum Choice<E> {
    /// Not a service: leave it alone.
    Keep,
    /// Go to this backend instead.
    Use(E),
    /// A service without backends.
    Refuse,
}

/// Looks the destination up, and chooses among the service's backends.
#[inline(always)]
pub fn choose<F: Family>(ctx: &SockAddrContext, at: &F::Endpoint, proto: u8) -> Choice<F::Endpoint> {
    let service = match F::service(at, proto) {
        Some(service) => service,
        None => match node_port::<F>(ctx, at, proto) {
            Some(service) => service,
            None => return Choice::Keep,
        },
    };
    if service.count == 0 {
        count(metric::NO_BACKEND);
        return Choice::Refuse;
    }
    pick::<F>(ctx, service)
}

/// Ends the system call as if a host had answered that nobody listens.
#[inline(always)]
pub fn refuse() -> i32 {
    // SAFETY: allowed in connect and sendmsg hooks, which alone call this.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REJECT
}

#[inline(always)]
fn node_port<F: Family>(ctx: &SockAddrContext, at: &F::Endpoint, proto: u8) -> Option<&'static Service> {
    let kind = F::node_address(at)?;
    let service = F::node_port(at, proto)?;
    // In a pod, loopback is the pod's own.
    if kind == node_address::LOOPBACK && Some(&netns(ctx)) != SETTINGS.get(setting::NETNS_COOKIE) {
        return None;
    }
    if kind == node_address::REMOTE && service.flags & service_flag::EXTERNAL_LOCAL != 0 {
        return None;
    }
    Some(service)
}

#[inline(always)]
fn pick<F: Family>(ctx: &SockAddrContext, service: &Service) -> Choice<F::Endpoint> {
    if service.affinity == 0 {
        return random::<F>(service);
    }
    let key = AffinityKey { client: netns(ctx), service: service.id, pad: 0 };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if let Some(backend) = F::affine(&key, now, u64::from(service.affinity) * 1_000_000_000) {
        count(metric::AFFINITY);
        return Choice::Use(backend);
    }
    let choice = random::<F>(service);
    if let Choice::Use(backend) = choice {
        F::remember_affinity(&key, backend, now);
    }
    choice
}

#[inline(always)]
fn random<F: Family>(service: &Service) -> Choice<F::Endpoint> {
    // SAFETY: takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    // A multiplication instead of a remainder: no division, and the verifier sees no zero divisor.
    let offset = (u64::from(random) * u64::from(service.count)) >> 32;
    match F::backend(service.base.wrapping_add(offset as u32)) {
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
