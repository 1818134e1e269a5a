//! The maps, all pinned by name, so that a new loader finds what an old one left.
//!
//! Hash maps of services are not preallocated: most clusters use a small part of what the largest may need.

use abi::{Affinity, AffinityKey, Connected, Endpoint, SentKey, Service, ServiceKey, V4, V6, metric, setting};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};

/// Frontends over IPv4.
#[map]
pub static SERVICES4: HashMap<ServiceKey<V4>, Service> = HashMap::pinned(131_072, BPF_F_NO_PREALLOC);
/// Backends over IPv4, in extents that [`Service::base`] points at.
#[map]
pub static BACKENDS4: Array<Endpoint<V4>> = Array::pinned(262_144, 0);
/// Backends that unconnected IPv4 sockets have sent to → the frontend they meant, and the other way round.
#[map]
pub static REVERSE4: LruHashMap<SentKey<V4>, Endpoint<V4>> = LruHashMap::pinned(32_768, 0);
/// Session affinity over IPv4.
#[map]
pub static AFFINITY4: LruHashMap<AffinityKey, Affinity<V4>> = LruHashMap::pinned(32_768, 0);
/// Addresses that node ports answer on, over IPv4.
#[map]
pub static NODES4: HashMap<V4, u32> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
/// What a connected IPv4 socket was asked for; goes with the socket.
#[btf_map(pin_by_name)]
pub static CONNECTED4: SkStorage<Connected<V4>> = SkStorage::new();

/// Frontends over IPv6.
#[map]
pub static SERVICES6: HashMap<ServiceKey<V6>, Service> = HashMap::pinned(131_072, BPF_F_NO_PREALLOC);
/// Backends over IPv6.
#[map]
pub static BACKENDS6: Array<Endpoint<V6>> = Array::pinned(65_536, 0);
/// Backends that unconnected IPv6 sockets have sent to → the frontend they meant, and the other way round.
#[map]
pub static REVERSE6: LruHashMap<SentKey<V6>, Endpoint<V6>> = LruHashMap::pinned(16_384, 0);
/// Session affinity over IPv6.
#[map]
pub static AFFINITY6: LruHashMap<AffinityKey, Affinity<V6>> = LruHashMap::pinned(16_384, 0);
/// Addresses that node ports answer on, over IPv6.
#[map]
pub static NODES6: HashMap<V6, u32> = HashMap::pinned(16_384, BPF_F_NO_PREALLOC);
/// What a connected IPv6 socket was asked for; goes with the socket.
#[btf_map(pin_by_name)]
pub static CONNECTED6: SkStorage<Connected<V6>> = SkStorage::new();

/// Counters, indexed by [`abi::metric`].
#[map]
pub static METRICS: PerCpuArray<u64> = PerCpuArray::pinned(metric::COUNT, 0);
/// What the loader tells the programs, indexed by [`abi::setting`].
#[map]
pub static SETTINGS: Array<u64> = Array::pinned(setting::COUNT, 0);

/// Whether this kernel lets a program say with which error a call ends; the loader sets it. Linux 5.18 and later do. Its
/// verifier follows no branch that a constant excludes, so one that does not know the helper never meets the call.
#[unsafe(no_mangle)]
pub static SETS_ERRORS: Global<u8> = Global::new(1);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(metric: u32) {
    if let Some(counter) = METRICS.get_ptr_mut(metric) {
        // SAFETY: a pointer into a per-CPU map; no other CPU writes it, and sock_addr programs do not nest on one.
        unsafe { *counter += 1 };
    }
}
