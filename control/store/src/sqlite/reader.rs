//! The queries, on connections of their own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, failure, file};
use crate::api::{EventKind, KeyValue, Page, Result, Revision, StoreError, StoreEvent, first_bytes};
use crate::hub::lock;

/// Idle connections kept.
const IDLE: usize = 4;
/// Queries at a time; each has a thread, and a connection with a megabyte of pages. Others wait.
const QUERIES: usize = 8;

/// The newest row a key up to a revision, deletions left out, in key order.
const LIST: &str = "
    SELECT kv.key, kv.value, kv.created, kv.rev
    FROM (SELECT key, max(rev) AS newest FROM kv INDEXED BY kv_key
          WHERE key >= ?1 AND key < ?2 AND rev <= ?3 GROUP BY key) AS keys
    CROSS JOIN kv ON kv.rev = keys.newest
    WHERE kv.value IS NOT NULL ORDER BY keys.key LIMIT ?4";

const COUNT: &str = "
    SELECT count(*)
    FROM (SELECT max(rev) AS newest FROM kv INDEXED BY kv_key
          WHERE key >= ?1 AND key < ?2 AND rev <= ?3 GROUP BY key) AS keys
    CROSS JOIN kv ON kv.rev = keys.newest
    WHERE kv.value IS NOT NULL";

const GET: &str = "
    SELECT key, value, created, rev FROM kv WHERE key = ?1 AND rev <= ?2 ORDER BY rev DESC LIMIT 1";

/// A superseded row is compacted together with the row that superseded it, so `old` is there whenever `new` is wanted.
const HISTORY: &str = "
    SELECT new.key, new.value, new.created, new.rev, new.prev, old.value
    FROM kv AS new LEFT JOIN kv AS old ON old.rev = new.prev
    WHERE new.rev > ?1 AND new.rev <= ?2 AND new.key >= ?3 AND new.key < ?4 ORDER BY new.rev";

/// Connections for reading, opened as needed.
pub(super) struct Readers {
    path: PathBuf,
    /// `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Readers {
        Readers { path, idle: Mutex::new(Some(Vec::new())), turns: Arc::new(Semaphore::new(QUERIES)) }
    }

    /// Waits for one's turn to query, which lasts as long as the permit.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)
    }

    /// Lends a connection to `query`.
    pub(super) fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = lock(&self.idle).as_mut().ok_or(StoreError::Closed)?.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let result = query(&connection);
        if let Some(idle) = lock(&self.idle).as_mut()
            && idle.len() < IDLE
        {
            idle.push(connection);
        }
        result
    }

    pub(super) fn close(&self) {
        *lock(&self.idle) = None;
    }

    fn connect(&self) -> Result<Connection> {
        let connection = file::connect(&self.path, false)?;
        connection.pragma_update(None, "query_only", true).map_err(|error| failure(&self.path, "opening", &error))?;
        Ok(connection)
    }
}

/// The object at `key` as of the newest revision.
pub(super) fn get(shared: &Shared, connection: &Connection, key: &str) -> Result<(Option<KeyValue>, Revision)> {
    // A commit is durable before the hub knows of it; until then it is not shown, so that a watch from the revision
    // answered here is never one from the future.
    let revision = shared.hub.committed();
    let found = (|| {
        let mut statement = connection.prepare_cached(GET)?;
        statement.query_row(params![key, revision], object).optional()
    })();
    Ok((found.map_err(|error| failure(&shared.path, "reading", &error))?.flatten(), revision))
}

pub(super) fn list(
    shared: &Shared,
    connection: &Connection,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    at: Option<Revision>,
) -> Result<Page> {
    let current = shared.hub.committed();
    let revision = at.unwrap_or(current);
    if revision > current {
        return Err(StoreError::Future { current });
    }
    let from = match start_after.filter(|after| *after >= prefix) {
        Some(after) => format!("{after}\0"),
        None => prefix.to_owned(),
    };
    let found = (|| {
        // One read transaction: the check and the rows are of the same state.
        let transaction = connection.unchecked_transaction()?;
        let compacted = compacted(&transaction)?;
        if compacted > revision {
            return Ok(Err(compacted));
        }
        let mut statement = transaction.prepare_cached(LIST)?;
        let most = if limit == 0 { -1 } else { i64::try_from(limit).unwrap_or(i64::MAX) };
        let rows = statement.query_map(params![from, end(prefix), revision, most], object)?;
        let items = rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<_>>>()?;
        let mut remaining = 0;
        if limit != 0
            && items.len() == limit
            && let Some(last) = items.last()
        {
            let from = format!("{}\0", last.key);
            let mut statement = transaction.prepare_cached(COUNT)?;
            remaining = statement.query_row(params![from, end(prefix), revision], |row| row.get(0))?;
        }
        Ok(Ok(Page { items, revision, more: remaining > 0, remaining }))
    })();
    match found.map_err(|error| failure(&shared.path, "reading", &error))? {
        Ok(page) => Ok(page),
        // Compacted between the two looks at the clock: the present is later now.
        Err(_) if at.is_none() => list(shared, connection, prefix, start_after, limit, None),
        Err(oldest) => Err(StoreError::Compacted { oldest }),
    }
}

/// The events below `prefix` after `after`, up to and including `until`, or the first of them that have about so many `bytes`;
/// with the revision up to which this is all.
pub(super) fn history(
    shared: &Shared,
    connection: &Connection,
    prefix: &str,
    after: Revision,
    until: Revision,
    bytes: usize,
) -> Result<(Vec<StoreEvent>, Revision)> {
    let found = (|| {
        let transaction = connection.unchecked_transaction()?;
        let compacted = compacted(&transaction)?;
        if compacted > after {
            return Ok(Err(compacted));
        }
        let mut statement = transaction.prepare_cached(HISTORY)?;
        let rows = statement.query_map(params![after, until, prefix, end(prefix)], event)?;
        first_bytes(rows, bytes).map(Ok)
    })();
    let found = found.map_err(|error| failure(&shared.path, "reading", &error))?;
    let (events, more) = found.map_err(|oldest| StoreError::Compacted { oldest })?;
    let reached = if more { events.last().map_or(after, StoreEvent::revision) } else { until };
    Ok((events, reached))
}

fn compacted(connection: &Connection) -> rusqlite::Result<Revision> {
    connection.prepare_cached("SELECT compacted FROM history")?.query_row([], |row| row.get(0))
}

/// Above every key that starts with `prefix`: keys are text, and this is the last code point.
fn end(prefix: &str) -> String {
    format!("{prefix}\u{10ffff}")
}

/// `None` for a deletion.
fn object(row: &Row<'_>) -> rusqlite::Result<Option<KeyValue>> {
    let Some(value) = row.get::<_, Option<Vec<u8>>>(1)? else { return Ok(None) };
    let key: String = row.get(0)?;
    let (create_revision, mod_revision) = (row.get(2)?, row.get(3)?);
    Ok(Some(KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision }))
}

fn event(row: &Row<'_>) -> rusqlite::Result<StoreEvent> {
    let key: String = row.get(0)?;
    let value: Option<Vec<u8>> = row.get(1)?;
    let (create_revision, mod_revision, superseded) = (row.get(2)?, row.get(3)?, row.get::<_, Revision>(4)?);
    let old: Option<Vec<u8>> = row.get(5)?;
    let stored = |value: Vec<u8>, mod_revision| KeyValue {
        key: key.as_str().into(),
        value: value.into(),
        create_revision,
        mod_revision,
    };
    let previous = old.clone().map(|value| stored(value, superseded));
    let kind = match (&value, &previous) {
        (None, _) => EventKind::Deleted,
        (_, Some(_)) => EventKind::Modified,
        (_, None) => EventKind::Added,
    };
    Ok(StoreEvent { kind, object: stored(value.or(old).unwrap_or_default(), mod_revision), previous })
}
