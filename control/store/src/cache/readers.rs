//! How far the watchers of a cache have read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::hub::lock;

/// The indexes that watchers will read next. A watcher leaves by being dropped.
#[derive(Default)]
pub(super) struct Readers {
    indexes: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Readers {
    /// Adds a watcher that will read `index` next.
    pub(super) fn join(&self, index: u64) -> Arc<AtomicU64> {
        let next = Arc::new(AtomicU64::new(index));
        let mut indexes = lock(&self.indexes);
        // Each place is looked at once for a watcher that comes, however many there are.
        if indexes.len() == indexes.capacity() {
            indexes.retain(|index| index.strong_count() > 0);
            let room = indexes.len() + 1;
            indexes.reserve(room);
        }
        indexes.push(Arc::downgrade(&next));
        next
    }

    /// What the slowest watcher will read next; the end of all if there is none.
    pub(super) fn lowest(&self) -> u64 {
        let indexes = lock(&self.indexes);
        indexes.iter().filter_map(Weak::upgrade).map(|index| index.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_and_who_left_does_not() {
        let readers = Readers::default();
        assert_eq!(readers.lowest(), u64::MAX);
        let (slow, quick) = (readers.join(3), readers.join(7));
        assert_eq!(readers.lowest(), 3);
        slow.store(5, Ordering::Relaxed);
        assert_eq!(readers.lowest(), 5);
        drop(slow);
        assert_eq!(readers.lowest(), 7);
        for index in 0..1_000 {
            readers.join(index);
        }
        assert!(lock(&readers.indexes).len() < 16, "those that left take no room");
        assert_eq!(quick.load(Ordering::Relaxed), readers.lowest());
    }
}
