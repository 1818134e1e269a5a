//! The host's resolvers, as its resolv.conf names them, and which of them answer.
//!
//! Only the `nameserver` lines count: `options` such as `timeout`, `attempts` and `rotate` tell the host's own programs how
//! to ask, and names are complete when they come here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::cidr::Cidr;

/// Queries in a row that a resolver may leave unanswered: names that are slow to find, and lost datagrams.
const MISSES: u32 = 3;
/// How long a resolver that does not answer comes last. One query tries it again then.
const REST: Duration = Duration::from_secs(10);

/// The resolvers of a resolv.conf, read again when the file has changed.
#[derive(Debug)]
pub(super) struct Resolvers {
    path: PathBuf,
    port: u16,
    /// The cluster's own ranges: a resolver there is this very server, which would ask itself for ever.
    own: Vec<Cidr>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the file had changed as it was read (or that it was not there); `None` before that.
    read: Option<Option<SystemTime>>,
    listed: Vec<SocketAddr>,
    /// Of those that did not answer last.
    health: BTreeMap<SocketAddr, Health>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    misses: u32,
    /// It comes last until then.
    rests: Option<Instant>,
}

impl Resolvers {
    /// Resolvers on the given port, which is 53 outside tests.
    pub(super) fn new(path: PathBuf, port: u16, own: Vec<Cidr>) -> Self {
        Self { path, port, own, known: Mutex::default() }
    }

    /// Whom to ask, in the file's order; those that do not answer come last.
    pub(super) fn order(&self) -> Vec<SocketAddr> {
        let changed = Some(std::fs::metadata(&self.path).and_then(|data| data.modified()).ok());
        let mut known = self.known();
        if known.read != changed {
            known.read = changed;
            match std::fs::read_to_string(&self.path) {
                Ok(text) => known.list(self.usable(&text)),
                // Said once, not for each query; those that were known are used on.
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot read the host's resolvers");
                }
            }
        }
        known.order(Instant::now())
    }

    fn usable(&self, text: &str) -> Vec<SocketAddr> {
        let (own, others): (Vec<_>, Vec<_>) =
            name_servers(text).into_iter().partition(|ip| self.own.iter().any(|range| range.contains(ip)));
        for ip in own {
            tracing::warn!(path = %self.path.display(), %ip, "a resolver of the host is the cluster's own: left out");
        }
        others.into_iter().map(|ip| (ip, self.port).into()).collect()
    }

    /// Takes notice that a resolver answers.
    pub(super) fn answered(&self, resolver: SocketAddr) {
        let before = self.known().health.remove(&resolver);
        if before.is_some_and(|health| health.rests.is_some()) {
            tracing::info!(%resolver, "a resolver of the host answers again");
        }
    }

    /// Takes notice that a resolver left a query unanswered; it may be slow, or the name.
    pub(super) fn missed(&self, resolver: SocketAddr) {
        self.count(resolver, 1, &"no answer");
    }

    /// Takes notice that a resolver cannot be asked.
    pub(super) fn failed(&self, resolver: SocketAddr, why: &dyn Display) {
        self.count(resolver, MISSES, why);
    }

    fn count(&self, resolver: SocketAddr, misses: u32, why: &dyn Display) {
        if self.known().count(resolver, misses, Instant::now()) {
            tracing::warn!(%resolver, %why, "a resolver of the host does not answer; others are asked first");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn list(&mut self, listed: Vec<SocketAddr>) {
        self.health.retain(|resolver, _| listed.contains(resolver));
        self.listed = listed;
    }

    /// Gives whether the resolver comes last from now on, and did not before.
    fn count(&mut self, resolver: SocketAddr, misses: u32, now: Instant) -> bool {
        let health = self.health.entry(resolver).or_default();
        health.misses = health.misses.saturating_add(misses);
        health.misses >= MISSES && health.rests.replace(now + REST).is_none()
    }

    fn order(&mut self, now: Instant) -> Vec<SocketAddr> {
        let Self { listed, health, .. } = self;
        let (first, last): (Vec<_>, Vec<_>) = listed.iter().partition(|resolver| match health.get_mut(resolver) {
            Some(Health { rests: Some(until), .. }) if *until > now => false,
            Some(Health { rests: Some(until), .. }) => {
                // This query finds out; the others need not wait for the same.
                *until = now + REST;
                true
            }
            _ => true,
        });
        [first, last].concat()
    }
}

/// The `nameserver` lines; a scope (`fe80::1%eth0`) is left off, as it cannot be asked without.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    lines
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# c\nsearch x\nnameserver 10.0.0.53\n  nameserver\t::1 # c\nnameserver fe80::1%eth0\nnameserverx 1.1.1.1\n";
        let found: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53", "::1"]);
    }

    #[test]
    fn never_asks_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let resolvers = Resolvers::new(path, 53, vec!["10.96.0.0/16".parse().unwrap()]);
        let order = || resolvers.order().iter().map(ToString::to_string).collect::<Vec<_>>();
        let (one, two) = ("192.0.2.1:53", "192.0.2.2:53");
        assert_eq!(order(), [one, two]);
        resolvers.failed(one.parse().unwrap(), &"refused");
        assert_eq!(order(), [two, one]);
        resolvers.answered(one.parse().unwrap());
        assert_eq!(order(), [one, two]);
    }

    #[test]
    fn who_does_not_answer_comes_last_for_a_while() {
        let (one, two) = ("192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap());
        let mut known = Known { listed: vec![one, two], ..Known::default() };
        let begun = Instant::now();
        for _ in 1..MISSES {
            assert!(!known.count(one, 1, begun));
            assert_eq!(known.order(begun), [one, two], "a slow name is no slow resolver");
        }
        assert!(known.count(one, 1, begun), "that is told");
        assert!(!known.count(one, 1, begun), "once");
        assert_eq!(known.order(begun + REST / 2), [two, one]);
        assert_eq!(known.order(begun + REST), [one, two], "one query tries it again");
        assert_eq!(known.order(begun + REST), [two, one], "and no other");
        assert!(!known.count(one, 1, begun + REST));
        assert_eq!(known.order(begun + REST * 3 / 2), [two, one]);
        assert_eq!(known.order(begun + REST * 2), [one, two]);
        known.list(vec![two]);
        assert_eq!((known.order(begun), known.health.len()), (vec![two], 0));
    }
}
