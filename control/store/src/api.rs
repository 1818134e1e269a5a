//! The storage trait and the values that cross it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::hub::WatchStream;

/// The store's logical clock. Each successful write has the next revision; revisions never go back, restarts included.
pub type Revision = u64;

/// Shorthand for results of this crate's stores.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// One object as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// `/registry/<group>/<resource>/[<namespace>/]<name>`.
    pub key: Arc<str>,
    /// The encoded object, without its `resourceVersion`.
    pub value: Bytes,
    /// The revision of the write that made the key.
    pub create_revision: Revision,
    /// The revision of the last write.
    pub mod_revision: Revision,
}

/// What a write demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: write whatever is there. (A delete of an absent key is still a conflict.)
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Revision(Revision),
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The first write of a key.
    Added,
    /// A later write.
    Modified,
    /// The key is gone.
    Deleted,
}

impl EventKind {
    /// The name that the watch protocol gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One committed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEvent {
    /// What happened.
    pub kind: EventKind,
    /// The new state; for a deletion the last state, with the deletion's revision as `mod_revision`.
    pub object: KeyValue,
    /// The state before, if there was one.
    pub previous: Option<KeyValue>,
}

impl StoreEvent {
    /// The revision of the write.
    pub fn revision(&self) -> Revision {
        self.object.mod_revision
    }

    /// How much it holds.
    fn bytes(&self) -> usize {
        self.object.value.len() + self.previous.as_ref().map_or(0, |previous| previous.value.len())
    }
}

/// Objects below a prefix, in key order, as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most `limit` objects.
    pub items: Vec<KeyValue>,
    /// The revision at which this is the state.
    pub revision: Revision,
    /// Whether objects follow after the last item.
    pub more: bool,
    /// How many follow.
    pub remaining: usize,
}

/// Why a store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key's state is not what the write expected.
    #[error("the key's state is not the expected one (it is {})", .current.as_ref().map_or_else(|| "absent".to_owned(), |kv| format!("at revision {}", kv.mod_revision)))]
    Conflict {
        /// What is there instead.
        current: Option<KeyValue>,
    },
    /// The history asked for is gone.
    #[error("the requested revision has been compacted; the oldest available is {oldest}")]
    Compacted {
        /// The oldest revision that can be listed or watched from.
        oldest: Revision,
    },
    /// The revision asked for is not reached yet.
    #[error("the requested revision is in the future; the current one is {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
    /// No space on the disk. Nothing of the write was kept; reads go on, and writes succeed once there is space.
    #[error("the disk of {} is full: {message}", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        message: String,
    },
    /// The file is not a sound database of ours. It was left as it is.
    #[error("{} cannot be used as Keelson's database: {problem}. {remedy}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process has the database open.
    #[error("{} is in use by another process{holder}. Stop it first, or give this one another --data-dir", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
        /// `" (pid N)"` where known.
        holder: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A watcher did not keep up.
    #[error("the watcher fell behind and was cut off")]
    Lagged,
    /// Input or output failed.
    #[error("{action} {}: {message}", path.display())]
    Io {
        /// What was tried, e.g. "writing".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system or the database said.
        message: String,
    },
}

/// The first of `events` that have about so many `bytes`, at least one, and whether others follow.
pub(crate) fn first_bytes<E>(
    events: impl Iterator<Item = Result<StoreEvent, E>>,
    bytes: usize,
) -> Result<(Vec<StoreEvent>, bool), E> {
    let (mut found, mut taken) = (Vec::new(), 0usize);
    for event in events {
        if taken >= bytes {
            return Ok((found, true));
        }
        let event = event?;
        taken = taken.saturating_add(event.bytes());
        found.push(event);
    }
    Ok((found, false))
}

/// Where objects are kept.
///
/// Writes are acknowledged once they are durable, and their events have reached every [`WatchStream`]'s queue by then.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The object at `key`, and the revision at which this was so.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)>;

    /// The objects whose keys start with `prefix`, in key order, after the key `start_after`, at most `limit` (0: all),
    /// now or at an older revision.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize, at: Option<Revision>) -> Result<Page>;

    /// Writes `key` if it is as expected. With `ttl` the object is deleted that long after this write.
    async fn put(&self, key: &str, value: Bytes, expect: Expect, ttl: Option<Duration>) -> Result<Revision>;

    /// Deletes `key` if it is as expected; answers its last state and the deletion's revision.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(KeyValue, Revision)>;

    /// Everything that is written below `prefix` after the revision `after`, exactly once and in order.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream>;

    /// What was written below `prefix` after the revision `after`, in order: all of it, or what begins it and has about so many
    /// `bytes`. With the revision up to which this is all.
    async fn history(&self, prefix: &str, after: Revision, bytes: usize) -> Result<(Vec<StoreEvent>, Revision)>;

    /// The revision of the last acknowledged write.
    async fn current_revision(&self) -> Result<Revision>;

    /// Forgets the history up to `revision` (which stays readable itself; older ones become [`StoreError::Compacted`]).
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Finishes the queued writes and closes. Later calls answer [`StoreError::Closed`].
    async fn close(&self);
}
