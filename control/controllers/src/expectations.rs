//! What a controller has asked for and not seen yet.
//!
//! The informer is always a little behind. A controller that created three pods and looks again before they arrive would
//! create three more; so it notes what it expects and does not count again until that has come, or too long a time has passed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use informer::ObjectKey;

/// After this time something went wrong (a watch event lost in a restart), and what is there counts.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<ObjectKey, Expected>>);

struct Expected {
    creations: usize,
    /// Uids.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Whether all that was expected has come.
    pub(crate) fn satisfied(&self, key: &ObjectKey) -> bool {
        self.all().get(key).is_none_or(|expected| {
            (expected.creations == 0 && expected.deletions.is_empty()) || expected.since.elapsed() > TIMEOUT
        })
    }

    pub(crate) fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.all().insert(key.clone(), expected);
    }

    /// `count` creations came, or will not come.
    pub(crate) fn created(&self, key: &ObjectKey, count: usize) {
        if let Some(expected) = self.all().get_mut(key) {
            expected.creations = expected.creations.saturating_sub(count);
        }
    }

    /// A deletion came, or will not come.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) {
        if let Some(expected) = self.all().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.all().remove(key);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ObjectKey, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn satisfied_when_all_came() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("ns", "a"));
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, []);
        expectations.created(&key, 1);
        assert!(!expectations.satisfied(&key));
        expectations.created(&key, 1);
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 0, ["u".to_owned()]);
        expectations.deleted(&key, "other");
        assert!(!expectations.satisfied(&key));
        expectations.deleted(&key, "u");
        assert!(expectations.satisfied(&key));
    }
}
