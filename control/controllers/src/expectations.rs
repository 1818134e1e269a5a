//! What a controller has asked for and not seen yet.
//!
//! The informer is always a little behind. A controller that created three pods and looks again before they arrive would
//! create three more; so it notes what it expects and does not count again until that has come, or too long a time has passed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this time something went wrong (a watch event lost in a restart), and what is there counts.
const TIMEOUT: Duration = Duration::from_secs(300);

/// By the uid of who expects: what comes to an object is nothing to another of its name.
#[derive(Default)]
pub(crate) struct Expectations(Mutex<HashMap<String, Expected>>);

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
    pub(crate) fn satisfied(&self, of: &str) -> bool {
        self.all().get(of).is_none_or(|expected| expected.since.elapsed() > TIMEOUT)
    }

    pub(crate) fn expect(&self, of: &str, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.all().insert(of.to_owned(), expected);
    }

    /// `count` creations came, or will not come. Whether they were the last of what was expected.
    pub(crate) fn created(&self, of: &str, count: usize) -> bool {
        self.came(of, |expected| {
            let before = expected.creations;
            expected.creations = before.saturating_sub(count);
            before != expected.creations
        })
    }

    /// A deletion came, or will not come. Whether it was the last of what was expected.
    pub(crate) fn deleted(&self, of: &str, uid: &str) -> bool {
        self.came(of, |expected| expected.deletions.remove(uid))
    }

    /// Who expected is gone.
    pub(crate) fn forget(&self, of: &str) {
        self.all().remove(of);
    }

    fn came(&self, of: &str, change: impl FnOnce(&mut Expected) -> bool) -> bool {
        let mut all = self.all();
        let last = all.get_mut(of).is_some_and(|expected| change(expected) && expected.is_complete());
        if last {
            all.remove(of);
        }
        last
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn satisfied_when_all_came() {
        let (expectations, key) = (Expectations::default(), "a");
        assert!(expectations.satisfied(key));
        assert!(!expectations.created(key, 1), "nothing was expected");
        expectations.expect(key, 2, []);
        assert!(!expectations.created(key, 1));
        assert!(!expectations.satisfied(key));
        assert!(expectations.created(key, 1), "the last one");
        assert!(expectations.satisfied(key));
        assert!(!expectations.created(key, 1), "one more");
        assert!(expectations.all().is_empty(), "nothing is kept of what has come");
        expectations.expect(key, 0, ["u".to_owned()]);
        assert!(expectations.satisfied("b"));
        assert!(!expectations.deleted(key, "other"));
        assert!(!expectations.satisfied(key));
        assert!(expectations.deleted(key, "u"), "the last one");
        assert!(expectations.satisfied(key));
    }
}
