//! How much of the past is kept, by age and by bytes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, params};

use super::SqliteOptions;
use crate::api::Revision;

/// What a superseded row takes beside its value: key, index entry, cell headers.
const ROW: u64 = 160;
/// A mark is made when this many revisions are written since the last, or this much time has passed.
const MARK_REVISIONS: u64 = 64;
const MARK_AGE: Duration = Duration::from_secs(1);
/// Revisions forgotten along with one transaction of writes.
pub(super) const STEP: u64 = 512;
/// With nothing written, history stays this much longer, so that an idle cluster forgets in large steps.
const GRACE: Duration = Duration::from_secs(30);
/// Pages handed back to the file system at a time, and the free pages that are kept for reuse.
const VACUUM: u64 = 128;
const SPARE_PAGES: u64 = 1_024;

/// A point that the past can be cut at.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    revision: Revision,
    /// Bytes superseded up to here, since the store was opened.
    superseded: u64,
}

pub(super) struct History {
    max_age: Duration,
    max_bytes: u64,
    compacted: Revision,
    /// What `compacted` becomes with the commit under way.
    pending: Option<Revision>,
    superseded: u64,
    /// Oldest first; all after `compacted`.
    marks: VecDeque<Mark>,
}

impl History {
    /// The age of what a former process wrote is not known; it counts from now.
    pub(super) fn open(
        connection: &Connection,
        compacted: Revision,
        revision: Revision,
        options: &SqliteOptions,
    ) -> rusqlite::Result<History> {
        let mut history = History {
            max_age: options.history_age,
            max_bytes: options.history_bytes,
            compacted,
            pending: None,
            superseded: 0,
            marks: VecDeque::new(),
        };
        history.reopen(connection, compacted, revision)?;
        Ok(history)
    }

    /// Learns anew what the database has.
    pub(super) fn reopen(
        &mut self,
        connection: &Connection,
        compacted: Revision,
        revision: Revision,
    ) -> rusqlite::Result<()> {
        let sql = "SELECT coalesce(sum(length(old.value) + ?2), 0)
                   FROM kv AS new JOIN kv AS old ON old.rev = new.prev WHERE new.rev > ?1";
        self.superseded = connection.query_row(sql, params![compacted, ROW], |row| row.get(0))?;
        let mark = Mark { at: Instant::now(), revision, superseded: self.superseded };
        self.marks = if revision > compacted { [mark].into() } else { VecDeque::new() };
        (self.compacted, self.pending) = (compacted, None);
        Ok(())
    }

    /// Notes `count` writes up to `revision` that superseded `bytes` of values.
    pub(super) fn written(&mut self, revision: Revision, count: usize, bytes: u64) {
        self.superseded += bytes + count as u64 * ROW;
        let at = Instant::now();
        let near = |mark: &Mark| at - mark.at < MARK_AGE && revision - mark.revision < MARK_REVISIONS;
        if !self.marks.back().is_some_and(near) {
            self.marks.push_back(Mark { at, revision, superseded: self.superseded });
        }
    }

    /// Forgets, as part of a transaction that writes, a little more than writes add. Answers the pages touched, about.
    pub(super) fn trim(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
        let now = Instant::now();
        let over = |mark: &Mark| {
            now.duration_since(mark.at) > self.max_age || self.superseded - mark.superseded >= self.max_bytes
        };
        // Cut at the newest mark that is too old, or that leaves no less than the allowed bytes behind it.
        let cut = self.marks.partition_point(over);
        match cut.checked_sub(1).and_then(|index| self.marks.get(index)) {
            Some(mark) => self.compact(transaction, mark.revision, STEP),
            None => Ok(0),
        }
    }

    /// The revision to forget up to although nothing is written, once the oldest history is well over its age.
    pub(super) fn overdue(&self) -> Option<Revision> {
        let now = Instant::now();
        self.deadline().filter(|at| *at <= now)?;
        let old = self.marks.partition_point(|mark| now.duration_since(mark.at) > self.max_age);
        self.marks.get(old.checked_sub(1)?).map(|mark| mark.revision)
    }

    /// When [`overdue`](Self::overdue) will have something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.marks.front().map(|mark| mark.at + self.max_age + GRACE)
    }

    /// Forgets rows that were superseded up to `target`, at most `most` revisions of them.
    pub(super) fn compact(
        &mut self,
        transaction: &Transaction<'_>,
        target: Revision,
        most: u64,
    ) -> rusqlite::Result<u64> {
        let from = self.pending.unwrap_or(self.compacted);
        let target = target.min(from.saturating_add(most));
        if target <= from {
            return Ok(0);
        }
        // What a row in the range superseded goes, and so does a deletion itself.
        let superseded = "DELETE FROM kv WHERE rev IN (SELECT prev FROM kv WHERE rev > ?1 AND rev <= ?2 AND prev > 0)";
        let deletions = "DELETE FROM kv WHERE rev > ?1 AND rev <= ?2 AND value IS NULL";
        let gone = transaction.prepare_cached(superseded)?.execute([from, target])?
            + transaction.prepare_cached(deletions)?.execute([from, target])?;
        transaction.prepare_cached("UPDATE history SET compacted = ?1")?.execute([target])?;
        self.pending = Some(target);
        let (free, pages): (u64, u64) = (
            transaction.query_row("PRAGMA freelist_count", [], |row| row.get(0))?,
            transaction.query_row("PRAGMA page_count", [], |row| row.get(0))?,
        );
        if free > SPARE_PAGES && free > pages / 4 {
            let mut statement = transaction.prepare(&format!("PRAGMA incremental_vacuum({VACUUM})"))?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(gone as u64)
    }

    /// The transaction that [`compact`](Self::compact) was part of is durable.
    pub(super) fn committed(&mut self) {
        let Some(compacted) = self.pending.take() else { return };
        self.compacted = compacted;
        while self.marks.front().is_some_and(|mark| mark.revision <= compacted) {
            self.marks.pop_front();
        }
    }

    /// It was not.
    pub(super) fn rolled_back(&mut self) {
        self.pending = None;
    }
}
