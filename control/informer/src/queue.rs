//! From changes to reconciliations: a queue of keys, written once for all controllers.
//!
//! A key waiting is not queued twice; a key being worked on is queued again only when it was added meanwhile, and never
//! worked on by two at once.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);
/// How long the end of a reconciliation is of interest to [`Queue::add_spaced`].
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long reconciliations under way may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What a key may be.
pub trait Key: Clone + Eq + Hash + Ord + Send + Sync + std::fmt::Debug + 'static {}
impl<K: Clone + Eq + Hash + Ord + Send + Sync + std::fmt::Debug + 'static> Key for K {}

/// What is left to do after a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// Look again after this time, whatever happens.
    RequeueAfter(Duration),
}

/// A queue of keys. Clones share it.
pub struct Queue<K>(Arc<Inner<K>>);

struct Inner<K> {
    name: &'static str,
    state: Mutex<State<K>>,
    wake: Notify,
    failures: AtomicU64,
}

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when its worker is done.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// When each delayed key is due; an entry of `timers` that says otherwise is outdated.
    due: HashMap<K, Instant>,
    timers: BinaryHeap<Reverse<(Instant, K)>>,
    tries: HashMap<K, u32>,
    /// When the last reconciliation ended of keys that are added by [`Queue::add_spaced`].
    ended: HashMap<K, Instant>,
}

// === impl Queue ===

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue; `name` appears in logs.
    pub fn new(name: &'static str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            due: HashMap::new(),
            timers: BinaryHeap::new(),
            tries: HashMap::new(),
            ended: HashMap::new(),
        };
        Self(Arc::new(Inner { name, state: Mutex::new(state), wake: Notify::new(), failures: AtomicU64::new(0) }))
    }

    /// Queues a key, unless it waits already.
    pub fn add(&self, key: K) {
        if self.state().add(key) {
            self.0.wake.notify_one();
        }
    }

    /// Queues a key after a time; the earliest time asked for counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state().delay(key, Instant::now() + delay);
        self.0.wake.notify_one();
    }

    /// Queues a key at once, unless it was reconciled a moment ago: then after `gap`, so that the changes that follow a first
    /// one are looked at together.
    pub fn add_spaced(&self, key: K, gap: Duration) {
        let mut state = self.state();
        let due = if gap.is_zero() { None } else { state.spaced(&key, gap) };
        let Some(due) = due else {
            drop(state);
            return self.add(key);
        };
        state.delay(key, due);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Queues a key after its back-off: 5 ms, doubled at every try, up to 1000 s.
    pub fn add_rate_limited(&self, key: K) {
        let delay = self.state().backoff(&key);
        self.add_after(key, delay);
    }

    /// Resets a key's back-off.
    pub fn forget(&self, key: &K) {
        self.state().tries.remove(key);
    }

    /// How often the key was added by [`Queue::add_rate_limited`] since it was last forgotten.
    pub fn tries(&self, key: &K) -> u32 {
        self.state().tries.get(key).copied().unwrap_or_default()
    }

    /// The next key to work on. Its worker must call [`Queue::done`]. Dropping the future loses nothing.
    pub async fn next(&self) -> K {
        loop {
            // Listen before looking, or a key added in between would wake nobody.
            let wake = self.0.wake.notified();
            let timer = {
                let mut state = self.state();
                state.fire(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return key;
                }
                state.timers.peek().map(|Reverse((due, _))| *due)
            };
            match timer {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, wake).await;
                }
                None => wake.await,
            }
        }
    }

    /// Ends the work on a key; it is queued again if it was added meanwhile.
    pub fn done(&self, key: &K) {
        if self.state().done(key) {
            self.0.wake.notify_one();
        }
    }

    /// How many keys wait now (delayed ones not counted).
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Whether no key waits now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many reconciliations failed, panics included.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish<E: Display>(&self, key: &K, outcome: Result<Result<Action, E>, Box<dyn Any + Send>>) {
        let name = self.0.name;
        match outcome {
            Ok(Ok(Action::Done)) => self.forget(key),
            Ok(Ok(Action::RequeueAfter(delay))) => {
                self.forget(key);
                self.add_after(key.clone(), delay);
            }
            Ok(Err(error)) => {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                if self.tries(key) < 5 {
                    tracing::debug!(queue = name, ?key, %error, "reconciliation failed, trying again");
                } else {
                    tracing::warn!(queue = name, ?key, %error, "reconciliation keeps failing, trying again");
                }
                self.add_rate_limited(key.clone());
            }
            Err(panic) => {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(queue = name, ?key, "reconciliation panicked, trying again");
                supervise::panicked(name, &*panic);
                self.add_rate_limited(key.clone());
            }
        }
        self.done(key);
    }
}

// === impl State ===

impl<K: Key> State<K> {
    /// Whether a worker should wake.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &K) -> bool {
        self.working.remove(key);
        if let Some(ended) = self.ended.get_mut(key) {
            *ended = Instant::now();
        }
        let again = self.dirty.contains(key);
        if again {
            self.ready.push_back(key.clone());
        }
        again
    }

    /// When `gap` will have passed since the key's last reconciliation, or since this was first asked if it is under way; none
    /// if it has passed.
    fn spaced(&mut self, key: &K, gap: Duration) -> Option<Instant> {
        let now = Instant::now();
        if let Some(ended) = self.ended.get(key) {
            return Some(*ended + gap).filter(|due| *due > now);
        }
        if self.ended.len() == self.ended.capacity() {
            self.ended.retain(|_, ended| now - *ended < REMEMBERED);
            self.ended.reserve(self.ended.len() + 1);
        }
        self.ended.insert(key.clone(), now);
        None
    }

    fn delay(&mut self, key: K, due: Instant) {
        if self.due.get(&key).is_some_and(|known| *known <= due) {
            return;
        }
        self.due.insert(key.clone(), due);
        self.timers.push(Reverse((due, key)));
    }

    /// Moves what is due to `ready`, and forgets outdated timers at the top.
    fn fire(&mut self, now: Instant) {
        while let Some(Reverse((due, key))) = self.timers.peek() {
            let outdated = self.due.get(key) != Some(due);
            if *due > now && !outdated {
                return;
            }
            let Some(Reverse((_, key))) = self.timers.pop() else { return };
            if !outdated {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn backoff(&mut self, key: &K) -> Duration {
        let tries = self.tries.entry(key.clone()).or_default();
        let delay = BACKOFF_MIN.saturating_mul(1 << (*tries).min(20)).min(BACKOFF_MAX);
        *tries += 1;
        delay
    }
}

/// Works the queue off until `shutdown`, at most `parallelism` keys at once. A failed or panicked key is tried again after
/// its back-off. At shutdown reconciliations under way are given a moment to end.
pub fn run<K, F, W, E>(
    queue: Queue<K>,
    parallelism: usize,
    reconcile: F,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) where
    K: Key,
    F: Fn(K) -> W + Send + Sync + 'static,
    W: Future<Output = Result<Action, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    tasks.spawn(async move {
        let mut workers = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = workers.join_next(), if !workers.is_empty() => {}
                key = queue.next(), if workers.len() < parallelism => {
                    let (queue, reconcile) = (queue.clone(), Arc::clone(&reconcile));
                    workers.spawn(async move {
                        let work = AssertUnwindSafe(async { Box::pin(reconcile(key.clone())).await });
                        queue.finish(&key, work.catch_unwind().await);
                    });
                }
            }
        }
        let drained = tokio::time::timeout(DRAIN, async { while workers.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(queue = queue.0.name, left = workers.len(), "reconciliations cut off by the shutdown");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn now_or_never(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never()
    }

    #[test]
    fn deduplicates_and_never_works_twice_at_once() {
        let queue = Queue::new("test");
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(now_or_never(&queue), Some("a"));
        queue.add("a");
        assert_eq!(now_or_never(&queue), Some("b"));
        assert_eq!(queue.len(), 0, "a waits for its worker");
        queue.done(&"a");
        assert_eq!(queue.len(), 1);
        queue.done(&"b");
        assert_eq!(queue.len(), 1);
    }

    #[tokio::test]
    async fn the_first_change_counts_at_once_and_those_that_follow_together() {
        let (queue, gap) = (Queue::new("test"), Duration::from_secs(30));
        queue.add_spaced("a", gap);
        assert_eq!(now_or_never(&queue), Some("a"));
        queue.done(&"a");
        for _ in 0..3 {
            queue.add_spaced("a", gap);
            assert_eq!(now_or_never(&queue), None);
        }
        assert_eq!(queue.state().timers.len(), 1, "three changes, one look");
        let long_ago = Instant::now().checked_sub(REMEMBERED).unwrap();
        queue.state().ended.insert("a", long_ago);
        queue.add_spaced("a", gap);
        assert_eq!(now_or_never(&queue), Some("a"));
    }

    #[test]
    fn ends_of_long_ago_are_forgotten() {
        let queue = Queue::new("test");
        let long_ago = Instant::now().checked_sub(REMEMBERED).unwrap();
        for number in 0..1_000 {
            queue.state().spaced(&number, Duration::from_secs(1));
            queue.state().ended.values_mut().for_each(|ended| *ended = long_ago);
        }
        assert!(queue.state().ended.capacity() < 64, "{}", queue.state().ended.capacity());
    }

    #[test]
    fn backoff_doubles_until_forgotten() {
        let queue = Queue::new("test");
        let delays: Vec<_> = (0..4).map(|_| queue.state().backoff(&"a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        for _ in 0..40 {
            queue.state().backoff(&"a");
        }
        assert_eq!(queue.state().backoff(&"a"), BACKOFF_MAX);
        queue.forget(&"a");
        assert_eq!(queue.state().backoff(&"a"), BACKOFF_MIN);
    }

    #[test]
    fn the_earliest_delay_counts() {
        let queue: Queue<&str> = Queue::new("test");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = queue.state();
        state.delay("a", at(10));
        state.delay("a", at(5));
        state.delay("a", at(20));
        state.delay("b", at(7));
        state.fire(at(4));
        assert!(state.ready.is_empty());
        state.fire(at(6));
        assert_eq!(state.ready, ["a"]);
        state.fire(at(30));
        assert_eq!(state.ready, ["a", "b"]);
        assert!(state.timers.is_empty() && state.due.is_empty());
    }

    #[tokio::test]
    async fn failures_and_panics_are_tried_again() {
        let (queue, tasks, shutdown) = (Queue::new("panics"), TaskTracker::new(), CancellationToken::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, ended) = (Arc::clone(&calls), shutdown.clone());
        let reconcile = move |_| {
            let (call, ended) = (counted.fetch_add(1, Ordering::SeqCst), ended.clone());
            assert!(call != 1, "before there is a future");
            async move {
                match call {
                    0 => Err("no"),
                    2 => panic!("inside of it"),
                    3 => Ok(Action::RequeueAfter(Duration::from_millis(1))),
                    _ => {
                        ended.cancel();
                        Ok(Action::Done)
                    }
                }
            }
        };
        queue.add("a");
        run(queue.clone(), 2, reconcile, &tasks, shutdown);
        tasks.close();
        tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.unwrap();
        assert_eq!((calls.load(Ordering::SeqCst), queue.failures()), (5, 3));
        assert_eq!(supervise::panics().iter().find(|(name, _)| *name == "panics"), Some(&("panics", 2)));
    }
}
