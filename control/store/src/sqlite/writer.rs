//! The writer: one thread, one transaction for everything queued, one sync, then the answers.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoints;
use super::history::{History, STEP};
use super::{Shared, SqliteOptions, failure, file};
use crate::api::{EventKind, Expect, KeyValue, Result, Revision, StoreError, StoreEvent};

/// Writes in one transaction at most.
const BATCH: usize = 256;
/// Objects that expire in one transaction at most.
const EXPIRE: usize = 256;
/// Pause before housekeeping is tried again after it failed.
const RETRY: Duration = Duration::from_secs(1);

type Answer = Result<(Option<KeyValue>, Revision)>;

/// What the store asks of its writer.
pub(super) enum Command {
    Write(Write),
    Compact { revision: Revision, reply: oneshot::Sender<Result<()>> },
    Close { reply: oneshot::Sender<()> },
}

/// What a write does to its key.
pub(super) enum Change {
    Put { value: Bytes, ttl: Option<Duration> },
    Delete,
}

/// A put or a delete.
pub(super) struct Write {
    pub(super) key: Arc<str>,
    pub(super) change: Change,
    pub(super) expect: Expect,
    /// Nobody waits for those that expiry makes.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    revision: Revision,
    history: History,
    checkpoints: Checkpoints,
    /// When the first object expires, in milliseconds since 1970.
    expiry: Option<i64>,
    /// Housekeeping rests until then, after a failure.
    rest_until: Option<Instant>,
    /// Which file it is.
    identity: file::Identity,
    /// Set once a sync failed: the kernel may have dropped pages that it could not write, so no later commit can be trusted.
    poisoned: Option<String>,
    _lock: File,
}

/// A transaction's effect, to be told once it is durable.
#[derive(Default)]
struct Effect {
    answers: Vec<Answer>,
    events: Vec<Arc<StoreEvent>>,
    superseded_bytes: u64,
    pages: u64,
    expiry: Option<i64>,
}

/// The newest row of a key.
struct Newest {
    object: KeyValue,
    expires: Option<i64>,
}

/// Starts the thread. It ends on [`Command::Close`], or when the store is dropped.
pub(super) fn start(
    opened: file::Opened,
    options: &SqliteOptions,
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Command>,
) -> Result<()> {
    let path = shared.path.clone();
    let failed = |action, message: String| StoreError::Io { action, path: path.clone(), message };
    let sql = |error: rusqlite::Error| failure(&path, "opening", &error);
    let history = History::open(&opened.connection, opened.compacted, opened.revision, options).map_err(sql)?;
    let expiry = first_expiry(&opened.connection).map_err(sql)?;
    let mut writer = Writer {
        checkpoints: Checkpoints::start(path.clone())?,
        connection: opened.connection,
        shared,
        revision: opened.revision,
        history,
        expiry,
        rest_until: None,
        identity: opened.identity,
        poisoned: None,
        _lock: opened.lock,
    };
    // A runtime of its own: the queue is asynchronous and has deadlines; what runs between two waits may block.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| failed("starting the writer of", error.to_string()))?;
    let body = move || {
        let reply = runtime.block_on(async {
            let mut commands = Vec::with_capacity(BATCH);
            loop {
                tokio::select! {
                    biased;
                    count = queue.recv_many(&mut commands, BATCH) => if count == 0 { return None },
                    () = tokio::time::sleep_until(writer.deadline().into()) => {}
                }
                // Unwinding takes the transaction back and drops the writes' senders, which tells those who wait.
                let turn = catch_unwind(AssertUnwindSafe(|| writer.turn(&mut commands)));
                match turn {
                    Ok(None) => {}
                    Ok(Some(reply)) => return Some(reply),
                    Err(panic) => {
                        supervise::panicked("store writer", &*panic);
                        commands.clear();
                        if let Err(error) = writer.recover() {
                            tracing::error!(%error, "the store cannot go on after a panic");
                            return None;
                        }
                    }
                }
            }
        });
        // Before the answer: the queue's end tells later callers, and the file is free once `close` returns.
        queue.close();
        drop(queue);
        writer.finish();
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    };
    thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(body)
        .map_err(|error| failed("starting the writer of", error.to_string()))?;
    Ok(())
}

impl Writer {
    /// After a panic: what is in the database counts, and watchers that may have missed some of it read it again.
    fn recover(&mut self) -> Result<()> {
        let Self { connection, shared, history, .. } = self;
        let read = (|| {
            let (compacted, revision) = file::revisions(connection)?;
            history.reopen(connection, compacted, revision)?;
            Ok((revision, first_expiry(connection)?))
        })();
        (self.revision, self.expiry) = read.map_err(|error| failure(&shared.path, "reading", &error))?;
        self.shared.hub.resume_at(self.revision);
        Ok(())
    }

    /// When there is something to do without a command.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let expiry = self.expiry.map(|at| now + Duration::from_millis(u64::try_from(at - now_ms()).unwrap_or(0)));
        let next = [expiry, self.history.deadline()].into_iter().flatten().min();
        let next = next.filter(|_| self.poisoned.is_none()).unwrap_or(now + Duration::from_secs(86_400));
        self.rest_until.map_or(next, |rest| next.max(rest))
    }

    /// Handles commands, then what is due. Answers the sender of a `Close`.
    fn turn(&mut self, commands: &mut Vec<Command>) -> Option<oneshot::Sender<()>> {
        let (mut writes, mut closing) = (Vec::with_capacity(commands.len()), None);
        for command in commands.drain(..) {
            match command {
                Command::Write(write) => writes.push(write),
                Command::Compact { revision, reply } => {
                    self.write(std::mem::take(&mut writes));
                    // The caller may have gone; the history is forgotten all the same.
                    let _ = reply.send(self.compact(revision, u64::MAX));
                }
                Command::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
            }
        }
        self.write(writes);
        if closing.is_none() && self.poisoned.is_none() && self.rest_until.is_none_or(|rest| rest <= Instant::now()) {
            self.housekeep();
        }
        closing
    }

    fn write(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        match self.commit(&writes) {
            Ok(answers) => {
                for (write, answer) in writes.into_iter().zip(answers) {
                    write.answer(answer);
                }
            }
            // Full for all of them together is not full for each.
            Err(StoreError::Full { .. }) if writes.len() > 1 => {
                for write in writes {
                    let answer = self
                        .commit(std::slice::from_ref(&write))
                        .and_then(|mut answers| answers.pop().unwrap_or(Err(StoreError::Closed)));
                    write.answer(answer);
                }
            }
            Err(error) => {
                for write in writes {
                    write.answer(Err(again(&error)));
                }
            }
        }
    }

    /// One transaction. When it is durable, its events are published, and then the answers are given back.
    fn commit(&mut self, writes: &[Write]) -> Result<Vec<Answer>> {
        self.usable()?;
        let mut effect = Effect::default();
        let done = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for write in writes {
                effect.apply(&transaction, write, self.revision)?;
            }
            #[cfg(test)]
            tests::trip(writes, tests::BEFORE_COMMIT);
            if effect.events.is_empty() {
                return transaction.rollback();
            }
            effect.pages += self.history.trim(&transaction)?;
            transaction.commit()
        })();
        if let Err(error) = done {
            self.history.rolled_back();
            return Err(self.failed(&error));
        }
        let Effect { answers, events, superseded_bytes, pages, expiry } = effect;
        if let Some(last) = events.last() {
            self.revision = last.revision();
            self.expiry = [self.expiry, expiry].into_iter().flatten().min();
            self.history.written(self.revision, events.len(), superseded_bytes);
            self.history.committed();
            #[cfg(test)]
            tests::trip(writes, tests::AFTER_COMMIT);
            self.shared.hub.publish(&events);
            self.checkpoints.committed(pages, &self.connection);
        }
        Ok(answers)
    }

    fn compact(&mut self, revision: Revision, most: u64) -> Result<()> {
        self.usable()?;
        let done = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let pages = self.history.compact(&transaction, revision, most)?;
            transaction.commit()?;
            Ok(pages)
        })();
        match done {
            Ok(pages) => {
                self.history.committed();
                self.checkpoints.committed(pages, &self.connection);
                Ok(())
            }
            Err(error) => {
                self.history.rolled_back();
                Err(self.failed(&error))
            }
        }
    }

    /// Deletes what has expired, as any delete, and forgets old history while nothing else is written.
    fn housekeep(&mut self) {
        self.rest_until = None;
        let expired = if self.expiry.is_some_and(|at| at <= now_ms()) { self.expire() } else { Ok(()) };
        let trimmed = expired.and_then(|()| match self.history.overdue() {
            Some(revision) => self.compact(revision, 4 * STEP),
            None => Ok(()),
        });
        if let Err(error) = trimmed {
            tracing::warn!(%error, "the store's housekeeping failed; trying again");
            self.rest_until = Some(Instant::now() + RETRY);
        }
    }

    fn expire(&mut self) -> Result<()> {
        let failed = |error: rusqlite::Error| failure(&self.shared.path, "reading", &error);
        let due: Vec<(String, Revision)> = (|| {
            let sql = "SELECT key, rev FROM kv WHERE expires <= ?1 ORDER BY expires LIMIT ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![now_ms(), EXPIRE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })()
        .map_err(failed)?;
        let writes: Vec<_> = due
            .into_iter()
            .map(|(key, revision)| Write {
                key: key.into(),
                change: Change::Delete,
                expect: Expect::Revision(revision),
                reply: None,
            })
            .collect();
        if !writes.is_empty() {
            self.commit(&writes)?;
        }
        self.expiry = first_expiry(&self.connection).map_err(|error| failure(&self.shared.path, "reading", &error))?;
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if !file::is_still(&self.shared.path, self.identity) {
            return Err(StoreError::Io {
                action: "writing",
                path: self.shared.path.clone(),
                message: "the file was moved or deleted while it was in use, so nothing more can be kept in it; \
                          put it back, or restart keelson to go on without it"
                    .to_owned(),
            });
        }
        match &self.poisoned {
            None => Ok(()),
            Some(message) => Err(StoreError::Io {
                action: "an earlier write could not be synced; restart keelson once the disk is sound:",
                path: self.shared.path.clone(),
                message: message.clone(),
            }),
        }
    }

    fn failed(&mut self, error: &rusqlite::Error) -> StoreError {
        use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};
        let code = error.sqlite_error().map(|error| error.extended_code);
        if matches!(code, Some(SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC)) {
            tracing::error!(path = %self.shared.path.display(), %error, "a sync failed; the store takes no more writes");
            self.poisoned = Some(error.to_string());
        }
        failure(&self.shared.path, "writing", error)
    }

    fn finish(self) {
        let Writer { connection, shared, checkpoints, _lock, .. } = self;
        shared.hub.close();
        shared.readers.close();
        checkpoints.finish(&connection);
        drop(connection);
        drop(_lock);
    }
}

impl Write {
    fn answer(self, answer: Answer) {
        if let Some(reply) = self.reply {
            // Whoever gave up waiting does not want it.
            let _ = reply.send(answer);
        }
    }
}

impl Effect {
    /// Checks one write against the state as the writes before it left it, and applies it.
    fn apply(&mut self, transaction: &Transaction<'_>, write: &Write, base: Revision) -> rusqlite::Result<()> {
        let newest = newest(transaction, &write.key)?;
        let current = newest.as_ref().map(|newest| &newest.object);
        let holds = match (write.expect, &write.change) {
            (Expect::Any, Change::Put { .. }) => true,
            (Expect::Any, Change::Delete) => current.is_some(),
            (Expect::Absent, Change::Put { .. }) => current.is_none(),
            (Expect::Absent, Change::Delete) => false,
            (Expect::Revision(revision), _) => current.is_some_and(|object| object.mod_revision == revision),
        };
        if !holds {
            self.answers.push(Err(StoreError::Conflict { current: newest.map(|newest| newest.object) }));
            return Ok(());
        }
        let revision = base + 1 + self.events.len() as Revision;
        let previous = newest.map(|Newest { object, expires }| (object, expires));
        if let Some((object, Some(_))) = &previous {
            transaction
                .prepare_cached("UPDATE kv SET expires = NULL WHERE rev = ?1")?
                .execute([object.mod_revision])?;
        }
        let previous = previous.map(|(object, _)| object);
        let created = previous.as_ref().map_or(revision, |object| object.create_revision);
        let superseded = previous.as_ref().map_or(0, |object| object.mod_revision);
        let (value, expires) = match &write.change {
            Change::Put { value, ttl } => (Some(value), ttl.map(expiry)),
            Change::Delete => (None, None),
        };
        let sql = "INSERT INTO kv (rev, key, value, created, prev, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        transaction.prepare_cached(sql)?.execute(params![
            revision,
            write.key,
            value.map(|value| &value[..]),
            created,
            superseded,
            expires
        ])?;
        self.expiry = [self.expiry, expires].into_iter().flatten().min();
        self.superseded_bytes += previous.as_ref().map_or(0, |object| object.value.len() as u64);
        self.pages += 3 + value.map_or(0, |value| value.len() as u64 / 4_096);
        let kind = match (value, &previous) {
            (None, _) => EventKind::Deleted,
            (_, Some(_)) => EventKind::Modified,
            (_, None) => EventKind::Added,
        };
        let value = value.cloned().or_else(|| previous.as_ref().map(|object| object.value.clone()));
        let object = KeyValue {
            key: write.key.clone(),
            value: value.unwrap_or_default(),
            create_revision: created,
            mod_revision: revision,
        };
        let last = if kind == EventKind::Deleted { previous.clone() } else { None };
        self.answers.push(Ok((last, revision)));
        self.events.push(Arc::new(StoreEvent { kind, object, previous }));
        Ok(())
    }
}

const NEWEST: &str = "SELECT rev, value, created, expires FROM kv WHERE key = ?1 ORDER BY rev DESC LIMIT 1";

fn newest(transaction: &Transaction<'_>, key: &Arc<str>) -> rusqlite::Result<Option<Newest>> {
    let found = transaction.prepare_cached(NEWEST)?.query_row([key], |row| {
        let Some(value) = row.get::<_, Option<Vec<u8>>>(1)? else { return Ok(None) };
        let (mod_revision, create_revision) = (row.get(0)?, row.get(2)?);
        let object = KeyValue { key: key.clone(), value: value.into(), create_revision, mod_revision };
        Ok(Some(Newest { object, expires: row.get(3)? }))
    });
    Ok(found.optional()?.flatten())
}

fn first_expiry(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT min(expires) FROM kv WHERE expires IS NOT NULL", [], |row| row.get(0))
}

fn expiry(ttl: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

/// The time, as it was when first asked for and has passed since: a clock that is set meanwhile neither ends objects early nor
/// keeps them.
fn now_ms() -> i64 {
    static START: OnceLock<(Duration, Instant)> = OnceLock::new();
    let now = || (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), Instant::now());
    let (start, at) = START.get_or_init(now);
    i64::try_from((*start + at.elapsed()).as_millis()).unwrap_or(i64::MAX)
}

/// The same error for another of the writes that shared the transaction.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { path, message } => StoreError::Full { path: path.clone(), message: message.clone() },
        StoreError::Corrupt { path, problem, .. } => file::damaged(path, problem.clone()),
        StoreError::Io { action, path, message } => {
            StoreError::Io { action, path: path.clone(), message: message.clone() }
        }
        other => StoreError::Io { action: "writing", path: Path::new("").to_path_buf(), message: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteStore, Store};

    /// Writes of these keys make the writer panic.
    pub(super) const BEFORE_COMMIT: &str = "/panics/before-commit";
    pub(super) const AFTER_COMMIT: &str = "/panics/after-commit";

    pub(super) fn trip(writes: &[Write], key: &str) {
        assert!(writes.iter().all(|write| &*write.key != key), "{key}");
    }

    #[tokio::test]
    async fn a_panic_fails_its_writes_and_loses_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("state.db"), &SqliteOptions::default()).unwrap();
        let stream = store.watch("/", store.current_revision().await.unwrap()).await.unwrap();
        let put = |key| store.put(key, Bytes::from_static(b"1"), Expect::Any, None);
        let first = put("/a").await.unwrap();
        put(BEFORE_COMMIT).await.unwrap_err();
        assert_eq!(store.current_revision().await.unwrap(), first);
        put(AFTER_COMMIT).await.unwrap_err();
        // It is durable although nobody was told so: later writes, readers and watchers see it.
        assert_eq!(put("/b").await.unwrap(), first + 2);
        let keys: Vec<_> = store.list("/", None, 0, None).await.unwrap().items.into_iter().map(|kv| kv.key).collect();
        assert_eq!(keys.iter().map(|key| &**key).collect::<Vec<_>>(), ["/a", "/b", AFTER_COMMIT]);
        assert_eq!(stream.take().unwrap().len(), 1);
        assert!(matches!(stream.take(), Err(StoreError::Lagged)), "the stream missed an event and says so");
        let resumed = store.watch("/", first).await.unwrap();
        let keys: Vec<_> = resumed.take().unwrap().iter().map(|event| event.object.key.to_string()).collect();
        assert_eq!(keys, [AFTER_COMMIT, "/b"]);
        assert!(supervise::panics().contains(&("store writer", 2)));
    }

    #[test]
    fn statements_are_compiled_once() {
        let directory = tempfile::tempdir().unwrap();
        let opened = file::open(&directory.path().join("state.db"), &SqliteOptions::default()).unwrap();
        let mut connection = opened.connection;
        let transaction = connection.transaction().unwrap();
        let mut effect = Effect::default();
        for n in 0..10 {
            let change = Change::Put { value: Bytes::from_static(b"{}"), ttl: None };
            let write = Write { key: format!("/k/{}", n % 3).into(), change, expect: Expect::Any, reply: None };
            effect.apply(&transaction, &write, 1).unwrap();
        }
        let statement = transaction.prepare_cached(NEWEST).unwrap();
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
        assert!(statement.get_status(rusqlite::StatementStatus::Run) >= 10);
    }
}
