//! An ordered map of entries whose snapshots cost nothing.

use std::sync::Arc;

use super::entry::Entry;
use crate::api::Revision;

/// Entries a chunk holds before it is split. A write after a snapshot copies one chunk and the list of chunks.
const CHUNK: usize = 64;

type Chunk = Arc<Vec<Arc<Entry>>>;

/// Entries in key order, in chunks shared with snapshots until one of them is written to.
#[derive(Clone, Default)]
pub(crate) struct Map {
    /// None is empty.
    chunks: Arc<Vec<Chunk>>,
}

/// All of a resource's objects at one revision. Cheap to make, clone and keep.
#[derive(Clone)]
pub struct Snapshot {
    map: Map,
    revision: Revision,
}

/// The part of a [`Snapshot`] below a prefix, in key order.
#[derive(Clone)]
pub struct Range<'a> {
    chunks: &'a [Chunk],
    at: (usize, usize),
    end: (usize, usize),
}

impl Map {
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        let (chunk, index) = self.position(|k| k < key);
        self.chunks.get(chunk)?.get(index).filter(|entry| *entry.key == *key)
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    /// The entry that was there before.
    pub(crate) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let (mut at, mut index) = self.position(|k| *k < *entry.key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if let Some(there) = chunks.get(at).and_then(|chunk| chunk.get(index))
            && there.key == entry.key
        {
            return Some(std::mem::replace(&mut Arc::make_mut(&mut chunks[at])[index], entry));
        }
        // Between two chunks the earlier one grows, so that ascending keys do not leave chunks of one.
        if index == 0 && at > 0 {
            (at, index) = (at - 1, chunks[at - 1].len());
        }
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![entry]));
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        chunk.insert(index, entry);
        if chunk.len() > CHUNK {
            // Ascending keys fill chunks to the brim; others are split in the middle.
            let split = if index + 1 == chunk.len() { chunk.len() - 1 } else { chunk.len() / 2 };
            let rest = chunk.split_off(split);
            chunks.insert(at + 1, Arc::new(rest));
        }
        None
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        self.get(key)?;
        let (at, index) = self.position(|k| k < key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let removed = Arc::make_mut(&mut chunks[at]).remove(index);
        if chunks[at].is_empty() {
            chunks.remove(at);
        } else if at + 1 < chunks.len() && chunks[at].len() + chunks[at + 1].len() <= CHUNK / 2 {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(removed)
    }

    pub(crate) fn snapshot(&self, revision: Revision) -> Snapshot {
        Snapshot { map: self.clone(), revision }
    }

    /// The first position whose key is not `before`.
    fn position(&self, before: impl Fn(&str) -> bool) -> (usize, usize) {
        let last = |chunk: &Chunk| chunk.last().is_some_and(|entry| before(&entry.key));
        let at = self.chunks.partition_point(last);
        let index = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|entry| before(&entry.key)));
        (at, index)
    }
}

impl Snapshot {
    /// The store's revision at which this is the state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The entry at `key`.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.map.get(key)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.chunks.is_empty()
    }

    /// The entries whose keys start with `prefix`, after the key `start_after` if given.
    pub fn range(&self, prefix: &str, start_after: Option<&str>) -> Range<'_> {
        let at = match start_after.filter(|after| *after >= prefix) {
            Some(after) => self.map.position(|key| key <= after),
            None => self.map.position(|key| key < prefix),
        };
        let end = self.map.position(|key| key < prefix || key.starts_with(prefix));
        Range { chunks: &self.map.chunks, at: at.min(end), end }
    }

    /// At most `limit` (0: all) entries of a range, and how many follow.
    pub fn page(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> (Vec<Arc<Entry>>, usize) {
        let mut range = self.range(prefix, start_after);
        let take = if limit == 0 { usize::MAX } else { limit };
        let items: Vec<_> = range.by_ref().take(take).cloned().collect();
        let remaining = range.remaining();
        (items, remaining)
    }
}

impl Range<'_> {
    /// How many entries are still to come.
    pub fn remaining(&self) -> usize {
        if self.at.0 == self.end.0 {
            return self.end.1 - self.at.1;
        }
        let between = self.chunks[self.at.0..self.end.0].iter().map(|chunk| chunk.len()).sum::<usize>();
        between - self.at.1 + self.end.1
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = &'a Arc<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let chunk = &self.chunks[self.at.0];
        let entry = &chunk[self.at.1];
        self.at = if self.at.1 + 1 == chunk.len() { (self.at.0 + 1, 0) } else { (self.at.0, self.at.1 + 1) };
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.remaining();
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::KeyValue;
    use crate::cache::{Extractor, Selectable};

    fn entry(key: &str, revision: Revision) -> Arc<Entry> {
        let stored =
            KeyValue { key: key.into(), value: bytes::Bytes::new(), create_revision: revision, mod_revision: revision };
        Arc::new(Entry::new(&stored, &Arc::from([]), &(Arc::new(|_: &[u8]| Selectable::default()) as Extractor)))
    }

    fn contents(snapshot: &Snapshot, prefix: &str, after: Option<&str>) -> Vec<(String, Revision)> {
        snapshot.range(prefix, after).map(|entry| (entry.key.to_string(), entry.revision)).collect()
    }

    /// A small deterministic generator: the test has to fail the same way twice.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn behaves_like_a_btreemap_and_snapshots_stay() {
        let (mut map, mut model, mut seed) = (Map::default(), BTreeMap::new(), 1);
        let mut kept = Vec::new();
        for step in 1..6_000u64 {
            let key = format!("/{}/{}", random(&mut seed) % 3, random(&mut seed) % 500);
            // Grow first, shrink later.
            if random(&mut seed) % 6_000 > step {
                let before = map.insert(entry(&key, step)).map(|entry| entry.revision);
                assert_eq!(before, model.insert(key, step));
            } else {
                assert_eq!(map.remove(&key).map(|entry| entry.revision), model.remove(&key));
            }
            if step % 500 == 0 {
                kept.push((map.snapshot(step), model.clone()));
            }
        }
        for (snapshot, model) in &kept {
            let after = "/1/25".to_owned();
            for prefix in ["", "/1/", "/1/2", "/3/"] {
                for after in [None, Some(after.as_str())] {
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after))
                        .map(|(key, revision)| (key.clone(), *revision))
                        .collect();
                    assert_eq!(contents(snapshot, prefix, after), expected, "{prefix} {after:?}");
                    assert_eq!(snapshot.range(prefix, after).remaining(), expected.len());
                    let (page, remaining) = snapshot.page(prefix, after, 7);
                    assert_eq!(page.len() + remaining, expected.len());
                }
            }
            assert_eq!(snapshot.len(), model.len());
        }
    }
}
