//! What the cache keeps of one object, and of one event.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use apimachinery::meta::splice_rv;
use bytes::{BufMut, Bytes};

use super::forms::Form;
use crate::api::{EventKind, KeyValue, Revision, StoreEvent};

/// Reads an object's labels and selectable fields out of its bytes, once when it enters the cache.
pub type Extractor = Arc<dyn Fn(&[u8]) -> Selectable + Send + Sync>;

/// What selectors look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectable {
    /// The object's labels, in any order.
    pub labels: Vec<(String, String)>,
    /// The values of the resource's selectable fields, in the order of [`CacheOptions::fields`](crate::CacheOptions).
    pub fields: Vec<String>,
}

/// Sorted pairs of strings in one allocation of text: labels, for thousands of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    text: Box<str>,
    /// Where each key and each value ends in `text`.
    ends: Box<[u32]>,
}

/// One object in the cache.
#[derive(Debug)]
pub struct Entry {
    /// The store's key.
    pub key: Arc<str>,
    /// The object as compact JSON, `resourceVersion` included.
    pub bytes: Bytes,
    /// The revision of the write that made this state.
    pub revision: Revision,
    /// The revision of the write that made the object.
    pub create_revision: Revision,
    /// The object's labels.
    pub labels: Pairs,
    fields: Texts,
    field_names: Arc<[String]>,
    name_at: u32,
    namespace_at: u32,
    /// The object in another encoding, while the budget has room for it; see [`Budget::form`](crate::Budget::form).
    pub(super) form: Mutex<Option<Form>>,
}

/// One event of a watch. The state before it tells whether an object enters or leaves a selector.
#[derive(Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The new state; for a deletion the last state, at the deletion's revision.
    pub entry: Arc<Entry>,
    /// The state before, if there was one.
    pub previous: Option<Arc<Entry>>,
}

/// Strings in one allocation.
#[derive(Clone, Debug, Default)]
struct Texts {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl Texts {
    fn new<'a>(strings: impl Iterator<Item = &'a str>) -> Texts {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for string in strings {
            text.push_str(string);
            ends.push(end_of(&text));
        }
        Texts { text: text.into(), ends: ends.into() }
    }

    fn get(&self, index: usize) -> Option<&str> {
        slice(&self.text, &self.ends, index)
    }
}

impl Pairs {
    /// Sorts `pairs`; of equal keys the last one counts.
    pub fn new(mut pairs: Vec<(String, String)>) -> Pairs {
        pairs.reverse();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|a, b| a.0 == b.0);
        let texts = Texts::new(pairs.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]));
        Pairs { text: texts.text, ends: texts.ends }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(k, value)| (k == key).then_some(value))
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.ends.len() / 2)
            .filter_map(|n| Some((slice(&self.text, &self.ends, 2 * n)?, slice(&self.text, &self.ends, 2 * n + 1)?)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

fn slice<'a>(text: &'a str, ends: &[u32], index: usize) -> Option<&'a str> {
    let end = *ends.get(index)? as usize;
    let start = if index == 0 { 0 } else { ends[index - 1] as usize };
    text.get(start..end)
}

/// Objects are limited to a few MiB far above this crate; a text beyond 4 GiB could not have been stored.
fn end_of(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

impl Entry {
    pub(crate) fn new(stored: &KeyValue, names: &Arc<[String]>, extract: &Extractor) -> Entry {
        let Selectable { labels, fields } = extract(&stored.value);
        let (namespace, name) = name_ranges(&stored.key);
        Entry {
            key: stored.key.clone(),
            bytes: splice_rv(&stored.value, stored.mod_revision),
            revision: stored.mod_revision,
            create_revision: stored.create_revision,
            labels: Pairs::new(labels),
            fields: Texts::new(fields.iter().map(String::as_str)),
            field_names: names.clone(),
            name_at: u32::try_from(name.start).unwrap_or(0),
            namespace_at: u32::try_from(namespace.start).unwrap_or(0),
            form: Mutex::default(),
        }
    }

    /// The object's name: the key's last segment.
    pub fn name(&self) -> &str {
        &self.key[self.name_at as usize..]
    }

    /// The object's namespace, "" for cluster scope: the segment after the resource's.
    pub fn namespace(&self) -> &str {
        let (from, name) = (self.namespace_at as usize, self.name_at as usize);
        if from == name { "" } else { &self.key[from..name - 1] }
    }

    /// A selectable field's value; `None` where the resource declares no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let index = self.field_names.iter().position(|n| n == name)?;
        Some(self.fields.get(index).unwrap_or(""))
    }
}

/// Where namespace and name are in `/registry/<group>/<resource>/[<namespace>/]<name>`.
fn name_ranges(key: &str) -> (Range<usize>, Range<usize>) {
    let name = key.rfind('/').map_or(0, |at| at + 1);
    let rest = key.match_indices('/').nth(3).map_or(name, |(at, _)| at + 1);
    if rest >= name { (name..name, name..key.len()) } else { (rest..name - 1, name..key.len()) }
}

impl WatchEvent {
    pub(crate) fn of(event: &StoreEvent, names: &Arc<[String]>, extract: &Extractor) -> WatchEvent {
        let entry = |stored: &KeyValue| Arc::new(Entry::new(stored, names, extract));
        WatchEvent { kind: event.kind, entry: entry(&event.object), previous: event.previous.as_ref().map(entry) }
    }

    /// The event's revision.
    pub fn revision(&self) -> Revision {
        self.entry.revision
    }

    /// Appends the event as watchers get it, `{"type":"ADDED","object":{…}}` and a line feed.
    pub fn write_frame(&self, out: &mut impl BufMut) {
        out.put_slice(b"{\"type\":\"");
        out.put_slice(self.kind.as_str().as_bytes());
        out.put_slice(b"\",\"object\":");
        out.put_slice(&self.entry.bytes);
        out.put_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_keys() {
        for (key, namespace, name) in [
            ("/registry/core/pods/default/web-1", "default", "web-1"),
            ("/registry/core/nodes/n1", "", "n1"),
            ("/registry/apps/deployments/kube-system/dns", "kube-system", "dns"),
            ("x", "", "x"),
        ] {
            let stored = KeyValue { key: key.into(), value: Bytes::new(), create_revision: 1, mod_revision: 1 };
            let entry = Entry::new(&stored, &Arc::from([]), &(Arc::new(|_: &[u8]| Selectable::default()) as Extractor));
            assert_eq!((entry.namespace(), entry.name()), (namespace, name), "{key}");
        }
    }

    #[test]
    fn pairs_sort_and_find() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let pairs = Pairs::new(vec![pair("b", "2"), pair("a", ""), pair("b", "3")]);
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("a", ""), ("b", "3")]);
        assert_eq!((pairs.get("a"), pairs.get("b"), pairs.get("c")), (Some(""), Some("3"), None));
        assert!(Pairs::new(Vec::new()).is_empty());
    }

    #[test]
    fn frames_hold_the_revision() {
        let stored = KeyValue {
            key: "/registry/core/pods/d/p".into(),
            value: Bytes::from_static(br#"{"kind":"Pod","metadata":{"name":"p"}}"#),
            create_revision: 3,
            mod_revision: 7,
        };
        let extract: Extractor = Arc::new(|_: &[u8]| Selectable { labels: Vec::new(), fields: vec!["n1".into()] });
        let entry = Arc::new(Entry::new(&stored, &Arc::from(["spec.nodeName".to_owned()]), &extract));
        assert_eq!((entry.field("spec.nodeName"), entry.field("x")), (Some("n1"), None));
        let event = WatchEvent { kind: EventKind::Deleted, entry, previous: None };
        let expected: &[u8] =
            b"{\"type\":\"DELETED\",\"object\":{\"kind\":\"Pod\",\"metadata\":{\"resourceVersion\":\"7\",\"name\":\"p\"}}}\n";
        let mut frame = Vec::new();
        event.write_frame(&mut frame);
        assert_eq!(frame, expected);
    }
}
