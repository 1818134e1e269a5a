//! A store without a disk: for tests and throw-away clusters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::api::{EventKind, Expect, KeyValue, Page, Result, Revision, Store, StoreError, StoreEvent, first_bytes};
use crate::hub::{Hub, WatchStream, lock};

/// Events kept for watchers that resume and for lists at older revisions.
const HISTORY: usize = 100_000;

/// Everything in memory, lost with the process.
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Signals a new first deadline, or the end.
    deadlines: Condvar,
    hub: Hub,
}

#[derive(Default)]
struct State {
    revision: Revision,
    compacted: Revision,
    objects: BTreeMap<Arc<str>, Stored>,
    expiring: BTreeSet<(Instant, Arc<str>)>,
    history: VecDeque<Arc<StoreEvent>>,
    closed: bool,
}

struct Stored {
    object: KeyValue,
    expires: Option<Instant>,
}

impl MemoryStore {
    /// An empty store at revision 1.
    pub fn new() -> MemoryStore {
        let state = State { revision: 1, compacted: 1, ..State::default() };
        let inner = Arc::new(Inner { state: Mutex::new(state), deadlines: Condvar::new(), hub: Hub::new(1) });
        let expirer = inner.clone();
        // It ends with `close`, or when the store is dropped.
        thread::Builder::new()
            .name("store-expiry".to_owned())
            .spawn(move || expirer.expire())
            .expect("the process may start a thread");
        MemoryStore { inner }
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.inner.close();
    }
}

impl Inner {
    fn close(&self) {
        lock(&self.state).closed = true;
        self.deadlines.notify_all();
        self.hub.close();
    }

    /// Deletes what has expired, until the store is closed.
    fn expire(&self) {
        let mut state = lock(&self.state);
        while !state.closed {
            let now = Instant::now();
            state = match state.expiring.first().cloned() {
                Some((at, key)) if at <= now => {
                    state.remove(&key, &self.hub);
                    state
                }
                Some((at, _)) => self.deadlines.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.deadlines.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl State {
    fn open(&self) -> Result<()> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn check(&self, key: &str, expect: Expect) -> Result<()> {
        let current = self.objects.get(key).map(|stored| &stored.object);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Revision(revision) => current.is_some_and(|object| object.mod_revision == revision),
        };
        if holds { Ok(()) } else { Err(StoreError::Conflict { current: current.cloned() }) }
    }

    /// Records what was done at a new revision.
    fn commit(&mut self, event: StoreEvent, hub: &Hub) {
        let event = Arc::new(event);
        self.history.push_back(event.clone());
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.revision();
        }
        hub.publish(&[event]);
    }

    fn remove(&mut self, key: &str, hub: &Hub) -> Option<KeyValue> {
        let Stored { object, expires } = self.objects.remove(key)?;
        if let Some(at) = expires {
            self.expiring.remove(&(at, object.key.clone()));
        }
        self.revision += 1;
        let gone = KeyValue { mod_revision: self.revision, ..object.clone() };
        self.commit(StoreEvent { kind: EventKind::Deleted, object: gone, previous: Some(object.clone()) }, hub);
        Some(object)
    }

    /// What was written below `prefix` after `after`, as [`Store::history`] has it.
    fn since(&self, prefix: &str, after: Revision, bytes: usize) -> Result<(Vec<StoreEvent>, Revision)> {
        if after > self.revision {
            return Err(StoreError::Future { current: self.revision });
        }
        if after < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        let from = self.history.partition_point(|event| event.revision() <= after);
        let below = self.history.range(from..).filter(|event| event.object.key.starts_with(prefix));
        let (events, more) = first_bytes(below.map(|event| Ok::<_, StoreError>(StoreEvent::clone(event))), bytes)?;
        let reached = if more { events.last().map_or(after, StoreEvent::revision) } else { self.revision };
        Ok((events, reached))
    }

    /// The objects below `prefix` as they were at `revision`: the present ones with later events undone.
    fn at(&self, prefix: &str, revision: Revision) -> BTreeMap<Arc<str>, KeyValue> {
        let below = |key: &str| key.starts_with(prefix);
        let mut objects: BTreeMap<_, _> = self
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| below(key))
            .map(|(key, stored)| (key.clone(), stored.object.clone()))
            .collect();
        for event in self.history.iter().rev().take_while(|event| event.revision() > revision) {
            if below(&event.object.key) {
                match &event.previous {
                    Some(previous) => objects.insert(previous.key.clone(), previous.clone()),
                    None => objects.remove(&event.object.key),
                };
            }
        }
        objects
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)> {
        let state = lock(&self.inner.state);
        state.open()?;
        Ok((state.objects.get(key).map(|stored| stored.object.clone()), state.revision))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize, at: Option<Revision>) -> Result<Page> {
        let state = lock(&self.inner.state);
        state.open()?;
        let revision = at.unwrap_or(state.revision);
        if revision > state.revision {
            return Err(StoreError::Future { current: state.revision });
        }
        if revision < state.compacted {
            return Err(StoreError::Compacted { oldest: state.compacted });
        }
        let mut rest =
            state.at(prefix, revision).into_values().filter(|kv| start_after.is_none_or(|after| *kv.key > *after));
        let items: Vec<_> = rest.by_ref().take(if limit == 0 { usize::MAX } else { limit }).collect();
        let remaining = rest.count();
        Ok(Page { items, revision, more: remaining > 0, remaining })
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, ttl: Option<Duration>) -> Result<Revision> {
        let mut state = lock(&self.inner.state);
        state.open()?;
        state.check(key, expect)?;
        state.revision += 1;
        let revision = state.revision;
        let previous = state.objects.remove(key);
        if let Some(Stored { object, expires: Some(at) }) = &previous {
            let entry = (*at, object.key.clone());
            state.expiring.remove(&entry);
        }
        let previous = previous.map(|stored| stored.object);
        let object = KeyValue {
            key: key.into(),
            value,
            create_revision: previous.as_ref().map_or(revision, |previous| previous.create_revision),
            mod_revision: revision,
        };
        let expires = ttl.map(|ttl| Instant::now() + ttl);
        if let Some(at) = expires {
            state.expiring.insert((at, object.key.clone()));
            self.inner.deadlines.notify_all();
        }
        state.objects.insert(object.key.clone(), Stored { object: object.clone(), expires });
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        state.commit(StoreEvent { kind, object, previous }, &self.inner.hub);
        Ok(revision)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(KeyValue, Revision)> {
        let mut state = lock(&self.inner.state);
        state.open()?;
        state.check(key, expect)?;
        let gone = state.remove(key, &self.inner.hub).ok_or(StoreError::Conflict { current: None })?;
        Ok((gone, state.revision))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let state = lock(&self.inner.state);
        state.open()?;
        let (history, _) = state.since(prefix, after, usize::MAX)?;
        let (stream, _) = self.inner.hub.subscribe(prefix);
        stream.prepend(history);
        Ok(stream)
    }

    async fn history(&self, prefix: &str, after: Revision, bytes: usize) -> Result<(Vec<StoreEvent>, Revision)> {
        let state = lock(&self.inner.state);
        state.open()?;
        state.since(prefix, after, bytes)
    }

    async fn current_revision(&self) -> Result<Revision> {
        let state = lock(&self.inner.state);
        state.open()?;
        Ok(state.revision)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let mut state = lock(&self.inner.state);
        state.open()?;
        if revision > state.revision {
            return Err(StoreError::Future { current: state.revision });
        }
        let kept = state.history.partition_point(|event| event.revision() <= revision);
        state.history.drain(..kept);
        state.compacted = state.compacted.max(revision);
        Ok(())
    }

    async fn close(&self) {
        self.inner.close();
    }
}
