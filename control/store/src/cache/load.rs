//! What a cache begins with.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Entry, Extractor, WatchEvent};
use super::map::Map;
use super::watch_cache::CacheError;
use crate::api::{KeyValue, Revision, Store, StoreError, StoreEvent};
use crate::hub::WatchStream;

/// A state, what led there as far as the store remembers, and what comes after.
pub(super) struct Loaded {
    pub(super) map: Map,
    pub(super) revision: Revision,
    /// Everything after `floor`, up to `revision`.
    pub(super) recent: Vec<Arc<WatchEvent>>,
    pub(super) floor: Revision,
    pub(super) stream: WatchStream,
}

/// Loads everything below `prefix`. The recent past comes along, so that the many watchers that resume after a restart share
/// it, and do not each read it from the store.
pub(super) async fn load(
    store: &Arc<dyn Store>,
    prefix: &str,
    names: &Arc<[String]>,
    extract: &Extractor,
) -> Result<Loaded, CacheError> {
    let page = store.list(prefix, None, 0, None).await.map_err(|error| CacheError::of(error, 0))?;
    let revision = page.revision;
    let stream = store.watch(prefix, revision).await.map_err(|error| CacheError::of(error, revision))?;
    let mut map = Map::default();
    for stored in &page.items {
        map.insert(Arc::new(Entry::new(stored, names, extract)));
    }
    let (floor, past) = past(store, prefix, revision).await.map_err(|error| CacheError::of(error, revision))?;
    let recent = events(&past, &map, |stored| Arc::new(Entry::new(stored, names, extract)));
    Ok(Loaded { map, revision, recent, floor, stream })
}

/// What was written after the oldest revision that the store remembers, up to `until`.
async fn past(
    store: &Arc<dyn Store>,
    prefix: &str,
    until: Revision,
) -> Result<(Revision, Vec<Arc<StoreEvent>>), StoreError> {
    let oldest = match store.watch(prefix, 0).await {
        Ok(history) => Ok((0, history)),
        Err(StoreError::Compacted { oldest }) => store.watch(prefix, oldest).await.map(|history| (oldest, history)),
        Err(error) => Err(error),
    };
    match oldest {
        Ok((floor, history)) => {
            let mut events = history.take()?;
            events.retain(|event| event.revision() <= until);
            Ok((floor, events))
        }
        // It was compacted once more just now: then there is none.
        Err(StoreError::Compacted { .. }) => Ok((until, Vec::new())),
        Err(error) => Err(error),
    }
}

/// Store events as watchers get them. States that are in the map, or in an earlier event, are shared.
fn events(past: &[Arc<StoreEvent>], map: &Map, new: impl Fn(&KeyValue) -> Arc<Entry>) -> Vec<Arc<WatchEvent>> {
    let mut latest: HashMap<&str, Arc<Entry>> = HashMap::new();
    let entry = |known: Option<&Arc<Entry>>, stored: &KeyValue| {
        let same = known.filter(|entry| entry.revision == stored.mod_revision);
        same.cloned().unwrap_or_else(|| new(stored))
    };
    let mut events = Vec::with_capacity(past.len());
    for event in past {
        let key = &*event.object.key;
        let previous = event.previous.as_ref().map(|previous| entry(latest.get(key), previous));
        let entry = entry(map.get(key), &event.object);
        latest.insert(key, entry.clone());
        events.push(Arc::new(WatchEvent { kind: event.kind, entry, previous }));
    }
    events
}
