//! The memory that recent events and objects in another encoding may take, for all caches together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::forms::{Forms, SHARE};
use super::watch_cache::Shared;
use crate::hub::lock;

/// A bound in bytes that caches share. When it is passed, the oldest events go first, whichever cache has them: all of them
/// remember back to about the same moment. Events that a watcher has yet to read may pass it [`SLACK`](super::ring::SLACK) times.
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// What of it are objects in another encoding.
    used_by_forms: AtomicUsize,
    forms: Mutex<Forms>,
    caches: Mutex<Vec<Weak<Shared>>>,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("limit", &self.limit).field("used", &self.used()).finish_non_exhaustive()
    }
}

impl Budget {
    /// A bound of so many bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
            used_by_forms: AtomicUsize::new(0),
            forms: Mutex::default(),
            caches: Mutex::default(),
        })
    }

    /// The bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn join(&self, cache: &Arc<Shared>) {
        let mut caches = lock(&self.caches);
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(Arc::downgrade(cache));
    }

    pub(super) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn forms(&self) -> &Mutex<Forms> {
        &self.forms
    }

    pub(super) fn take_form(&self, bytes: usize) {
        self.take(bytes);
        self.used_by_forms.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back_form(&self, bytes: usize) {
        self.give_back(bytes);
        self.used_by_forms.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether forms have more than their share.
    pub(super) fn forms_exceeded(&self) -> bool {
        self.used_by_forms.load(Ordering::Relaxed) > self.limit / SHARE
    }

    /// The limit, so many times over, is passed.
    pub(super) fn is_exceeded(&self, times: usize) -> bool {
        self.used() > self.limit.saturating_mul(times)
    }

    /// Forgets the oldest events until the rest fits. No cache's state may be locked by the caller.
    pub(super) fn enforce(&self) {
        if !self.is_exceeded(1) {
            return;
        }
        // One at a time: two would forget twice as much as need be.
        let caches = lock(&self.caches);
        let caches: Vec<_> = caches.iter().filter_map(Weak::upgrade).collect();
        let oldest = |number: usize| caches[number].state().ring.oldest().map(|revision| Reverse((revision, number)));
        let mut rings: BinaryHeap<_> = (0..caches.len()).filter_map(oldest).collect();
        while self.is_exceeded(1)
            && let Some(popped @ Reverse((_, number))) = rings.pop()
        {
            let until = rings.peek().map(|Reverse((revision, _))| *revision);
            caches[number].forget(until);
            // Whose oldest event stays is waiting for its watchers.
            rings.extend(oldest(number).filter(|now| *now != popped));
        }
    }
}
