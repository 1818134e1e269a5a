//! The reconciler against maps that are plain collections.

use informer::ObjectKey;

use super::*;
use crate::state::{Protocol, Target};

/// Maps in memory; clones share them, as processes share pinned maps.
#[derive(Clone, Default)]
struct Fake(std::rc::Rc<std::cell::RefCell<FakeMaps>>);

#[derive(Default)]
struct FakeMaps {
    services: HashMap<Frontend, abi::Service>,
    slots: BTreeMap<u32, SocketAddr>,
    nodes: BTreeMap<IpAddr, u32>,
    calls: Vec<String>,
    fail_puts: bool,
}

impl Kernel for Fake {
    fn slots(&self, _: Family) -> u32 {
        8
    }
    fn services(&self) -> Result<Vec<(Frontend, abi::Service)>, KernelError> {
        Ok(self.0.borrow().services.iter().map(|(frontend, service)| (*frontend, *service)).collect())
    }
    fn put_service(&mut self, frontend: &Frontend, service: &abi::Service) -> Result<(), KernelError> {
        let mut maps = self.0.borrow_mut();
        if maps.fail_puts {
            return Err(KernelError::for_test());
        }
        maps.calls.push(format!("flip {} -> {}+{}", frontend.port, service.base, service.count));
        maps.services.insert(*frontend, *service);
        Ok(())
    }
    fn delete_service(&mut self, frontend: &Frontend) -> Result<(), KernelError> {
        let mut maps = self.0.borrow_mut();
        maps.calls.push(format!("delete {}", frontend.port));
        maps.services.remove(frontend);
        Ok(())
    }
    fn backend(&self, _: Family, slot: u32) -> Result<SocketAddr, KernelError> {
        Ok(self.0.borrow().slots[&slot])
    }
    fn put_backend(&mut self, slot: u32, backend: &SocketAddr) -> Result<(), KernelError> {
        let mut maps = self.0.borrow_mut();
        maps.calls.push(format!("slot {slot} = {backend}"));
        maps.slots.insert(slot, *backend);
        Ok(())
    }
    fn forget_clients(&mut self, _: Family, gone: &HashSet<(u32, SocketAddr)>) -> Result<(), KernelError> {
        let gone: BTreeSet<_> = gone.iter().collect();
        self.0.borrow_mut().calls.push(format!("clients {gone:?}"));
        Ok(())
    }
    fn forget_senders(&mut self, _: Family, lost: &Lost) -> Result<(), KernelError> {
        self.0.borrow_mut().calls.push(format!("senders {lost}"));
        Ok(())
    }
    fn node_addresses(&self) -> Result<Vec<(IpAddr, u32)>, KernelError> {
        Ok(self.0.borrow().nodes.iter().map(|(address, kind)| (*address, *kind)).collect())
    }
    fn set_node_address(&mut self, address: IpAddr, kind: Option<u32>) -> Result<(), KernelError> {
        self.0.borrow_mut().calls.push(format!("node {address} {kind:?}"));
        Ok(())
    }
}

impl Fake {
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().calls)
    }
}

/// A Service with one port at 10.96.0.1 and the given backends (last octets).
fn wanted(protocol: Protocol, port: u16, backends: &[u8], affinity: u32) -> Desired {
    let set = SetKey { family: Family::V4, port: String::new(), protocol, local: false };
    let backends = backends.iter().map(|last| SocketAddr::from(([10, 0, 0, *last], 80))).collect();
    let address = Some(IpAddr::from([10, 96, 0, 1]));
    Desired {
        sets: BTreeMap::from([(set.clone(), backends)]),
        frontends: BTreeMap::from([(
            Frontend { family: Family::V4, address, port, protocol },
            Target { set, flags: 0, affinity },
        )]),
        draining: BTreeSet::new(),
    }
}

fn tcp(port: u16, backends: &[u8]) -> Desired {
    wanted(Protocol::Tcp, port, backends, 0)
}

fn key(name: &str) -> Owner {
    Owner::Service(ObjectKey::new("default", name))
}

fn started(fake: &Fake) -> Reconciler<Fake> {
    let mut reconciler = Reconciler::new(fake.clone()).unwrap();
    reconciler.finish_adoption().unwrap();
    reconciler
}

#[test]
fn a_start_writes_nothing_that_is_there() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    let all = [("a", tcp(1, &[1, 2])), ("b", tcp(2, &[])), ("c", tcp(3, &[3])), ("d", tcp(4, &[]))];
    for (name, desired) in &all {
        reconciler.apply(&key(name), desired).unwrap();
    }
    drop(reconciler);
    fake.calls();
    let mut reconciler = Reconciler::new(fake.clone()).unwrap();
    for (name, desired) in &all {
        reconciler.apply(&key(name), desired).unwrap();
    }
    reconciler.finish_adoption().unwrap();
    assert_eq!((fake.calls(), reconciler.writes()), (Vec::new(), 0));
    // And the slots of those that have backends are still theirs.
    reconciler.apply(&key("b"), &tcp(2, &[4])).unwrap();
    assert_eq!(fake.calls(), ["slot 3 = 10.0.0.4:80", "flip 2 -> 3+1"]);
}

#[test]
fn new_extent_then_flip_then_free() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    reconciler.apply(&key("a"), &tcp(1, &[1, 2])).unwrap();
    assert_eq!(fake.calls(), ["slot 0 = 10.0.0.1:80", "slot 1 = 10.0.0.2:80", "flip 1 -> 0+2"]);
    // Nothing changed: nothing written.
    reconciler.apply(&key("a"), &tcp(1, &[1, 2])).unwrap();
    assert_eq!(fake.calls(), [""; 0]);
    assert!(!reconciler.needs_cleaning());
    // Old slots are not used again until the grace period is over.
    reconciler.apply(&key("a"), &tcp(1, &[2])).unwrap();
    assert_eq!(fake.calls(), ["slot 2 = 10.0.0.2:80", "flip 1 -> 2+1"]);
    reconciler.apply(&key("b"), &tcp(2, &[3])).unwrap();
    assert_eq!(fake.calls(), ["slot 3 = 10.0.0.3:80", "flip 2 -> 3+1"]);
    assert!(reconciler.needs_cleaning());
    reconciler.clean().unwrap();
    assert_eq!(fake.calls(), [""; 0], "no client stayed with any of them: no map is walked through");
    reconciler.apply(&key("c"), &tcp(3, &[4, 5])).unwrap();
    assert_eq!(fake.calls(), ["slot 0 = 10.0.0.4:80", "slot 1 = 10.0.0.5:80", "flip 3 -> 0+2"]);
    // No backends: the entry stays, to refuse; deletion takes it away.
    reconciler.apply(&key("c"), &tcp(3, &[])).unwrap();
    assert_eq!(fake.calls(), ["flip 3 -> 0+0"]);
    reconciler.apply(&key("c"), &Desired::default()).unwrap();
    assert_eq!(fake.calls(), ["delete 3"]);
    assert_eq!(reconciler.known().len(), 2);
}

#[test]
fn adopts_what_an_earlier_process_wrote() {
    let fake = Fake::default();
    let mut first = started(&fake);
    first.apply(&key("a"), &tcp(1, &[1, 2])).unwrap();
    let sticky = |port, backends: &[u8]| wanted(Protocol::Tcp, port, backends, 60);
    first.apply(&key("b"), &sticky(2, &[3])).unwrap();
    first.apply(&key("gone"), &sticky(3, &[4])).unwrap();
    first.apply(&key("empty"), &tcp(4, &[])).unwrap();
    fake.calls();
    let mut second = Reconciler::new(fake.clone()).unwrap();
    second.apply(&key("a"), &tcp(1, &[1, 2])).unwrap();
    second.apply(&key("empty"), &tcp(4, &[])).unwrap();
    assert_eq!((second.writes(), fake.calls()), (0, vec![]), "unchanged entries are not rewritten");
    second.apply(&key("b"), &sticky(2, &[5])).unwrap();
    second.finish_adoption().unwrap();
    assert_eq!(fake.calls(), ["slot 4 = 10.0.0.5:80", "flip 2 -> 4+1", "delete 3"]);
    // Clients of what stays do not lose their backend: the set keeps its id.
    let ids: BTreeMap<_, _> = fake.0.borrow().services.iter().map(|(front, entry)| (front.port, entry.id)).collect();
    assert_eq!(ids, BTreeMap::from([(1, 1), (2, 2), (4, 4)]));
    second.clean().unwrap();
    assert_eq!(fake.calls(), ["clients {(2, 10.0.0.3:80), (3, 10.0.0.4:80)}"]);
    // Slots 2 and 3 are free again; 0, 1 and 4 are not.
    second.apply(&key("d"), &tcp(6, &[6, 7])).unwrap();
    assert_eq!(fake.calls(), ["slot 2 = 10.0.0.6:80", "slot 3 = 10.0.0.7:80", "flip 6 -> 2+2"]);
}

#[test]
fn clients_of_gone_backends_are_forgotten() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    reconciler.apply(&key("a"), &wanted(Protocol::Udp, 53, &[1, 2], 60)).unwrap();
    reconciler.apply(&key("a"), &wanted(Protocol::Udp, 53, &[2, 3], 60)).unwrap();
    fake.calls();
    reconciler.clean().unwrap();
    assert_eq!(fake.calls(), ["clients {(1, 10.0.0.1:80)}", "senders 10.96.0.1:53>10.0.0.1:80"]);
    // With the Service all of them go; and however much goes, each map is walked through once.
    reconciler.apply(&key("b"), &wanted(Protocol::Tcp, 1, &[7], 60)).unwrap();
    reconciler.apply(&key("b"), &tcp(1, &[7])).unwrap();
    reconciler.apply(&key("b"), &Desired::default()).unwrap();
    reconciler.apply(&key("a"), &Desired::default()).unwrap();
    fake.calls();
    reconciler.clean().unwrap();
    let clients = "clients {(1, 10.0.0.2:80), (1, 10.0.0.3:80), (2, 10.0.0.7:80)}";
    assert_eq!(fake.calls(), [clients, "senders 10.96.0.1:53>10.0.0.2:80 10.96.0.1:53>10.0.0.3:80"]);
}

#[test]
fn who_talks_to_a_draining_backend_goes_on_until_it_is_gone() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    let mut step = |backends: &[u8], draining: &[u8]| {
        let draining = draining.iter().map(|last| SocketAddr::from(([10, 0, 0, *last], 80))).collect();
        let desired = Desired { draining, ..wanted(Protocol::Udp, 53, backends, 0) };
        reconciler.apply(&key("a"), &desired).unwrap();
        fake.calls();
        reconciler.clean().unwrap();
        fake.calls()
    };
    let none = Vec::<String>::new();
    assert_eq!(step(&[1, 2, 3], &[]), none);
    assert_eq!(step(&[3], &[1, 2]), none, "two of them terminate and serve");
    assert_eq!(step(&[3, 4], &[1, 2]), none);
    assert_eq!(step(&[3, 4], &[2]), ["senders 10.96.0.1:53>10.0.0.1:80"], "one is gone, with no entry changed");
    assert_eq!(step(&[2, 3, 4], &[]), none, "a backend of that address is there again");
    assert_eq!(step(&[3, 4], &[2]), none);
    assert_eq!(step(&[], &[]), ["senders 10.96.0.1:53>10.0.0.2:80 10.96.0.1:53>10.0.0.3:80 10.96.0.1:53>10.0.0.4:80"]);
}

#[test]
fn one_frontend_has_one_owner() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    reconciler.apply(&key("a"), &tcp(1, &[1])).unwrap();
    reconciler.apply(&key("b"), &tcp(1, &[2])).unwrap();
    assert_eq!(fake.0.borrow().services.values().next().unwrap().base, 0);
    let freed = reconciler.apply(&key("a"), &Desired::default()).unwrap();
    assert_eq!(freed, BTreeSet::from([key("b")]));
    reconciler.apply(&key("b"), &tcp(1, &[2])).unwrap();
    assert_eq!(fake.0.borrow().services.values().next().unwrap().base, 1);
}

#[test]
fn failures_are_mended_by_the_next_try() {
    let fake = Fake::default();
    let mut reconciler = started(&fake);
    reconciler.apply(&key("a"), &tcp(1, &[1])).unwrap();
    fake.0.borrow_mut().fail_puts = true;
    for backends in [&[2][..], &[3, 4]] {
        assert!(matches!(reconciler.apply(&key("a"), &tcp(1, backends)), Err(ReconcileError::Kernel(_))));
    }
    fake.0.borrow_mut().fail_puts = false;
    reconciler.apply(&key("a"), &tcp(1, &[2])).unwrap();
    reconciler.clean().unwrap();
    let maps = fake.0.borrow();
    let entry = maps.services.values().next().unwrap();
    assert_eq!(maps.slots[&entry.base], "10.0.0.2:80".parse().unwrap());
    drop(maps);
    // One slot is in use, and no other is lost.
    reconciler.apply(&key("c"), &tcp(3, &[])).unwrap();
    reconciler.apply(&key("a"), &Desired::default()).unwrap();
    reconciler.clean().unwrap();
    reconciler.apply(&key("all"), &tcp(4, &[1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
    let full = reconciler.apply(&key("b"), &tcp(2, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    assert!(matches!(full, Err(ReconcileError::Full { count: 9, slots: 8, .. })), "{full:?}");
}

#[test]
fn a_crash_amid_a_change_leaves_nothing() {
    let fake = Fake::default();
    let mut first = started(&fake);
    let two = |backends: &[u8]| {
        let mut desired = wanted(Protocol::Udp, 53, backends, 0);
        desired.frontends.extend(wanted(Protocol::Udp, 54, backends, 0).frontends);
        desired
    };
    first.apply(&key("a"), &two(&[1, 2])).unwrap();
    // The end came when one of two frontends had been flipped.
    let before = fake.0.borrow().services.clone();
    first.apply(&key("a"), &two(&[2, 3])).unwrap();
    let stale = before.into_iter().find(|(frontend, _)| frontend.port == 54).unwrap();
    fake.0.borrow_mut().services.insert(stale.0, stale.1);
    let mut second = Reconciler::new(fake.clone()).unwrap();
    second.apply(&key("a"), &two(&[2, 3])).unwrap();
    second.finish_adoption().unwrap();
    second.clean().unwrap();
    let bases: BTreeSet<_> = fake.0.borrow().services.values().map(|entry| (entry.base, entry.count)).collect();
    assert_eq!(bases.len(), 1, "{bases:?}");
    second.apply(&key("b"), &tcp(1, &[1, 2, 3, 4])).unwrap();
    second.apply(&key("c"), &tcp(2, &[1, 2])).expect("no slot is lost");
}
