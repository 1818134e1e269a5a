//! The store on SQLite.
//!
//! One table holds a row a write, keyed by revision: the newest row of a key is its state, older rows are history until
//! they are compacted. So a value is written once, a list at an older revision is the same query as a list of now, and a
//! watch resumes by reading rows in order.
//!
//! - [`writer`] is the one thread that writes. It takes all queued writes, applies them in one transaction, and answers them
//!   after the one sync of its commit. SQLite shows a commit to readers only after that sync, so nothing is ever seen that
//!   a power cut could take back.
//! - [`reader`] has the queries; they run on connections of their own, on tokio's blocking threads.
//! - [`checkpoint`] moves the write-ahead log into the database beside the writer.
//! - [`history`] says how much of the past is kept.
//! - [`file`] decides whether a file is ours and sound before anything is written to it.

mod checkpoint;
mod file;
mod history;
mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Expect, KeyValue, Page, Result, Revision, Store, StoreError, StoreEvent};
use crate::hub::{Hub, WatchStream};
use reader::Readers;
use writer::{Change, Command, Write};

/// Writes that wait for the writer. Who finds the queue full waits for room.
const QUEUE: usize = 4_096;

/// How a [`SqliteStore`] keeps its history.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Superseded states are kept at most about this long.
    pub history_age: Duration,
    /// Superseded states are kept up to about this many bytes.
    pub history_bytes: u64,
    /// Bound of the database file, if there is one: beyond it writes fail as on a full disk.
    pub max_bytes: Option<u64>,
}

/// The store on one SQLite file.
pub struct SqliteStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

struct Shared {
    path: PathBuf,
    hub: Hub,
    readers: Readers,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions { history_age: Duration::from_secs(300), history_bytes: 16 << 20, max_bytes: None }
    }
}

impl SqliteStore {
    /// Opens the database at `path`, or makes it. Blocks for the time of a few reads.
    ///
    /// A file that is not a sound database of ours is refused and left as it is.
    pub fn open(path: impl AsRef<Path>, options: &SqliteOptions) -> Result<SqliteStore> {
        let path = path.as_ref().to_path_buf();
        let opened = file::open(&path, options)?;
        let revision = opened.revision;
        let shared =
            Arc::new(Shared { readers: Readers::new(path.clone()), path: path.clone(), hub: Hub::new(revision) });
        let (commands, queue) = mpsc::channel(QUEUE);
        writer::start(opened, options, shared.clone(), queue).map_err(|error| StoreError::Io {
            action: "starting the writer of",
            path,
            message: error.to_string(),
        })?;
        Ok(SqliteStore { shared, commands })
    }

    async fn change(&self, key: &str, change: Change, expect: Expect) -> Result<(Option<KeyValue>, Revision)> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Write(Write { key: key.into(), change, expect, reply: Some(reply) });
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a query away from the asynchronous threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Shared, &rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.shared.clone();
        let turn = shared.readers.turn().await?;
        let read = move || {
            // Whoever asked may be gone; the query is not.
            let _turn = turn;
            shared.readers.with(|connection| query(&shared, connection))
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| StoreError::Io {
            action: "reading",
            path: self.shared.path.clone(),
            message: error.to_string(),
        })?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision)> {
        let key = key.to_owned();
        self.read(move |shared, connection| reader::get(shared, connection, &key)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize, at: Option<Revision>) -> Result<Page> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.read(move |shared, connection| {
            reader::list(shared, connection, &prefix, start_after.as_deref(), limit, at)
        })
        .await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, ttl: Option<Duration>) -> Result<Revision> {
        let (_, revision) = self.change(key, Change::Put { value, ttl }, expect).await?;
        Ok(revision)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(KeyValue, Revision)> {
        match self.change(key, Change::Delete, expect).await? {
            (Some(last), revision) => Ok((last, revision)),
            (None, _) => Err(StoreError::Conflict { current: None }),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        // Subscribed first: what is committed while the history is read arrives in the stream.
        let (stream, since) = self.shared.hub.subscribe(prefix);
        if after > since {
            return Err(StoreError::Future { current: since });
        }
        let prefix = prefix.to_owned();
        let read =
            move |shared: &_, connection: &_| reader::history(shared, connection, &prefix, after, since, usize::MAX);
        let (history, _) = self.read(read).await?;
        stream.prepend(history);
        Ok(stream)
    }

    async fn history(&self, prefix: &str, after: Revision, bytes: usize) -> Result<(Vec<StoreEvent>, Revision)> {
        let current = self.shared.hub.committed();
        if after > current {
            return Err(StoreError::Future { current });
        }
        let prefix = prefix.to_owned();
        self.read(move |shared, connection| reader::history(shared, connection, &prefix, after, current, bytes)).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        if self.commands.is_closed() { Err(StoreError::Closed) } else { Ok(self.shared.hub.committed()) }
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let current = self.shared.hub.committed();
        if revision > current {
            return Err(StoreError::Future { current });
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Compact { revision, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            // An error only says that the writer ended otherwise.
            let _ = closed.await;
        }
    }
}

/// What went wrong, in the store's terms.
fn failure(path: &Path, action: &'static str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let path = path.to_path_buf();
    let message = error.to_string();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path, message },
        // The index of the log lives in a file of its own, which has to grow as well.
        _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full { path, message },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => file::damaged(&path, message),
        _ => StoreError::Io { action, path, message },
    }
}
