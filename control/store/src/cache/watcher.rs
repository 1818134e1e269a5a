//! One client's view of a cache's events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::entry::WatchEvent;
use super::watch_cache::{CacheError, Shared};
use crate::api::Revision;

/// Events handed out at once: enough to fill large buffers, few enough to let other tasks run.
const BATCH: usize = 512;
/// The same in bytes: what a client that does not read holds on to.
const BATCH_BYTES: usize = 256 << 10;
/// What a watcher reads of the store's history at once: it has it for itself.
const PAGE_BYTES: usize = 64 << 10;

/// A running watch. It holds an index into the cache's ring, no queue of its own. The ring waits for those who are slow, but
/// not for ever: who falls off its end gets [`CacheError::Lagged`], once and for all.
pub struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) announced: watch::Receiver<u64>,
    pub(super) prefix: Box<str>,
    /// Up to where the store's history was read, while that is older than the ring.
    pub(super) behind: Option<Revision>,
    /// Events from the store's history.
    pub(super) backlog: VecDeque<Arc<WatchEvent>>,
    /// The ring's index to go on from, which keeps the ring from forgetting what comes after it, within bounds.
    pub(super) next: Arc<AtomicU64>,
    /// Everything up to here has been delivered, or was not asked for.
    pub(super) after: Revision,
}

impl Watcher {
    /// The next events in order, at least one. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Vec<Arc<WatchEvent>>, CacheError> {
        loop {
            self.announced.borrow_and_update();
            if self.backlog.is_empty() {
                self.look_back().await?;
            }
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.behind.is_none() {
                self.announced.changed().await.map_err(|_| CacheError::Closed)?;
            }
        }
    }

    /// Reads on in the store's history, unless the ring goes back as far by now. The backlog must be empty.
    pub(super) async fn look_back(&mut self) -> Result<(), CacheError> {
        let Some(reached) = self.behind else { return Ok(()) };
        if self.join_ring(reached) {
            return Ok(());
        }
        let page = self.shared.store.history(&self.prefix, reached, PAGE_BYTES).await;
        let (events, reached) = page.map_err(|error| CacheError::of(error, reached))?;
        self.backlog = events.iter().map(|event| self.shared.event(event)).collect();
        self.behind = Some(reached);
        Ok(())
    }

    /// Goes on with the ring after the revision `reached`, if that is still there.
    fn join_ring(&mut self, reached: Revision) -> bool {
        // While the state is locked, the ring forgets nothing.
        let state = self.shared.state();
        if reached < state.ring.floor() {
            return false;
        }
        self.next.store(state.ring.index_after(reached), Ordering::Relaxed);
        (self.behind, self.after) = (None, reached);
        true
    }

    /// The events that are there, without waiting. (More of the store's history only [`next`](Self::next) fetches.)
    pub fn take(&mut self) -> Result<Vec<Arc<WatchEvent>>, CacheError> {
        if !self.backlog.is_empty() {
            let mut bytes = 0;
            let full = |event: &Arc<WatchEvent>| {
                let full = bytes >= BATCH_BYTES;
                bytes += event.entry.bytes.len();
                full
            };
            let count = self.backlog.iter().position(full).unwrap_or(self.backlog.len()).min(BATCH);
            let events: Vec<_> = self.backlog.drain(..count).collect();
            self.after = events.last().map_or(self.after, |event| event.revision());
            return Ok(events);
        }
        if self.behind.is_some() {
            return Ok(Vec::new());
        }
        let state = self.shared.state();
        let mut next = self.next.load(Ordering::Relaxed);
        let Some(fresh) = state.ring.since(next) else {
            // Nothing is kept for it any more.
            self.next.store(u64::MAX, Ordering::Relaxed);
            return Err(CacheError::Lagged);
        };
        let (mut events, mut bytes) = (Vec::new(), 0);
        for event in fresh {
            if events.len() == BATCH || bytes >= BATCH_BYTES {
                break;
            }
            next += 1;
            if event.revision() > self.after {
                self.after = event.revision();
                if event.entry.key.starts_with(&*self.prefix) {
                    bytes += event.entry.bytes.len();
                    events.push(event.clone());
                }
            }
        }
        self.next.store(next, Ordering::Relaxed);
        if events.is_empty() && state.closed {
            return Err(CacheError::Closed);
        }
        Ok(events)
    }

    /// Every event up to this revision has been delivered: what a bookmark may say. It advances while other resources
    /// are written.
    pub fn progress(&self) -> Revision {
        let state = self.shared.state();
        if self.backlog.is_empty() && self.next.load(Ordering::Relaxed) == state.ring.end() {
            self.after.max(self.shared.revision())
        } else {
            self.after
        }
    }
}
