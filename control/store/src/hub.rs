//! Fan-out of committed writes from a store to its watchers.
//!
//! A [`WatchStream`] is a queue that the store fills before it acknowledges a write. It is drained by whoever comes first:
//! the task that waits for it, or a reader that needs the newest state and does not want to wait for that task.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use crate::api::{Result, Revision, StoreError, StoreEvent};

/// Events a stream holds before it is cut off. A cut-off stream is resumed from the store's history.
const QUEUE_LIMIT: usize = 65_536;

/// The watchers of one store.
pub(crate) struct Hub {
    streams: Mutex<Vec<Weak<Queue>>>,
    /// Revision of the newest write that may be read. It precedes the events of that write, so that who has seen an event
    /// reads no older state; set under the lock of `streams`, so that who subscribes after reading it gets no older events.
    committed: AtomicU64,
    published: watch::Sender<Revision>,
}

/// What a store has sent and its user has not yet taken.
struct Queue {
    prefix: Box<str>,
    state: Mutex<State>,
    /// Revision of the newest event ever put into this queue.
    newest: AtomicU64,
    ready: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Arc<StoreEvent>>,
    lagged: bool,
    closed: bool,
}

/// A running watch over a prefix of a store.
pub struct WatchStream {
    queue: Arc<Queue>,
    published: watch::Receiver<Revision>,
}

impl Hub {
    /// A hub whose store stands at `revision`.
    pub(crate) fn new(revision: Revision) -> Hub {
        Hub { streams: Mutex::default(), committed: AtomicU64::new(revision), published: watch::Sender::new(revision) }
    }

    /// The newest revision that may be read.
    pub(crate) fn committed(&self) -> Revision {
        self.committed.load(Ordering::Acquire)
    }

    /// Registers a watcher. Everything after the returned revision will be in its queue; what the caller wants from
    /// before, it adds with [`WatchStream::prepend`].
    pub(crate) fn subscribe(&self, prefix: &str) -> (WatchStream, Revision) {
        let mut streams = lock(&self.streams);
        let since = *self.published.borrow();
        let queue = Arc::new(Queue {
            prefix: prefix.into(),
            state: Mutex::default(),
            newest: AtomicU64::new(since),
            ready: Notify::new(),
        });
        streams.push(Arc::downgrade(&queue));
        (WatchStream { queue, published: self.published.subscribe() }, since)
    }

    /// Hands committed writes, in order, to every watcher that they concern.
    pub(crate) fn publish(&self, events: &[Arc<StoreEvent>]) {
        let Some(last) = events.last() else { return };
        let mut streams = lock(&self.streams);
        self.committed.store(last.revision(), Ordering::Release);
        streams.retain(|stream| {
            let Some(queue) = stream.upgrade() else { return false };
            queue.push(events);
            true
        });
        // After the queues: who sees this revision finds its events there.
        self.published.send_replace(last.revision());
    }

    /// The store stands at `revision`, and of how it came there not everything may have been published: all watchers are cut
    /// off, to resume from the store's history.
    pub(crate) fn resume_at(&self, revision: Revision) {
        let mut streams = lock(&self.streams);
        self.committed.store(revision, Ordering::Release);
        for queue in streams.drain(..).filter_map(|stream| stream.upgrade()) {
            lock(&queue.state).lagged = true;
            queue.newest.store(revision, Ordering::Release);
            queue.ready.notify_one();
        }
        self.published.send_replace(revision);
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        for queue in lock(&self.streams).drain(..).filter_map(|stream| stream.upgrade()) {
            lock(&queue.state).closed = true;
            queue.ready.notify_one();
        }
    }
}

impl Queue {
    fn push(&self, events: &[Arc<StoreEvent>]) {
        let mut mine = events.iter().filter(|event| event.object.key.starts_with(&*self.prefix)).peekable();
        if mine.peek().is_none() {
            return;
        }
        let mut state = lock(&self.state);
        for event in mine {
            if state.events.len() >= QUEUE_LIMIT {
                state.lagged = true;
            }
            self.newest.store(event.revision(), Ordering::Release);
            if !state.lagged {
                state.events.push_back(event.clone());
            }
        }
        drop(state);
        self.ready.notify_one();
    }
}

impl WatchStream {
    /// Puts events from the store's history in front of the live ones.
    pub(crate) fn prepend(&self, history: Vec<StoreEvent>) {
        if history.is_empty() {
            return;
        }
        let mut state = lock(&self.queue.state);
        for event in history.into_iter().rev() {
            state.events.push_front(Arc::new(event));
        }
        drop(state);
        self.queue.ready.notify_one();
    }

    /// Takes what is there, without waiting.
    ///
    /// [`StoreError::Lagged`] comes once the events that were kept are taken: watch again from the last one's revision.
    pub fn take(&self) -> Result<Vec<Arc<StoreEvent>>> {
        let mut state = lock(&self.queue.state);
        if !state.events.is_empty() {
            return Ok(std::mem::take(&mut state.events).into());
        }
        match (state.lagged, state.closed) {
            (true, _) => Err(StoreError::Lagged),
            (_, true) => Err(StoreError::Closed),
            _ => Ok(Vec::new()),
        }
    }

    /// Waits until [`take`](Self::take) has something to say. At most one task may wait.
    pub async fn ready(&self) {
        loop {
            {
                let state = lock(&self.queue.state);
                if !state.events.is_empty() || state.lagged || state.closed {
                    return;
                }
            }
            self.queue.ready.notified().await;
        }
    }

    /// The next events; waits for at least one.
    pub async fn next(&self) -> Result<Vec<Arc<StoreEvent>>> {
        loop {
            self.ready().await;
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// How far the store is: `(published, newest)`. Who has taken and applied this stream's events up to `newest` knows
    /// the state of its prefix as of `published`.
    pub fn progress(&self) -> (Revision, Revision) {
        // In this order: an event is counted in `newest` before its revision is published.
        let published = *self.published.borrow();
        (published, self.queue.newest.load(Ordering::Acquire))
    }
}

impl WatchStream {
    /// Changes with every revision that the store publishes, whatever its prefix.
    pub(crate) fn published(&self) -> watch::Receiver<Revision> {
        self.published.clone()
    }
}

/// A poisoned lock only says that a panic was reported elsewhere; the queues are consistent at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
