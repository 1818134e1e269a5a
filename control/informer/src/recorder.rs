//! Events about objects: what users read in `kubectl describe`.
//!
//! Recording never blocks and never fails: a bounded queue feeds one writer. Repetitions raise a count instead of making new
//! Events, many similar ones are combined, and an object that produces a stream of them is throttled.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apimachinery::names::is_dns1123_subdomain;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rest::{self, Path, Rest};
use crate::source::error_chain;

const QUEUE: usize = 1000;
/// How many repetitions are remembered.
const REMEMBERED: usize = 4096;
/// From this many different messages on, Events alike in all else are combined.
const SIMILAR_LIMIT: usize = 10;
const COMBINED: &str = "(combined from similar events)";
/// Without another for so long, Events are similar to none.
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Events of a type that an object may cause at once, and how long it takes to earn another.
const BURST: f64 = 25.0;
const EARN: Duration = Duration::from_secs(300);
const TRIES: u32 = 3;
/// How long queued Events may still be written at shutdown.
const DRAIN: Duration = Duration::from_secs(1);

/// The object an Event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Revision, may be empty.
    pub resource_version: String,
    /// A part of the object, e.g. `spec.containers{web}`, may be empty.
    pub field_path: String,
}

/// How serious an Event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Someone may have to act.
    Warning,
}

/// Writes Events for one component. Clones share its queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Note {
    object: ObjectRef,
    kind: EventType,
    reason: String,
    message: String,
}

struct Writer {
    rest: Rest,
    correlator: Correlator,
    source: Source,
}

#[derive(Clone)]
struct Source {
    component: String,
    host: String,
}

/// Decides what becomes of a note. Pure: time comes in with each call.
struct Correlator {
    known: Remembered<Note, Written>,
    similar: Remembered<Group, Similar>,
    budgets: Remembered<(ObjectRef, EventType), Budget>,
}

#[derive(Clone, Debug, PartialEq)]
struct Written {
    name: String,
    first: Timestamp,
    count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    object: ObjectRef,
    kind: EventType,
    reason: String,
}

struct Similar {
    /// When the last one came.
    at: Timestamp,
    messages: HashSet<String>,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

/// A map that forgets its oldest entries.
struct Remembered<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

// === impl ObjectRef ===

impl ObjectRef {
    /// A reference to an object known by its metadata.
    pub fn of(api_version: &str, kind: &str, meta: &crate::Meta) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }

    /// Without the revision: an object that changes stays the same.
    fn identity(&self) -> Self {
        Self { resource_version: String::new(), ..self.clone() }
    }

    /// Without the part of it, too.
    fn whole(&self) -> Self {
        Self { field_path: String::new(), ..self.identity() }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({ "apiVersion": self.api_version, "kind": self.kind, "name": self.name });
        let optional = [
            ("namespace", &self.namespace),
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ];
        for (field, text) in optional.into_iter().filter(|(_, text)| !text.is_empty()) {
            value[field] = Value::from(text.as_str());
        }
        value
    }
}

// === impl Recorder ===

impl Recorder {
    /// Starts the writer; `host` is empty for components that belong to no node.
    pub fn new(
        client: kube::Client,
        component: impl Into<String>,
        host: impl Into<String>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let source = Source { component: component.into(), host: host.into() };
        let writer = Writer { rest: Rest::new(client), source, correlator: Correlator::new() };
        supervise::spawn("event recorder", tasks, &shutdown.clone(), (writer, notes), move |(writer, notes)| {
            Box::pin(writer.run(notes, shutdown.clone()))
        });
        Self { queue, dropped: Arc::default() }
    }

    /// Tells of something that happened to `object`. Never blocks: when the queue is full the Event is dropped and counted.
    pub fn event(&self, object: &ObjectRef, kind: EventType, reason: impl Into<String>, message: impl Into<String>) {
        let mut message: String = message.into();
        if message.len() > 1024 {
            let end = (0..=1021).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
            message.truncate(end);
            message.push_str("...");
        }
        let note = Note { object: object.clone(), kind, reason: reason.into(), message };
        if self.queue.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many Events were dropped because the queue was full or the writer had ended.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

// === impl Note ===

impl Note {
    /// What makes it a repetition of another.
    fn key(&self) -> Self {
        let (object, message) = if self.message.starts_with(COMBINED) {
            (self.object.whole(), COMBINED.to_owned())
        } else {
            (self.object.identity(), self.message.clone())
        };
        Self { object, message, ..self.clone() }
    }
}

// === impl Writer ===

impl Writer {
    async fn run(&mut self, notes: &mut mpsc::Receiver<Note>, shutdown: CancellationToken) {
        loop {
            let note = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                note = notes.recv() => note,
            };
            let Some(note) = note else { return };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.write(note) => {}
            }
        }
        notes.close();
        // The last words before a shutdown are often the interesting ones, but it must not wait long for them.
        let rest = async {
            while let Some(note) = notes.recv().await {
                self.write(note).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }

    async fn write(&mut self, note: Note) {
        let now = Timestamp::now();
        let Some((note, written)) = self.correlator.decide(note, now) else { return };
        for attempt in 0..TRIES {
            let Err(error) = self.put(&note, &written, now).await else { return };
            match &error {
                // A former try came through.
                _ if rest::is_already_exists(&error) => return,
                // Refused (namespace being deleted, not allowed, invalid): trying again changes nothing.
                kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(reason = note.reason, error = error_chain(&error), "event refused");
                    return;
                }
                _ if attempt + 1 == TRIES => {
                    tracing::warn!(reason = note.reason, error = error_chain(&error), "event lost");
                }
                _ => tokio::time::sleep(Duration::from_millis(200 << attempt)).await,
            }
        }
    }

    async fn put(&self, note: &Note, written: &Written, now: Timestamp) -> Result<(), kube::Error> {
        if written.count > 1 {
            match self.repeat(note, written, now).await {
                // Expired meanwhile, or never written.
                Err(error) if rest::is_not_found(&error) => {}
                answer => return answer,
            }
        }
        self.create(note, written, now).await
    }

    async fn create(&self, note: &Note, written: &Written, now: Timestamp) -> Result<(), kube::Error> {
        self.rest.create(&events(&note.object), &self.source.event(note, written, now)).await.map(drop)
    }

    async fn repeat(&self, note: &Note, written: &Written, now: Timestamp) -> Result<(), kube::Error> {
        let body = json!({ "count": written.count, "lastTimestamp": seconds(now), "message": note.message });
        self.rest.merge(&events(&note.object).child(&written.name), &body).await.map(drop)
    }
}

// === impl Source ===

impl Source {
    fn event(&self, note: &Note, written: &Written, now: Timestamp) -> Value {
        let mut source = json!({ "component": self.component });
        if !self.host.is_empty() {
            source["host"] = Value::from(self.host.as_str());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": written.name, "namespace": namespace(&note.object) },
            "involvedObject": note.object.to_value(),
            "type": match note.kind { EventType::Normal => "Normal", EventType::Warning => "Warning" },
            "reason": note.reason,
            "message": note.message,
            "source": source,
            "firstTimestamp": seconds(written.first),
            "lastTimestamp": seconds(now),
            "count": written.count,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        })
    }
}

// === impl Correlator ===

impl Correlator {
    fn new() -> Self {
        Self { known: Remembered::new(), similar: Remembered::new(), budgets: Remembered::new() }
    }

    /// What is to be written, if anything. What is kept back counts, too.
    fn decide(&mut self, note: Note, now: Timestamp) -> Option<(Note, Written)> {
        let note = self.combine(note, now);
        let name = || event_name(&note.object.name, now);
        let written = self.known.entry(&note.key(), || Written { name: name(), first: now, count: 0 });
        written.count += 1;
        let written = written.clone();
        self.charge(&note, now).then_some((note, written))
    }

    fn combine(&mut self, mut note: Note, now: Timestamp) -> Note {
        let group = Group { object: note.object.whole(), kind: note.kind, reason: note.reason.clone() };
        let similar = self.similar.entry(&group, || Similar { at: now, messages: HashSet::new() });
        if age(similar.at, now) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = now;
        if !similar.messages.contains(&note.message) {
            if similar.messages.len() + 1 < SIMILAR_LIMIT {
                similar.messages.insert(note.message.clone());
            } else {
                note.message = format!("{COMBINED}: {}", note.message);
            }
        }
        note
    }

    fn charge(&mut self, note: &Note, now: Timestamp) -> bool {
        let budget = self.budgets.entry(&(note.object.whole(), note.kind), || Budget { tokens: BURST, at: now });
        let earned = age(budget.at, now).as_secs_f64() / EARN.as_secs_f64();
        budget.tokens = (budget.tokens + earned).min(BURST);
        budget.at = now;
        let enough = budget.tokens >= 1.0;
        if enough {
            budget.tokens -= 1.0;
        }
        enough
    }
}

// === impl Remembered ===

impl<K: Clone + Eq + Hash, V> Remembered<K, V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn entry(&mut self, key: &K, fresh: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(key) {
            self.insert(key.clone(), fresh());
        }
        self.entries.get_mut(key).expect("inserted just above, as the newest of at least one remembered entry")
    }
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Events about cluster-scoped objects live in `default`.
fn namespace(object: &ObjectRef) -> &str {
    if object.namespace.is_empty() { "default" } else { &object.namespace }
}

fn events(object: &ObjectRef) -> Path {
    Path::collection("", "v1", "events", namespace(object))
}

/// The object's name with the time in hexadecimal, where that is a name that an Event may have.
fn event_name(object: &str, now: Timestamp) -> String {
    let name = format!("{object}.{:x}", now.as_nanosecond());
    if is_dns1123_subdomain(&name).is_empty() { name } else { format!("event.{:x}", now.as_nanosecond()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str, message: &str) -> Note {
        let object = ObjectRef { name: object.into(), kind: "Pod".into(), ..ObjectRef::default() };
        Note { object, kind: EventType::Normal, reason: "Why".into(), message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn show(decision: &Option<(Note, Written)>) -> String {
        match decision {
            Some((note, Written { count: 1, .. })) => format!("create {}", note.message),
            Some((note, written)) => format!("repeat {} {}", note.message, written.count),
            None => "throttle".into(),
        }
    }

    #[test]
    fn repetitions_raise_the_count() {
        let mut correlator = Correlator::new();
        for want in ["create m", "repeat m 2", "repeat m 3"] {
            assert_eq!(show(&correlator.decide(note("a", "m"), at(0))), want);
        }
        let mut changed = note("a", "m");
        changed.object.resource_version = "7".into();
        assert_eq!(show(&correlator.decide(changed, at(0))), "repeat m 4", "the object changed meanwhile");
        assert_eq!(show(&correlator.decide(note("b", "m"), at(1))), "create m");
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::new();
        for number in 1..SIMILAR_LIMIT {
            let want = format!("create m{number}");
            assert_eq!(show(&correlator.decide(note("a", &format!("m{number}")), at(0))), want);
        }
        let mut decide = |message: &str, part: &str, second: i64| {
            let mut note = note("a", message);
            note.object.field_path = part.into();
            show(&correlator.decide(note, at(second)))
        };
        assert_eq!(decide("x", "", 1), "create (combined from similar events): x");
        assert_eq!(decide("y", "spec.containers{c}", 1), "repeat (combined from similar events): y 2");
        assert_eq!(decide("m1", "", 1), "repeat m1 2");
        assert_eq!(decide("z", "", 600), "repeat (combined from similar events): z 3", "they go on");
        assert_eq!(decide("y", "", 1300), "create y", "nothing for ten minutes");
    }

    #[test]
    fn an_object_is_throttled_and_earns_events_again() {
        let mut correlator = Correlator::new();
        let count = (0..40).filter(|_| correlator.decide(note("a", "m"), at(0)).is_some()).count();
        assert_eq!(count, 25);
        assert_eq!(show(&correlator.decide(note("a", "m"), at(299))), "throttle");
        assert_eq!(show(&correlator.decide(note("a", "m"), at(301))), "repeat m 42");
        assert_eq!(show(&correlator.decide(note("b", "m"), at(0))), "create m");
        let warning = Note { kind: EventType::Warning, ..note("a", "m") };
        assert_eq!(show(&correlator.decide(warning, at(0))), "create m", "what is normal does not hide it");
    }

    #[test]
    fn every_event_has_a_name_that_the_api_takes() {
        for (object, expected) in [
            ("web-1.x".to_owned(), "web-1.x.38d7ea4c68000"),
            ("system:node".to_owned(), "event.38d7ea4c68000"),
            ("a".repeat(253), "event.38d7ea4c68000"),
        ] {
            assert_eq!(event_name(&object, at(0)), expected);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut remembered = Remembered::new();
        (0..REMEMBERED + 10).for_each(|key| remembered.insert(key, ()));
        assert_eq!((remembered.entries.len(), remembered.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!remembered.entries.contains_key(&9) && remembered.entries.contains_key(&10));
    }

    #[test]
    fn the_event_has_what_readers_expect() {
        let source = Source { component: "kubelet".into(), host: "n1".into() };
        let written = Written { name: "a.1".into(), first: at(0), count: 2 };
        let value = source.event(&note("a", "m"), &written, at(5));
        assert_eq!(value["metadata"]["namespace"], "default");
        assert_eq!(value["source"], json!({"component": "kubelet", "host": "n1"}));
        assert_eq!(value["firstTimestamp"], "1970-01-12T13:46:40Z");
        assert_eq!(value["involvedObject"], json!({"apiVersion": "", "kind": "Pod", "name": "a"}));
    }
}
