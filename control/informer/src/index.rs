//! The synchronous core of an informer: the latest projection of every object, and indexes over them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::meta::{ObjectKey, Projection};

/// What changed.
#[derive(Debug)]
pub enum Event<T> {
    /// An object is new (`old` is none) or has changed.
    Upsert {
        /// The state before, if the object was known.
        old: Option<Arc<T>>,
        /// The state now.
        new: Arc<T>,
    },
    /// An object is gone; this is its last state.
    Delete(Arc<T>),
}

/// Computes the values under which an object is found in an index.
pub type IndexFn<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;

/// The latest state of every object of a resource.
pub struct Index<T> {
    objects: BTreeMap<Arc<ObjectKey>, Arc<T>>,
    indexes: Vec<NamedIndex<T>>,
    /// Keys seen since a full state began to arrive; those not in it when it ends have vanished meanwhile.
    seen: Option<HashSet<Arc<ObjectKey>>>,
}

struct NamedIndex<T> {
    name: &'static str,
    values_of: IndexFn<T>,
    entries: HashMap<String, BTreeMap<Arc<ObjectKey>, Arc<T>>>,
}

// === impl Event ===

impl<T> Event<T> {
    /// The latest state the event tells of.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Event::Upsert { new, .. } => new,
            Event::Delete(last) => last,
        }
    }
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        match self {
            Event::Upsert { old, new } => Event::Upsert { old: old.clone(), new: Arc::clone(new) },
            Event::Delete(last) => Event::Delete(Arc::clone(last)),
        }
    }
}

// === impl Index ===

impl<T: Projection> Index<T> {
    /// An empty index set.
    pub fn new(indexes: Vec<(&'static str, IndexFn<T>)>) -> Self {
        let indexes = indexes
            .into_iter()
            .map(|(name, values_of)| NamedIndex { name, values_of, entries: HashMap::new() })
            .collect();
        Self { objects: BTreeMap::new(), indexes, seen: None }
    }

    /// Takes an object's new state. An object re-created under the same name is told as a deletion and a creation;
    /// a state that is known already is told not at all.
    pub fn apply(&mut self, object: T) -> Vec<Event<T>> {
        let key = Arc::new(object.key());
        if let Some(seen) = &mut self.seen {
            seen.insert(Arc::clone(&key));
        }
        let new = Arc::new(object);
        let old = self.objects.insert(Arc::clone(&key), Arc::clone(&new));
        if let Some(old) = &old {
            if !old.meta().resource_version.is_empty() && old.meta().resource_version == new.meta().resource_version {
                // Keep the pointer that users may have compared or kept.
                self.objects.insert(key, Arc::clone(old));
                return Vec::new();
            }
            self.unindex(&key, old);
        }
        for index in &mut self.indexes {
            for value in (index.values_of)(&new) {
                index.entries.entry(value).or_default().insert(Arc::clone(&key), Arc::clone(&new));
            }
        }
        match old {
            Some(old) if old.meta().uid != new.meta().uid => vec![Event::Delete(old), Event::Upsert { old: None, new }],
            old => vec![Event::Upsert { old, new }],
        }
    }

    /// Takes an object's deletion, with its last state.
    pub fn delete(&mut self, last: T) -> Option<Event<T>> {
        let key = last.key();
        let old = self.objects.remove(&key)?;
        self.unindex(&key, &old);
        Some(Event::Delete(Arc::new(last)))
    }

    /// A full state follows by [`Index::apply`].
    pub fn begin_replace(&mut self) {
        self.seen = Some(HashSet::new());
    }

    /// The full state is complete: what it did not hold is gone.
    pub fn end_replace(&mut self) -> Vec<Event<T>> {
        let Some(seen) = self.seen.take() else { return Vec::new() };
        let vanished: Vec<_> = self.objects.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        vanished
            .into_iter()
            .filter_map(|key| {
                let old = self.objects.remove(&key)?;
                self.unindex(&key, &old);
                Some(Event::Delete(old))
            })
            .collect()
    }

    /// An object by key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.objects.get(key)
    }

    /// All objects in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values()
    }

    /// The objects found under `value` in the index `name`, in the order of their keys.
    ///
    /// # Panics
    /// When no index of that name was declared: a mistake in the program.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<T>> {
        let index = self
            .indexes
            .iter()
            .find(|index| index.name == name)
            .unwrap_or_else(|| panic!("index {name:?} of {} was not declared", T::RESOURCE));
        index.entries.get(value).map(|entries| entries.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn unindex(&mut self, key: &ObjectKey, old: &T) {
        for index in &mut self.indexes {
            for value in (index.values_of)(old) {
                if let Some(entries) = index.entries.get_mut(&value) {
                    entries.remove(key);
                    if entries.is_empty() {
                        index.entries.remove(&value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Meta;
    use crate::projection;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Thing {
        metadata: Meta,
        #[serde(default)]
        node: String,
    }

    projection!(Thing, "", "v1", "things");

    fn thing(name: &str, uid: &str, revision: &str, node: &str) -> Thing {
        let metadata = Meta {
            name: name.into(),
            namespace: "ns".into(),
            uid: uid.into(),
            resource_version: revision.into(),
            ..Meta::default()
        };
        Thing { metadata, node: node.into() }
    }

    fn index() -> Index<Thing> {
        Index::new(vec![("node", Box::new(|thing: &Thing| vec![thing.node.clone()]))])
    }

    fn show(events: impl IntoIterator<Item = Event<Thing>>) -> String {
        let one = |event: Event<Thing>| match event {
            Event::Upsert { old: None, new } => format!("+{}", new.metadata.name),
            Event::Upsert { old: Some(_), new } => format!("~{}", new.metadata.name),
            Event::Delete(last) => format!("-{}", last.metadata.name),
        };
        events.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn names(found: &[Arc<Thing>]) -> String {
        found.iter().map(|thing| thing.metadata.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn applies_and_indexes() {
        let mut index = index();
        assert_eq!(show(index.apply(thing("a", "1", "1", "n1"))), "+a");
        assert_eq!(show(index.apply(thing("b", "2", "2", "n1"))), "+b");
        assert_eq!(names(&index.by_index("node", "n1")), "a b");
        assert_eq!(show(index.apply(thing("a", "1", "3", "n2"))), "~a");
        assert_eq!(names(&index.by_index("node", "n1")), "b");
        assert_eq!(names(&index.by_index("node", "n2")), "a");
        assert_eq!(show(index.apply(thing("a", "1", "3", "n2"))), "", "a known state is no news");
        assert_eq!(show(index.apply(thing("a", "9", "4", "n1"))), "-a +a", "re-created");
        assert_eq!(show(index.delete(thing("a", "9", "5", "n1"))), "-a");
        assert_eq!(show(index.delete(thing("a", "9", "5", "n1"))), "");
        assert_eq!(names(&index.by_index("node", "n2")), "");
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn replacement_deletes_what_vanished() {
        let mut index = index();
        index.apply(thing("a", "1", "1", "n1"));
        index.apply(thing("b", "2", "2", "n1"));
        index.begin_replace();
        assert_eq!(show(index.apply(thing("b", "2", "2", "n1"))), "");
        assert_eq!(show(index.apply(thing("c", "3", "4", "n1"))), "+c");
        assert_eq!(show(index.end_replace()), "-a");
        assert_eq!(show(index.end_replace()), "");
        assert_eq!(names(&index.by_index("node", "n1")), "b c");
    }
}
