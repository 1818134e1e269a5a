//! Makes the maps say what is wanted, touching nothing that says it already.
//!
//! A changed set of backends gets a new extent of slots; then the frontends are flipped to it, one atomic write each;
//! then, after a grace period in which no program can still hold the old value, the old extent is free. At start the
//! kernel's entries are read, and a set whose backends are in the kernel already is adopted where it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::extents::Extents;
use crate::kernel::{Kernel, KernelError};
use crate::lost::Lost;
use crate::state::{Desired, Family, Frontend, Owner, SetKey};

/// Why entries could not be put in the maps.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A system call failed.
    #[error("a kernel map refused an operation")]
    Kernel(#[from] KernelError),
    /// More backends than the array has slots.
    #[error("no room for {count} more backends in the kernel's {family:?} array of {slots} slots")]
    Full {
        /// How many were to be added.
        count: usize,
        /// To which array.
        family: Family,
        /// Its size.
        slots: u32,
    },
}

/// Backends as they are in the kernel.
#[derive(Clone, Debug)]
struct Extent {
    base: u32,
    id: u32,
    /// Whether clients stay, or once stayed, with its backends.
    affine: bool,
    /// In ascending order.
    backends: Vec<SocketAddr>,
}

/// An extent that was in the kernel at start: its family, the id of its set, its first slot. While a set changes, two
/// extents have its id.
type Orphan = (Family, u32, u32);

/// What is no longer wanted, to be cleaned up after the grace period.
#[derive(Debug)]
struct Retired {
    family: Family,
    base: u32,
    count: u32,
    /// Id of the set.
    set: u32,
    affine: bool,
    /// Backends that the set has no more, in ascending order.
    gone: Vec<SocketAddr>,
}

/// What one owner has in the kernel.
#[derive(Debug, Default)]
struct Applied {
    sets: BTreeMap<SetKey, Extent>,
    /// Former extents of sets that could not be taken out of use yet: some frontend may still lead there.
    replaced: Vec<(SetKey, Extent)>,
    frontends: BTreeSet<Frontend>,
    /// Ways of datagrams that nobody new takes, to backends that still serve who took them.
    lingering: Vec<(Frontend, SocketAddr)>,
}

/// Mirror of the maps, and what it takes to change them.
pub(crate) struct Reconciler<K> {
    kernel: K,
    /// Every frontend in the kernel.
    entries: HashMap<Frontend, abi::Service>,
    /// Extents that are not adopted yet.
    orphans: HashMap<Orphan, Extent>,
    services: HashMap<Owner, Applied>,
    owners: HashMap<Frontend, Owner>,
    /// Those that want a frontend which another has.
    rivals: HashMap<Frontend, BTreeSet<Owner>>,
    free: BTreeMap<Family, Extents>,
    nodes: BTreeMap<IpAddr, u32>,
    next_set: u32,
    retired: Vec<Retired>,
    lost: Lost,
    adopting: bool,
    writes: u64,
}

impl<K: Kernel> Reconciler<K> {
    /// Reads what the kernel has.
    pub(crate) fn new(kernel: K) -> Result<Self, ReconcileError> {
        let entries: HashMap<_, _> = kernel.services()?.into_iter().collect();
        let mut free: BTreeMap<_, _> =
            [Family::V4, Family::V6].map(|family| (family, Extents::new(kernel.slots(family)))).into();
        let mut orphans = HashMap::<Orphan, Extent>::new();
        for (frontend, service) in &entries {
            let count = u32::from(service.count);
            let family = frontend.family;
            let (base, id, affine) = (service.base, service.id, service.affinity != 0);
            if let Some(orphan) = orphans.get_mut(&(family, id, base)) {
                orphan.affine |= affine;
                continue;
            }
            let end = service.base.saturating_add(count).min(kernel.slots(family));
            let backends: Result<Vec<_>, _> = (service.base..end).map(|slot| kernel.backend(family, slot)).collect();
            orphans.insert((family, id, base), Extent { base, id, affine, backends: backends? });
            free.get_mut(&family).expect("both families are there").claim(service.base, count);
        }
        let next_set = entries.values().map(|service| service.id).max().map_or(1, |id| id + 1);
        let nodes = kernel.node_addresses()?.into_iter().collect();
        Ok(Self {
            kernel,
            entries,
            orphans,
            services: HashMap::new(),
            owners: HashMap::new(),
            rivals: HashMap::new(),
            free,
            nodes,
            next_set,
            retired: Vec::new(),
            lost: Lost::default(),
            adopting: true,
            writes: 0,
        })
    }

    /// How many entries have been written or removed since the start.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// Whoever has something in the kernel, or wants a frontend that another has.
    pub(crate) fn known(&self) -> Vec<Owner> {
        self.services.keys().cloned().collect()
    }

    /// Makes one owner's entries so. Returns those whose wishes can be fulfilled now.
    pub(crate) fn apply(&mut self, key: &Owner, desired: &Desired) -> Result<BTreeSet<Owner>, ReconcileError> {
        let mut before = self.services.remove(key).unwrap_or_default();
        if self.adopting {
            self.adopt(desired, &mut before);
        }
        let mut after = Applied::default();
        let result = self.apply_parts(key, desired, &mut before, &mut after);
        // After a failure, what is in the kernel stays known, so that a later try mends it.
        if result.is_err() {
            after.frontends.append(&mut before.frontends);
            after.replaced = before.replaced;
            for (set, extent) in before.sets {
                match after.sets.get(&set) {
                    None => drop(after.sets.insert(set, extent)),
                    Some(new) if new.base != extent.base => after.replaced.push((set, extent)),
                    Some(_) => {}
                }
            }
        }
        if !after.frontends.is_empty() || !after.sets.is_empty() {
            self.services.insert(key.clone(), after);
        }
        result
    }

    fn apply_parts(
        &mut self,
        key: &Owner,
        desired: &Desired,
        before: &mut Applied,
        after: &mut Applied,
    ) -> Result<BTreeSet<Owner>, ReconcileError> {
        for (frontend, backend) in std::mem::take(&mut before.lingering) {
            let target = desired.frontends.get(&frontend).map(|target| &desired.sets[&target.set]);
            if desired.draining.contains(&backend) {
                after.lingering.push((frontend, backend));
            } else if target.is_none_or(|backends| backends.binary_search(&backend).is_err()) {
                self.lost.add(frontend, backend);
            }
        }
        for (set, backends) in &desired.sets {
            let extent = self.place(set, backends, before)?;
            after.sets.insert(set.clone(), extent);
        }
        for (frontend, target) in &desired.frontends {
            let owner = self.owners.entry(*frontend).or_insert_with(|| key.clone());
            if owner != key {
                tracing::warn!(wanted_by = %key, %owner, ?frontend, "an address and port has another owner already");
                self.rivals.entry(*frontend).or_default().insert(key.clone());
                continue;
            }
            after.frontends.insert(*frontend);
            let extent = after.sets.get_mut(&target.set).expect("every frontend's set is there");
            extent.affine |= target.affinity != 0;
            let count = u16::try_from(extent.backends.len()).unwrap_or(u16::MAX);
            let value = abi::Service {
                base: extent.base,
                count,
                flags: target.flags,
                id: extent.id,
                affinity: target.affinity,
            };
            if self.entries.get(frontend) != Some(&value) {
                self.kernel.put_service(frontend, &value)?;
                self.writes += 1;
                if let Some(old) = self.entries.insert(*frontend, value) {
                    let kept = extent.backends.clone();
                    let gone = self.gone(frontend, &old, before, &kept);
                    self.lose(*frontend, gone, desired, after);
                }
            }
            before.frontends.remove(frontend);
        }
        let mut freed = BTreeSet::new();
        while let Some(frontend) = before.frontends.first().copied() {
            self.kernel.delete_service(&frontend)?;
            before.frontends.remove(&frontend);
            self.writes += 1;
            if let Some(old) = self.entries.remove(&frontend) {
                let gone = self.gone(&frontend, &old, before, &[]);
                self.lose(frontend, gone, desired, after);
            }
            self.owners.remove(&frontend);
            freed.extend(self.rivals.remove(&frontend).unwrap_or_default());
        }
        self.retire_replaced(before, after);
        freed.remove(key);
        Ok(freed)
    }

    /// Takes over what an earlier process had put in the kernel for these sets, as if this one had.
    fn adopt(&mut self, desired: &Desired, before: &mut Applied) {
        for (frontend, target) in &desired.frontends {
            let Some(entry) = self.entries.get(frontend) else { continue };
            if !before.sets.contains_key(&target.set)
                && let Some(extent) = self.orphans.remove(&(frontend.family, entry.id, entry.base))
            {
                before.sets.insert(target.set.clone(), extent);
            }
        }
    }

    /// Where the backends are: where they were, or in a new extent.
    fn place(&mut self, set: &SetKey, backends: &[SocketAddr], before: &Applied) -> Result<Extent, ReconcileError> {
        let old = before.sets.get(set);
        if let Some(extent) = old.filter(|extent| extent.backends == backends) {
            return Ok(extent.clone());
        }
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let full =
            || ReconcileError::Full { count: backends.len(), family: set.family, slots: self.kernel.slots(set.family) };
        let free = self.free.get_mut(&set.family).expect("both families are there");
        let base = free.take(count).ok_or_else(full)?;
        for (slot, backend) in (base..).zip(backends) {
            if let Err(error) = self.kernel.put_backend(slot, backend) {
                free.give(base, count);
                return Err(error.into());
            }
            self.writes += 1;
        }
        let id = match old {
            Some(extent) => extent.id,
            None => {
                self.next_set += 1;
                self.next_set - 1
            }
        };
        Ok(Extent { base, id, affine: old.is_some_and(|old| old.affine), backends: backends.to_vec() })
    }

    /// Takes notice that a frontend leads to these backends no more: the ways there are lost, or will be.
    fn lose(&mut self, frontend: Frontend, gone: Vec<SocketAddr>, desired: &Desired, after: &mut Applied) {
        for backend in gone {
            if desired.draining.contains(&backend) {
                after.lingering.push((frontend, backend));
            } else {
                self.lost.add(frontend, backend);
            }
        }
    }

    /// Backends that a frontend led to by its old entry, without those kept, which are in ascending order.
    fn gone(&self, frontend: &Frontend, old: &abi::Service, before: &Applied, kept: &[SocketAddr]) -> Vec<SocketAddr> {
        let former = before.sets.iter().chain(before.replaced.iter().map(|(set, extent)| (set, extent)));
        let of_family = former.filter(|(set, _)| set.family == frontend.family).map(|(_, extent)| extent);
        // What an earlier process did not come to may be an orphan still.
        let orphan = self.orphans.get(&(frontend.family, old.id, old.base));
        let count = usize::from(old.count);
        let extent = of_family.chain(orphan).find(|extent| extent.base == old.base && extent.backends.len() == count);
        let backends = extent.map_or(&[][..], |extent| &extent.backends);
        backends.iter().filter(|backend| kept.binary_search(backend).is_err()).copied().collect()
    }

    fn retire_replaced(&mut self, before: &mut Applied, after: &Applied) {
        let former = std::mem::take(&mut before.sets).into_iter().chain(before.replaced.drain(..));
        for (set, old) in former {
            let new = after.sets.get(&set);
            if new.is_some_and(|new| new.base == old.base && new.backends.len() == old.backends.len()) {
                continue;
            }
            let kept: &[SocketAddr] = new.map_or(&[], |new| &new.backends);
            let gone = old.backends.iter().filter(|backend| kept.binary_search(backend).is_err()).copied().collect();
            self.retired.push(retired(set.family, &old, gone));
        }
    }

    /// After the first pass over every owner: what the kernel has and nobody wanted goes.
    pub(crate) fn finish_adoption(&mut self) -> Result<(), ReconcileError> {
        self.adopting = false;
        let unwanted: Vec<_> =
            self.entries.keys().filter(|frontend| !self.owners.contains_key(frontend)).copied().collect();
        let nobody = Applied::default();
        for frontend in unwanted {
            self.kernel.delete_service(&frontend)?;
            self.writes += 1;
            if let Some(old) = self.entries.remove(&frontend) {
                for backend in self.gone(&frontend, &old, &nobody, &[]) {
                    self.lost.add(frontend, backend);
                }
            }
        }
        for ((family, _, _), orphan) in self.orphans.drain() {
            let gone = orphan.backends.clone();
            self.retired.push(retired(family, &orphan, gone));
        }
        Ok(())
    }

    /// Whether a grace period is needed before [`Reconciler::clean`].
    pub(crate) fn needs_cleaning(&self) -> bool {
        !self.retired.is_empty() || !self.lost.is_empty()
    }

    /// Frees what was replaced, and forgets which clients went there. Call it only when a grace period has passed since.
    /// Returns the ways by which sockets may be connected that lead nowhere now.
    pub(crate) fn clean(&mut self) -> Result<Lost, ReconcileError> {
        self.lost.at_nodes(self.nodes.keys());
        for family in [Family::V4, Family::V6] {
            // However much has changed, each map is walked through once.
            let affine = self.retired.iter().filter(|retired| retired.family == family && retired.affine);
            let clients: HashSet<_> =
                affine.flat_map(|retired| retired.gone.iter().map(|backend| (retired.set, *backend))).collect();
            if !clients.is_empty() {
                self.kernel.forget_clients(family, &clients)?;
            }
            if self.lost.is_of(family) {
                self.kernel.forget_senders(family, &self.lost)?;
            }
        }
        for retired in self.retired.drain(..) {
            let free = self.free.get_mut(&retired.family).expect("both families are there");
            free.give(retired.base, retired.count);
        }
        Ok(std::mem::take(&mut self.lost))
    }

    /// The maps.
    pub(crate) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Makes the node addresses so.
    pub(crate) fn apply_nodes(&mut self, wanted: &BTreeMap<IpAddr, u32>) -> Result<(), ReconcileError> {
        let stale: Vec<_> = self.nodes.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in stale {
            self.kernel.set_node_address(address, None)?;
            self.nodes.remove(&address);
            self.writes += 1;
        }
        for (address, kind) in wanted {
            if self.nodes.get(address) != Some(kind) {
                self.kernel.set_node_address(*address, Some(*kind))?;
                self.nodes.insert(*address, *kind);
                self.writes += 1;
            }
        }
        Ok(())
    }
}

fn retired(family: Family, old: &Extent, gone: Vec<SocketAddr>) -> Retired {
    let count = u32::try_from(old.backends.len()).unwrap_or(u32::MAX);
    Retired { family, base: old.base, count, set: old.id, affine: old.affine, gone }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
