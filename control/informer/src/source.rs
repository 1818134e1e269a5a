//! The only code here that talks to the API server: one resource's state, kept up to date by a watch.
//!
//! The state arrives by a watch with initial events (WatchList); a server that does not know it is listed first. When a
//! watch ends it is resumed from the last revision seen; when that revision is compacted (410) the state is read anew.

use std::fmt::Write as _;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt};
use rand::RngExt;
use serde::de::DeserializeOwned;
use supervise::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::frame::{self, Frame, List, StubFrame};
use crate::meta::Projection;
use crate::rest::Path;

/// The longest line a watch may send: several times the largest object a server stores.
const MAX_FRAME: usize = 32 << 20;
/// Servers end watches after about this long, so that dead connections are noticed.
const WATCH_TIMEOUT: Duration = Duration::from_secs(280);
/// A watch that lasts so long is lost: its connection is dead, and the server's word of its end never came.
const LOST_AFTER: Duration = WATCH_TIMEOUT.saturating_add(Duration::from_secs(40));
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
/// A watch that lived this long was healthy: its end is no reason to hesitate.
const HEALTHY: Duration = Duration::from_secs(5);
const LIST_PAGE: usize = 500;

/// An object that tells its revision.
pub trait Revisioned: DeserializeOwned + Send + 'static {
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str;
}

impl<T: Projection> Revisioned for T {
    fn resource_version(&self) -> &str {
        &self.meta().resource_version
    }
}

/// Where the objects go.
pub trait Sink<T>: Send {
    /// A full state follows by `upsert`.
    fn begin(&mut self);
    /// An object is new or changed.
    fn upsert(&mut self, object: T);
    /// An object is gone.
    fn delete(&mut self, last: T);
    /// The full state is complete; what was not in it is gone.
    fn synced(&mut self);
}

/// What is watched.
#[derive(Clone, Debug)]
pub struct Target {
    /// Path of the collection, e.g. `/api/v1/pods`.
    pub path: String,
    /// Field selector, empty for all.
    pub field_selector: String,
    /// Label selector, empty for all.
    pub label_selector: String,
    /// `Accept` header.
    pub accept: &'static str,
}

/// Why a watch ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The request was not answered, or refused.
    #[error("cannot watch {path}")]
    Request {
        /// What was asked for.
        path: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The connection broke.
    #[error("the watch of {path} broke off")]
    Read {
        /// What was watched.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server ended the watch with an error.
    #[error("the watch of {path} was ended by the server: {code} {reason}: {message}")]
    Server {
        /// What was watched.
        path: String,
        /// HTTP status code.
        code: u16,
        /// Machine-readable reason.
        reason: String,
        /// Explanation.
        message: String,
    },
    /// Something else than a watch event or a list arrived.
    #[error("unreadable answer from {path}")]
    Parse {
        /// What was watched.
        path: String,
        /// What was wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A line longer than any object can be.
    #[error("a watch event of {path} is longer than {MAX_FRAME} bytes")]
    TooLong {
        /// What was watched.
        path: String,
    },
}

/// Starts to feed `sink`, until `shutdown`. After a panic it is fed the whole state again.
pub fn start<T: Revisioned>(
    client: kube::Client,
    target: Target,
    sink: impl Sink<T> + 'static,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) {
    supervise::spawn(
        "watch",
        tasks,
        &shutdown.clone(),
        (client, target, sink, shutdown),
        |(client, target, sink, shutdown)| {
            let source = Source::new(client.clone(), target.clone());
            Box::pin(run(source, sink, LOST_AFTER, shutdown))
        },
    );
}

async fn run<T: Revisioned>(
    mut source: Source,
    sink: &mut impl Sink<T>,
    lost_after: Duration,
    shutdown: &CancellationToken,
) {
    let (mut backoff, mut failures) = (BACKOFF, 0);
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            ended = source.connect(sink) => ended,
            () = tokio::time::sleep(lost_after) => Ok(()),
        };
        if started.elapsed() >= HEALTHY {
            backoff.reset();
            failures = 0;
        }
        if let Err(error) = ended {
            source.learn(&error);
            failures += 1;
            let chain = error_chain(&error);
            if error.is_expired() {
                tracing::info!(resource = source.target.path, "revision compacted, reading the state again");
            } else if failures <= 3 {
                tracing::debug!(resource = source.target.path, error = chain, "watch failed, trying again");
            } else {
                tracing::warn!(resource = source.target.path, error = chain, "watch keeps failing, trying again");
            }
        }
        // Also after a clean end: a server that ends every watch at once must not be hammered.
        if started.elapsed() < HEALTHY {
            // Up to half as long again, so that many clients do not come back at once.
            let delay = backoff.step().mul_f64(1.0 + rand::rng().random_range(0.0..0.5));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

struct Source {
    client: kube::Client,
    target: Target,
    /// Whether the server is thought to know `sendInitialEvents`.
    watch_list: bool,
    /// The revision to resume from; none before the first full state.
    revision: Option<String>,
    /// A full state is arriving.
    replacing: bool,
}

/// The connection's lines, one buffer for all.
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
}

// === impl Target ===

impl Target {
    /// All objects of a resource, or those of one namespace.
    pub fn new(group: &str, version: &str, resource: &str, namespace: Option<&str>) -> Self {
        let path = Path::collection(group, version, resource, namespace.unwrap_or_default()).as_str().to_owned();
        Self { path, field_selector: String::new(), label_selector: String::new(), accept: "application/json" }
    }

    fn uri(&self, parameters: &[(&str, &str)]) -> String {
        let mut uri = format!("{}?", self.path);
        let selectors = [("fieldSelector", self.field_selector.as_str()), ("labelSelector", &self.label_selector)];
        for (key, value) in selectors.iter().chain(parameters).filter(|(_, value)| !value.is_empty()) {
            uri.push_str(key);
            uri.push('=');
            escape(value, &mut uri);
            uri.push('&');
        }
        uri.pop();
        uri
    }
}

// === impl SourceError ===

impl SourceError {
    fn code(&self) -> u16 {
        match self {
            SourceError::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code,
                _ => 0,
            },
            SourceError::Server { code, .. } => *code,
            _ => 0,
        }
    }

    fn is_expired(&self) -> bool {
        self.code() == 410
    }
}

// === impl Source ===

impl Source {
    fn new(client: kube::Client, target: Target) -> Source {
        Source { client, target, watch_list: true, revision: None, replacing: false }
    }

    /// One connection, from request to end.
    async fn connect<T: Revisioned>(&mut self, sink: &mut impl Sink<T>) -> Result<(), SourceError> {
        if self.revision.is_none() && !self.watch_list {
            self.list(sink).await?;
        }
        let timeout = (WATCH_TIMEOUT.as_secs() + rand::rng().random_range(0..10u64)).to_string();
        let mut parameters = vec![("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", &timeout)];
        match &self.revision {
            Some(revision) => parameters.push(("resourceVersion", revision)),
            None => {
                parameters.extend([("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]);
                self.replacing = true;
                sink.begin();
            }
        }
        let uri = self.target.uri(&parameters);
        let reader = self.client.request_stream(self.request(&uri)?).await.map_err(|error| self.failed(error))?;
        let mut lines = Lines { reader: std::pin::pin!(reader), buffer: Vec::new() };
        loop {
            let path = &self.target.path;
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                    return Err(SourceError::TooLong { path: path.clone() });
                }
                Err(source) => return Err(SourceError::Read { path: path.clone(), source }),
            };
            match frame::parse(line) {
                Ok(frame) => self.take(frame, sink)?,
                Err(source) => self.take_unreadable(line, source)?,
            }
        }
    }

    fn take<T: Revisioned>(&mut self, frame: Frame<T>, sink: &mut impl Sink<T>) -> Result<(), SourceError> {
        match frame {
            Frame::Added(object) | Frame::Modified(object) => {
                self.advance(object.resource_version());
                sink.upsert(object);
            }
            Frame::Deleted(object) => {
                self.advance(object.resource_version());
                sink.delete(object);
            }
            Frame::Bookmark { resource_version, initial_events_end } => {
                if self.replacing && initial_events_end {
                    self.replacing = false;
                    sink.synced();
                }
                self.advance(&resource_version);
            }
            Frame::Error(error) => {
                let path = self.target.path.clone();
                return Err(SourceError::Server {
                    path,
                    code: error.code,
                    reason: error.reason,
                    message: error.message,
                });
            }
        }
        Ok(())
    }

    /// An object that does not fit the projection must not stop the others; a line that is no event at all ends the watch.
    fn take_unreadable(&mut self, line: &[u8], source: serde_json::Error) -> Result<(), SourceError> {
        let path = self.target.path.clone();
        let Ok(StubFrame { object }) = serde_json::from_slice::<StubFrame>(line) else {
            return Err(SourceError::Parse { path, source });
        };
        let stub = object.metadata;
        tracing::error!(
            resource = path,
            namespace = stub.namespace,
            name = stub.name,
            error = %source,
            "object does not have the expected form and is passed over"
        );
        self.advance(&stub.resource_version);
        Ok(())
    }

    /// Initial events come in the order of keys, not of revisions: nothing can be resumed before their end.
    fn advance(&mut self, revision: &str) {
        if !self.replacing && !revision.is_empty() && revision != "0" {
            self.revision = Some(revision.to_owned());
        }
    }

    /// For servers without WatchList: the whole state by pages.
    async fn list<T: Revisioned>(&mut self, sink: &mut impl Sink<T>) -> Result<(), SourceError> {
        let (limit, mut token) = (LIST_PAGE.to_string(), String::new());
        sink.begin();
        loop {
            let uri = self.target.uri(&[("limit", &limit), ("continue", &token)]);
            let text = self.client.request_text(self.request(&uri)?).await.map_err(|error| self.failed(error))?;
            let page: List<T> = serde_json::from_str(&text)
                .map_err(|source| SourceError::Parse { path: self.target.path.clone(), source })?;
            page.items.into_iter().for_each(|object| sink.upsert(object));
            token = page.metadata.r#continue;
            if token.is_empty() {
                sink.synced();
                self.revision = Some(page.metadata.resource_version);
                return Ok(());
            }
        }
    }

    /// What a failure says about the next try.
    fn learn(&mut self, error: &SourceError) {
        let refused = matches!(error, SourceError::Request { .. });
        match error.code() {
            410 => self.revision = None,
            400 | 422 if refused && self.revision.is_none() && self.watch_list => {
                tracing::info!(resource = self.target.path, "server has no streaming lists, listing instead");
                self.watch_list = false;
            }
            _ => {}
        }
    }

    fn request(&self, uri: &str) -> Result<http::Request<Vec<u8>>, SourceError> {
        http::Request::get(uri)
            .header(http::header::ACCEPT, self.target.accept)
            .body(Vec::new())
            .map_err(|error| self.failed(kube::Error::HttpError(error)))
    }

    fn failed(&self, error: kube::Error) -> SourceError {
        SourceError::Request { path: self.target.path.clone(), source: Box::new(error) }
    }
}

// === impl Lines ===

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line, none at the end. An unfinished last line is dropped: its revision will be sent again.
    async fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        self.buffer.clear();
        // One large object must not hold its size for as long as the watch lives.
        self.buffer.shrink_to(64 << 10);
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let part = newline.unwrap_or(chunk.len());
            if self.buffer.len() + part > MAX_FRAME {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            self.buffer.extend_from_slice(&chunk[..part]);
            self.reader.consume_unpin(part + usize::from(newline.is_some()));
            if newline.is_some() && !self.buffer.is_empty() {
                return Ok(Some(&self.buffer));
            }
        }
    }
}

fn escape(value: &str, out: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// An error and its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Sink<Stub> for Nothing {
        fn begin(&mut self) {}
        fn upsert(&mut self, _: Stub) {}
        fn delete(&mut self, _: Stub) {}
        fn synced(&mut self) {}
    }

    #[derive(serde::Deserialize)]
    struct Stub;

    impl Revisioned for Stub {
        fn resource_version(&self) -> &str {
            ""
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_lost_is_asked_for_again() {
        let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asked.send(()).unwrap();
            // An answer that never comes, as over a dead connection.
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let client = kube::Client::new(service, "default");
        let (source, shutdown) = (Source::new(client, Target::new("", "v1", "pods", None)), CancellationToken::new());
        let mut sink = Nothing;
        let watching = run(source, &mut sink, Duration::from_millis(1), &shutdown);
        let twice = async {
            requests.recv().await.unwrap();
            requests.recv().await.unwrap();
            shutdown.cancel();
        };
        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(watching, twice) }).await.unwrap();
    }

    #[test]
    fn paths_and_parameters() {
        let mut target = Target::new("", "v1", "pods", None);
        assert_eq!(target.uri(&[("watch", "true"), ("continue", "")]), "/api/v1/pods?watch=true");
        target = Target::new("apps", "v1", "deployments", Some("a"));
        target.field_selector = "spec.nodeName=n 1".into();
        target.label_selector = "a in (b,c)".into();
        assert_eq!(
            target.uri(&[("limit", "5")]),
            "/apis/apps/v1/namespaces/a/deployments?fieldSelector=spec.nodeName%3Dn%201&labelSelector=a%20in%20%28b%2Cc%29&limit=5"
        );
    }
}
