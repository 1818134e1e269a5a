//! The cache itself: fed by the store, read by requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use supervise::Backoff;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::entry::{Entry, Extractor, WatchEvent};
use super::load::load;
use super::map::{Map, Snapshot};
use super::readers::Readers;
use super::ring::Ring;
use super::watcher::Watcher;
use crate::api::{EventKind, Revision, Store, StoreError, StoreEvent};
use crate::hub::{WatchStream, lock};

/// Announcements a second under load; each wakes every watcher once, for all events since the one before.
const ANNOUNCEMENTS_PER_SECOND: f64 = 200.0;
/// Announcements that may follow each other at once after a quiet time.
const ANNOUNCEMENT_BURST: f64 = 20.0;

/// How a cache is made.
#[derive(Clone)]
pub struct CacheOptions {
    /// Names of the selectable fields, e.g. `spec.nodeName`.
    pub fields: Vec<String>,
    /// Reads labels and those fields, in that order, out of an object's bytes.
    pub extract: Extractor,
    /// Events kept for watchers.
    pub max_events: usize,
    /// The memory that they may take, shared with other caches.
    pub budget: Arc<Budget>,
    /// Where the cache's task is spawned.
    pub tasks: TaskTracker,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// Why a cache cannot serve a read or a watch.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The watcher did not keep up. The client lists and watches anew (410).
    #[error("the watch fell behind and was cut off")]
    Lagged,
    /// The revision's history is gone (410).
    #[error("revision {requested} has been compacted; the oldest available is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be had.
        oldest: Revision,
    },
    /// The revision is not reached yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The server is stopping.
    #[error("the cache is closed")]
    Closed,
    /// The store failed.
    #[error("reading from the store")]
    Store(#[source] StoreError),
}

/// One resource's objects and events, below one prefix of the store. Clones share them.
#[derive(Clone)]
pub struct WatchCache {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    prefix: Box<str>,
    field_names: Arc<[String]>,
    extract: Extractor,
    /// Whoever holds it applies events. Taken before `state`, never after.
    feed: Mutex<Arc<WatchStream>>,
    state: RwLock<State>,
    /// The state is that of this revision. Written under `feed`.
    revision: AtomicU64,
    /// Tells the task that a reader applied events which are not announced yet, or could not.
    unannounced: Notify,
    /// Events were taken from the stream and, because of a panic, not applied.
    torn: AtomicBool,
    announced: watch::Sender<u64>,
    readers: Readers,
    budget: Arc<Budget>,
}

pub(super) struct State {
    map: Map,
    pub(super) ring: Ring,
    pub(super) closed: bool,
}

/// Notes that a panic came between taking events and applying them, and wakes the task, which reads them again.
struct Applying<'a>(&'a Shared);

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.torn.store(true, Ordering::Release);
            self.0.unannounced.notify_one();
        }
    }
}

impl CacheOptions {
    /// At most 8,192 events.
    pub fn new(
        fields: Vec<String>,
        extract: Extractor,
        budget: Arc<Budget>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> CacheOptions {
        CacheOptions { fields, extract, max_events: 8_192, budget, tasks, shutdown }
    }
}

impl WatchCache {
    /// Loads everything below `prefix` (which ends in a slash) and follows the store from there.
    pub async fn start(store: Arc<dyn Store>, prefix: &str, options: CacheOptions) -> Result<WatchCache, CacheError> {
        let field_names: Arc<[String]> = options.fields.into();
        let loaded = load(&store, prefix, &field_names, &options.extract).await?;
        let shared = Arc::new(Shared {
            store,
            prefix: prefix.into(),
            field_names,
            extract: options.extract,
            feed: Mutex::new(Arc::new(loaded.stream)),
            state: RwLock::new(State {
                map: loaded.map,
                ring: Ring::new(loaded.floor, loaded.recent, options.max_events, options.budget.clone()),
                closed: false,
            }),
            revision: AtomicU64::new(loaded.revision),
            unannounced: Notify::new(),
            torn: AtomicBool::new(false),
            announced: watch::Sender::new(0),
            readers: Readers::default(),
            budget: options.budget,
        });
        shared.budget.join(&shared);
        shared.budget.enforce();
        let state = (shared.clone(), options.shutdown.clone());
        supervise::spawn("watch cache", &options.tasks, &options.shutdown, state, |(shared, shutdown)| {
            Box::pin(run(shared, shutdown))
        });
        Ok(WatchCache { shared })
    }

    /// The prefix that the cache holds.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// The entry at `key`, with every write that was acknowledged before this call.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.shared.catch_up();
        self.shared.state().map.get(key).cloned()
    }

    /// All entries, with every write that was acknowledged before this call.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.catch_up();
        let state = self.shared.state();
        state.map.snapshot(self.shared.revision())
    }

    /// The store's revision that the cache has reached, with every write that was acknowledged before this call.
    pub fn revision(&self) -> Revision {
        self.shared.catch_up();
        self.shared.revision()
    }

    /// Waits until the cache has reached `revision`. The caller bounds the time.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), CacheError> {
        let mut announced = self.shared.announced.subscribe();
        loop {
            let mut published = lock(&self.shared.feed).published();
            published.borrow_and_update();
            self.shared.catch_up();
            if self.shared.revision() >= revision {
                return Ok(());
            }
            if self.shared.state().closed {
                return Err(CacheError::Closed);
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| CacheError::Closed)?,
                changed = announced.changed() => changed.map_err(|_| CacheError::Closed)?,
            }
        }
    }

    /// All entries as they were at an older revision: from recent events, or else from the store's history.
    pub async fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, CacheError> {
        let current = self.snapshot();
        if revision > current.revision() {
            return Err(CacheError::Future { requested: revision, current: current.revision() });
        }
        if let Some(snapshot) = self.shared.undone_to(revision) {
            return Ok(snapshot);
        }
        let page = self.shared.store.list(&self.shared.prefix, None, 0, Some(revision)).await;
        let mut map = Map::default();
        for stored in &page.map_err(|error| CacheError::of(error, revision))?.items {
            map.insert(Arc::new(Entry::new(stored, &self.shared.field_names, &self.shared.extract)));
        }
        Ok(map.snapshot(revision))
    }

    /// The present state and a watch of everything after it, below `prefix` (which may be longer than the cache's).
    pub fn subscribe(&self, prefix: &str) -> (Snapshot, Watcher) {
        self.shared.catch_up();
        let state = self.shared.state();
        let snapshot = state.map.snapshot(self.shared.revision());
        let watcher = self.watcher(prefix, &state, state.ring.end(), snapshot.revision());
        (snapshot, watcher)
    }

    /// A watch of everything after the revision `after` (`None`: from now on), exactly once. What the cache has already
    /// forgotten comes from the store's history, page by page, as long as that goes back far enough.
    pub async fn watch(&self, after: Option<Revision>, prefix: &str) -> Result<Watcher, CacheError> {
        let Some(after) = after else { return Ok(self.subscribe(prefix).1) };
        self.shared.catch_up();
        let mut watcher = {
            let state = self.shared.state();
            if after >= state.ring.floor() {
                return Ok(self.watcher(prefix, &state, state.ring.index_after(after), after));
            }
            self.watcher(prefix, &state, u64::MAX, after)
        };
        watcher.behind = Some(after);
        watcher.look_back().await?;
        Ok(watcher)
    }

    /// The state is locked, so that nothing from `next` on can have been forgotten yet.
    fn watcher(&self, prefix: &str, _: &State, next: u64, after: Revision) -> Watcher {
        Watcher {
            announced: self.shared.announced.subscribe(),
            shared: self.shared.clone(),
            prefix: prefix.into(),
            behind: None,
            backlog: VecDeque::new(),
            next: self.shared.readers.join(next),
            after,
        }
    }
}

impl CacheError {
    pub(super) fn of(error: StoreError, requested: Revision) -> CacheError {
        match error {
            StoreError::Compacted { oldest } => CacheError::Compacted { requested, oldest },
            StoreError::Future { current } => CacheError::Future { requested, current },
            StoreError::Closed => CacheError::Closed,
            StoreError::Lagged => CacheError::Lagged,
            error => CacheError::Store(error),
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Applies what the store has sent, for a reader. An error is the task's to handle; until then the cache stands at the
    /// revision that it tells.
    fn catch_up(&self) {
        let stream = lock(&self.feed);
        let ((published, newest), applied) = (stream.progress(), self.revision());
        if newest <= applied {
            self.revision.store(published.max(applied), Ordering::Release);
        } else if !matches!(self.apply(&stream), Ok(false)) {
            self.unannounced.notify_one();
        }
    }

    /// Applies what the stream holds; tells whether there was anything. The caller holds `feed`.
    fn apply(&self, stream: &WatchStream) -> Result<bool, StoreError> {
        let (published, newest) = stream.progress();
        let applied = self.revision();
        if self.torn.load(Ordering::Acquire) {
            return Err(StoreError::Lagged);
        }
        let _applying = Applying(self);
        let events = stream.take()?;
        let Some(last) = events.last().map(|event| event.revision()) else {
            // A resumed stream counts from where it was made, with or without events before that.
            self.revision.store(published.max(applied), Ordering::Release);
            return Ok(false);
        };
        // Entries are made before the lock is taken; only who holds `feed` changes the map.
        let fresh: Vec<_> = events.iter().map(|event| self.entry(event)).collect();
        let mut state = self.state_mut();
        for (event, entry) in events.iter().zip(fresh) {
            let previous = match event.kind {
                EventKind::Deleted => state.map.remove(&entry.key),
                _ => state.map.insert(entry.clone()),
            };
            state.ring.push(Arc::new(WatchEvent { kind: event.kind, entry, previous }));
        }
        state.ring.shorten(self.readers.lowest());
        drop(state);
        self.budget.enforce();
        self.revision.store(if last >= newest { published.max(last) } else { last }, Ordering::Release);
        Ok(true)
    }

    /// Forgets the oldest events, up to a revision, until the budget is kept.
    pub(super) fn forget(&self, until: Option<Revision>) {
        self.state_mut().ring.forget(until, self.readers.lowest());
    }

    fn entry(&self, event: &StoreEvent) -> Arc<Entry> {
        Arc::new(Entry::new(&event.object, &self.field_names, &self.extract))
    }

    /// An event of the store's history.
    pub(super) fn event(&self, event: &StoreEvent) -> Arc<WatchEvent> {
        Arc::new(WatchEvent::of(event, &self.field_names, &self.extract))
    }

    /// The state at an older revision, if the ring goes back that far.
    fn undone_to(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.state();
        if revision < state.ring.floor() {
            return None;
        }
        let mut map = state.map.clone();
        for event in state.ring.since(state.ring.index_after(revision))?.rev() {
            match &event.previous {
                Some(previous) => map.insert(previous.clone()),
                None => map.remove(&event.entry.key),
            };
        }
        Some(map.snapshot(revision))
    }

    /// Wakes the watchers if there is something they were not told of.
    fn announce(&self) -> bool {
        let end = self.state().ring.end();
        self.announced.send_if_modified(|told| std::mem::replace(told, end) != end)
    }

    /// Follows the store again after the stream was cut off: from its history, or by loading everything anew, which cuts
    /// off all watchers.
    async fn resume(&self) -> Result<(), StoreError> {
        let from = self.revision();
        match self.store.watch(&self.prefix, from).await {
            Ok(stream) => {
                *lock(&self.feed) = Arc::new(stream);
                self.torn.store(false, Ordering::Release);
            }
            Err(StoreError::Compacted { oldest }) => {
                tracing::warn!(prefix = %self.prefix, from, oldest, "the watch cache fell behind the store; loading anew");
                let loaded = load(&self.store, &self.prefix, &self.field_names, &self.extract).await;
                let loaded = loaded.map_err(|error| match error {
                    CacheError::Store(error) => error,
                    _ => StoreError::Closed,
                })?;
                let mut feed = lock(&self.feed);
                let mut state = self.state_mut();
                state.map = loaded.map;
                state.ring.reset(loaded.floor, loaded.recent);
                self.revision.store(loaded.revision, Ordering::Release);
                *feed = Arc::new(loaded.stream);
                self.torn.store(false, Ordering::Release);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn close(&self) {
        self.state_mut().closed = true;
        self.announced.send_modify(|_| ());
    }
}

/// The cache's task: applies events that no reader has applied, announces them, and resumes a stream that was cut off.
async fn run(shared: &Shared, shutdown: &CancellationToken) {
    let mut pace = Pace::new();
    let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        let stream = lock(&shared.feed).clone();
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = stream.ready() => {}
            () = shared.unannounced.notified() => {}
        }
        let applied = shared.apply(&lock(&shared.feed));
        match applied {
            Ok(_) => retry.reset(),
            Err(StoreError::Closed) => break,
            Err(StoreError::Lagged) => {
                if let Err(error) = shared.resume().await {
                    tracing::error!(prefix = %shared.prefix, %error, "the watch cache cannot follow the store; trying again");
                    shared.unannounced.notify_one();
                    if !retry.wait(shutdown).await {
                        break;
                    }
                }
            }
            Err(error) => tracing::error!(prefix = %shared.prefix, %error, "the watch cache's stream failed"),
        }
        if shared.announce() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = pace.wait() => {}
            }
        }
    }
    shared.close();
}

/// Spaces announcements under load, so that many watchers are woken for many events at once and not for each of them. After
/// a quiet time there is no delay.
struct Pace {
    credit: f64,
    at: Instant,
}

impl Pace {
    fn new() -> Pace {
        Pace { credit: ANNOUNCEMENT_BURST, at: Instant::now() }
    }

    async fn wait(&mut self) {
        let now = Instant::now();
        let earned = (now - self.at).as_secs_f64() * ANNOUNCEMENTS_PER_SECOND;
        self.credit = (self.credit + earned).min(ANNOUNCEMENT_BURST) - 1.0;
        self.at = now;
        if self.credit < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.credit / ANNOUNCEMENTS_PER_SECOND)).await;
        }
    }
}
