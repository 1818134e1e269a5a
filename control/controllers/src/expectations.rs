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

impl Expected {
    fn is_complete(&self) -> bool {
        self.creations == 0 && self.deletions.is_empty()
    }
}

impl Expectations {
    /// Whether all that was expected has come.
    pub(crate) fn satisfied(&self, key: &ObjectKey) -> bool {
        self.all().get(key).is_none_or(|expected| expected.is_complete() || expected.since.elapsed() > TIMEOUT)
    }

    pub(crate) fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.all().insert(key.clone(), expected);
    }

    /// `count` creations came, or will not come. Whether they were the last of what was expected.
    pub(crate) fn created(&self, key: &ObjectKey, count: usize) -> bool {
        let mut all = self.all();
        let Some(expected) = all.get_mut(key).filter(|expected| expected.creations > 0) else { return false };
        expected.creations = expected.creations.saturating_sub(count);
        expected.is_complete()
    }

    /// A deletion came, or will not come. Whether it was the last of what was expected.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) -> bool {
        let mut all = self.all();
        all.get_mut(key).is_some_and(|expected| expected.deletions.remove(uid) && expected.is_complete())
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
        assert!(!expectations.created(&key, 1), "nothing was expected");
        expectations.expect(&key, 2, []);
        assert!(!expectations.created(&key, 1));
        assert!(!expectations.satisfied(&key));
        assert!(expectations.created(&key, 1), "the last one");
        assert!(expectations.satisfied(&key));
        assert!(!expectations.created(&key, 1), "one more");
        expectations.expect(&key, 0, ["u".to_owned()]);
        assert!(!expectations.deleted(&key, "other"));
        assert!(!expectations.satisfied(&key));
        assert!(expectations.deleted(&key, "u"), "the last one");
        assert!(expectations.satisfied(&key));
    }
}
