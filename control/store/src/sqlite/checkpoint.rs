//! Checkpoints: moving the write-ahead log into the database while the writer goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use super::{failure, file};
use crate::api::Result;

/// Pages written after which the log is copied: 4 MiB.
const DUE: u64 = 1_024;
/// Pages in the log beyond which the writer makes it start over, 8 MiB; only what was written during the copy is left to do.
const RESTART: i64 = 2_048;
/// Pages beyond which the log's file is cut off as well: 24 MiB.
const TRUNCATE: i64 = 6_144;

/// The writer's side.
pub(super) struct Checkpoints {
    path: PathBuf,
    written: u64,
    requests: Option<mpsc::SyncSender<()>>,
    restart: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(path: PathBuf) -> Result<Checkpoints> {
        let connection = file::connect(&path, false)?;
        let restart = Arc::new(AtomicBool::new(false));
        // One place: a request that finds it taken is already as good as served.
        let (requests, queue) = mpsc::sync_channel(1);
        let (wanted, name) = (restart.clone(), path.clone());
        let copy = move || {
            while queue.recv().is_ok() {
                match catch_unwind(AssertUnwindSafe(|| run(&connection, "PASSIVE"))) {
                    Ok(Ok(log)) => wanted.store(log > RESTART, Ordering::Relaxed),
                    Ok(Err(error)) => warn(&name, &error),
                    Err(panic) => supervise::panicked("store checkpoint", &*panic),
                }
            }
        };
        let thread = thread::Builder::new().name("store-checkpoint".to_owned()).spawn(copy);
        let thread = thread.map_err(|error| crate::StoreError::Io {
            action: "starting the checkpoints of",
            path: path.clone(),
            message: error.to_string(),
        })?;
        Ok(Checkpoints { path, written: DUE, requests: Some(requests), restart, thread: Some(thread) })
    }

    /// Called after each commit with the pages that it wrote, about.
    pub(super) fn committed(&mut self, pages: u64, writer: &Connection) {
        if self.restart.swap(false, Ordering::Relaxed) {
            // Short: the other thread has just copied all but the newest pages. A reader in the way only puts it off.
            if let Err(error) = start_over(writer) {
                warn(&self.path, &error);
            }
        }
        self.written += pages;
        if self.written >= DUE
            && let Some(requests) = &self.requests
            && requests.try_send(()).is_ok()
        {
            self.written = 0;
        }
    }

    /// Ends the thread, and leaves a database without a log.
    pub(super) fn finish(mut self, writer: &Connection) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the checkpoint thread panicked");
        }
        if let Err(error) = run(writer, "TRUNCATE") {
            warn(&self.path, &error);
        }
    }
}

fn start_over(writer: &Connection) -> rusqlite::Result<()> {
    writer.busy_timeout(Duration::ZERO)?;
    if run(writer, "RESTART")? > TRUNCATE {
        run(writer, "TRUNCATE")?;
    }
    writer.busy_timeout(file::BUSY)
}

/// Answers the pages that were in the log. A checkpoint that others are in the way of is not an error.
fn run(connection: &Connection, mode: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1))
}

/// Nothing is lost by a failed checkpoint: the log keeps what it has, and a later one tries again.
fn warn(path: &std::path::Path, error: &rusqlite::Error) {
    let error = failure(path, "checkpointing", error);
    tracing::warn!(%error, "a checkpoint failed; the log stays as it is");
}
