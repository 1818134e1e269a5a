//! Watches: the state wanted first, then every event once, then bookmarks, until the time is over.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::meta;
use apimachinery::protobuf;
use apimachinery::resources::Resource;
use apimachinery::status::Status;
use apimachinery::table;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use store::{CacheError, Entry, EventKind, Revision, WatchEvent, Watcher};
use tokio::time::Instant;

use super::options::{At, Selection, WatchOptions};
use super::read::at_least;
use super::resource::Storage;
use super::respond::{self, Accepted, Form};
use super::{Call, convert, errors};
use crate::accept::Encoding;
use crate::request::{BoxError, ResponseBody};
use crate::server::respond::unwritable;

const CHUNK: usize = 64 * 1024;
/// The media type of a watch in protobuf: `WatchEvent`s, each after its length.
pub(crate) const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What an event's frame has beside its object.
const FRAME: usize = 40;
/// A watch without `timeoutSeconds` ends after once to twice this time, so that a fleet does not come back at once.
const DEFAULT_SECONDS: u64 = 1800;

/// Answers a watch.
pub(super) async fn watch(call: &Call<'_>) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let Accepted { form, encoding } = call.accepted()?;
    let options = WatchOptions::parse(call.query, call.served)?;
    let start = match start(storage, call.namespace, &options).await {
        Ok(start) => start,
        // History that is gone is told inside the watch, where every client looks for it.
        Err(status) if status.code == 410 => Start { initial: Vec::new(), watcher: Err(status), end: None },
        Err(status) => return Err(status),
    };
    let seconds = options
        .timeout
        .unwrap_or_else(|| Duration::from_secs(DEFAULT_SECONDS + rand::rng().random_range(0..DEFAULT_SECONDS)));
    let name = if call.named_by_path { call.name.to_owned() } else { String::new() };
    let writer = FrameWriter {
        resource: call.served.resource,
        api_version: call.served.api_version.clone(),
        storage: storage.clone(),
        form,
        encoding,
        selection: options.selection,
        name,
        columns_sent: false,
    };
    let deadline = Instant::now() + seconds;
    let state = Watch {
        writer,
        initial: start.initial.into_iter(),
        end: start.end,
        watcher: start.watcher.map_err(Some),
        bookmarks: options.bookmarks,
        bookmark_at: next_bookmark(call.registry.bookmarks(), deadline),
        interval: call.registry.bookmarks(),
        deadline,
        shutdown: call.registry.shutdown().clone(),
    };
    let frames = stream::unfold(state, |mut state| async move {
        let bytes = state.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), state))
    });
    let mut response = respond::typed(StatusCode::OK, encoding, StreamBody::new(frames).boxed_unsync());
    if encoding == Encoding::Protobuf {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF_STREAM));
    }
    Ok(response)
}

/// Where a watch begins.
struct Start {
    initial: Vec<Arc<Entry>>,
    watcher: Result<Watcher, Status>,
    /// The revision of the initial state, where its end is to be marked.
    end: Option<Revision>,
}

async fn start(storage: &Storage, namespace: &str, options: &WatchOptions) -> Result<Start, Status> {
    let range = storage.range(namespace);
    let replay = match options.send_initial {
        Some(wanted) => wanted,
        None => matches!(options.at, At::Newest | At::Any),
    };
    if replay {
        let cache = at_least(storage, options.at).await?;
        let (snapshot, watcher) = cache.subscribe(&range);
        let initial = snapshot.range(&range, None).filter(|entry| options.selection.matches(entry)).cloned().collect();
        let end = options.bookmarks.then(|| snapshot.revision());
        return Ok(Start { initial, watcher: Ok(watcher), end });
    }
    let cache = storage.cache().await?;
    let after = match options.at {
        At::NotOlderThan(revision) | At::Exact(revision) => Some(revision),
        At::Newest | At::Any => None,
    };
    let watcher = cache.watch(after, &range).await.map_err(|error| match error {
        CacheError::Compacted { requested, oldest } => errors::too_old(requested, oldest),
        error => errors::cache(&error),
    })?;
    Ok(Start { initial: Vec::new(), watcher: Ok(watcher), end: None })
}

/// After about an interval, or shortly before the end.
fn next_bookmark(interval: Duration, deadline: Instant) -> Instant {
    let regular = Instant::now() + interval.mul_f64(rand::rng().random_range(0.75..1.0));
    let last = deadline.checked_sub(Duration::from_secs(2)).unwrap_or(deadline);
    if regular < last || last <= Instant::now() { regular } else { last }
}

/// A running watch.
struct Watch {
    writer: FrameWriter,
    initial: std::vec::IntoIter<Arc<Entry>>,
    end: Option<Revision>,
    /// The error is told once.
    watcher: Result<Watcher, Option<Status>>,
    bookmarks: bool,
    bookmark_at: Instant,
    interval: Duration,
    deadline: Instant,
    shutdown: tokio_util::sync::CancellationToken,
}

impl Watch {
    /// The next frames; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK {
            let Some(entry) = self.initial.next() else { break };
            self.writer.entry(EventKind::Added, &entry, &mut out);
        }
        if self.initial.len() == 0
            && let Some(revision) = self.end.take()
        {
            self.writer.bookmark(revision, true, &mut out);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
        loop {
            let watcher = match &mut self.watcher {
                Ok(watcher) => watcher,
                Err(status) => {
                    self.writer.error(&status.take()?, &mut out);
                    return Some(out.freeze());
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                events = watcher.next() => match events {
                    Ok(events) => self.writer.events(&events, &mut out),
                    Err(CacheError::Closed) => return None,
                    Err(error) => self.watcher = Err(Some(errors::cache(&error))),
                },
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.bookmark_at), if self.bookmarks => {
                    // Reading the cache's revision applies what other resources' writes have moved it to.
                    if let Ok(cache) = self.writer.storage.cache().await {
                        cache.revision();
                    }
                    let revision = watcher.progress();
                    self.bookmark_at = next_bookmark(self.interval, self.deadline);
                    if revision > 0 {
                        self.writer.bookmark(revision, false, &mut out);
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }
}

/// Writes events in the version and form asked for.
struct FrameWriter {
    resource: &'static Resource,
    api_version: String,
    storage: Arc<Storage>,
    form: Form,
    encoding: Encoding,
    selection: Selection,
    /// The one name watched by a legacy path.
    name: String,
    columns_sent: bool,
}

impl FrameWriter {
    fn matches(&self, entry: &Entry) -> bool {
        (self.name.is_empty() || entry.name() == self.name) && self.selection.matches(entry)
    }

    /// Whether objects are as they are stored, whatever the encoding.
    fn plain(&self) -> bool {
        self.form == Form::Object && self.api_version == self.storage.api_version
    }

    fn in_json(&self) -> bool {
        self.encoding == Encoding::Json
    }

    fn events(&mut self, events: &[Arc<WatchEvent>], out: &mut BytesMut) {
        if !(self.selection.is_everything() && self.name.is_empty() && self.plain() && self.in_json()) {
            return events.iter().for_each(|event| self.event(event, out));
        }
        out.reserve(events.iter().map(|event| event.entry.bytes.len() + FRAME).sum());
        events.iter().for_each(|event| event.write_frame(out));
    }

    /// An event as this watcher sees it: an object that enters its selection is added, one that leaves it is deleted.
    fn event(&mut self, event: &WatchEvent, out: &mut BytesMut) {
        let after = event.kind != EventKind::Deleted && self.matches(&event.entry);
        let before = match (&event.previous, event.kind) {
            (Some(previous), _) => self.matches(previous),
            (None, EventKind::Deleted) => self.matches(&event.entry),
            (None, _) => false,
        };
        match (before, after) {
            (false, false) => {}
            (false, true) => self.shared(EventKind::Added, &event.entry, out),
            (true, true) => self.shared(EventKind::Modified, &event.entry, out),
            (true, false) if event.kind == EventKind::Deleted => self.shared(EventKind::Deleted, &event.entry, out),
            (true, false) => {
                let last = event.previous.as_ref().unwrap_or(&event.entry);
                let bytes = meta::replace_rv(&last.bytes, event.revision());
                self.object(EventKind::Deleted.as_str(), &bytes, out);
            }
        }
    }

    fn entry(&mut self, kind: EventKind, entry: &Entry, out: &mut BytesMut) {
        if self.name.is_empty() || entry.name() == self.name {
            self.object(kind.as_str(), &entry.bytes, out);
        }
    }

    /// An object that others watch as well: in protobuf it is encoded by the first of them.
    fn shared(&mut self, kind: EventKind, entry: &Arc<Entry>, out: &mut BytesMut) {
        if self.in_json() || !self.plain() {
            return self.entry(kind, entry, out);
        }
        let encoded = self.storage.budget().form(entry, || self.protobuf(&entry.bytes).map(Bytes::from));
        match encoded {
            Ok(encoded) => protobuf_frame(kind.as_str(), &encoded, out),
            Err(status) => self.error(&status, out),
        }
    }

    /// An object's JSON in protobuf; where it is not in its stored version, its fields are the same in this one.
    fn protobuf(&self, json: &[u8]) -> Result<Vec<u8>, Status> {
        let kind = respond::kind(self.form, &self.api_version, &self.resource.kind)?;
        kind.object(json).map_err(|error| unwritable(&error))
    }

    fn object(&mut self, kind: &str, bytes: &Bytes, out: &mut BytesMut) {
        if self.plain() && self.in_json() {
            return frame(kind, bytes, out);
        }
        if !self.in_json() && (self.plain() || self.storage.convert.is_none()) {
            return match self.protobuf(bytes) {
                Ok(encoded) => protobuf_frame(kind, &encoded, out),
                Err(status) => self.error(&status, out),
            };
        }
        let mut object = match convert::parse(bytes) {
            Ok(object) => object,
            Err(status) => return self.error(&status, out),
        };
        if self.api_version != self.storage.api_version {
            if let Some(convert) = self.storage.convert {
                convert(&mut object, &self.api_version);
            }
            object["apiVersion"] = self.api_version.as_str().into();
        }
        let object = match self.form {
            Form::Object => object,
            Form::Metadata => respond::partial(&object),
            Form::Table(rows) => {
                let mut table = respond::table_head(self.columns_once());
                table["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table["rows"] = json!([respond::row(self.resource, &object, rows, Timestamp::now())]);
                table
            }
        };
        self.value(kind, &object, out);
    }

    /// The columns, with the first table alone.
    fn columns_once(&mut self) -> &'static [table::Column] {
        match std::mem::replace(&mut self.columns_sent, true) {
            false => table::columns(self.resource),
            true => &[],
        }
    }

    fn bookmark(&mut self, revision: Revision, ends_initial: bool, out: &mut BytesMut) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({"kind": self.resource.kind, "apiVersion": self.api_version, "metadata": metadata}),
            Form::Metadata => respond::partial(&json!({"metadata": metadata})),
            Form::Table(rows) => {
                let object = json!({"kind": self.resource.kind, "apiVersion": self.api_version, "metadata": metadata});
                let mut table = respond::table_head(self.columns_once());
                table["metadata"] = json!({"resourceVersion": revision.to_string()});
                if ends_initial {
                    // The annotation is on the row's object, where clients of tables look for it.
                    table["rows"] = json!([respond::row(self.resource, &object, rows, Timestamp::now())]);
                }
                table
            }
        };
        self.value("BOOKMARK", &object, out);
    }

    fn error(&self, status: &Status, out: &mut BytesMut) {
        self.value("ERROR", &status.to_value(), out);
    }

    /// An event with an object that was made for it.
    fn value(&self, kind: &str, object: &Value, out: &mut BytesMut) {
        if self.in_json() {
            return frame(kind, object.to_string().as_bytes(), out);
        }
        match protobuf::Kind::of_object(object).map(|kind| kind.value(object)) {
            Some(Ok(encoded)) => protobuf_frame(kind, &encoded, out),
            // Negotiation has made sure of a form; what is stored fits its schema.
            Some(Err(error)) => tracing::error!(%error, kind, "a watch event cannot be written in protobuf"),
            None => tracing::error!(kind, "a watch event has no protobuf form"),
        }
    }
}

fn frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    out.reserve(object.len() + FRAME);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

fn protobuf_frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    let mut event = Vec::with_capacity(object.len() + FRAME);
    protobuf::watch_event(kind, object, &mut event);
    out.extend_from_slice(&event);
}
