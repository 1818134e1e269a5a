//! Power cuts at every moment, and disks that fail: what was acknowledged is there, and what was not is never claimed.

mod disk;
mod vfs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use store::{Expect, Revision, SqliteOptions, SqliteStore, Store, StoreError};

use crate::{open, soon, text};
use disk::Disk;
use vfs::{Recorder, What};

const SESSIONS: usize = 4;
const WRITERS: usize = 3;
const WRITES: usize = 12;

/// Something that the store's user knows from a position of the log on.
struct Note {
    from: usize,
    key: String,
    /// None: deleted.
    value: Option<String>,
    /// None: asked for, not yet acknowledged.
    revision: Option<Revision>,
}

/// What the store's user knows.
#[derive(Clone)]
struct Notes {
    recorder: &'static Recorder,
    notes: Arc<Mutex<Vec<Note>>>,
}

impl Notes {
    fn note(&self, key: &str, value: Option<&str>, revision: Option<Revision>) {
        let mut notes = self.notes.lock().unwrap();
        // Under the lock, so that notes are in the order of their positions.
        let from = self.recorder.position();
        notes.push(Note { from, key: key.to_owned(), value: value.map(str::to_owned), revision });
    }
}

/// Puts and deletes a few keys again and again, one after the other.
async fn write(store: Arc<SqliteStore>, notes: Notes, session: usize, writer: usize) {
    for n in 0..WRITES {
        let key = format!("/power/{writer}/{}", n % 4);
        if n % 5 == 4 {
            notes.note(&key, None, None);
            let (_, revision) = store.delete(&key, Expect::Any).await.unwrap();
            notes.note(&key, None, Some(revision));
        } else {
            let value = format!("{session}-{n}-{}", "x".repeat((n * 997 + writer * 131) % 9_000));
            notes.note(&key, Some(&value), None);
            let revision = store.put(&key, text(value.clone()), Expect::Any, None).await.unwrap();
            notes.note(&key, Some(&value), Some(revision));
        }
    }
}

/// Several lives of a store: writes, a compaction, checkpoints, ends with and without `close`.
async fn live(directory: &tempfile::TempDir, notes: &Notes) {
    for session in 0..SESSIONS {
        let store = Arc::new(open(directory));
        // `open` does this once it has made a file; SQLite has no part in it.
        notes.recorder.directory_synced();
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), notes.clone(), session, writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
        store.compact(store.current_revision().await.unwrap() - 10).await.unwrap();
        soon(store.close()).await;
    }
}

/// The store in the directory holds what is known at this position, and is sound.
async fn check(directory: &Path, known: &[Note], at: usize) {
    let path = directory.join("state.db");
    let store = SqliteStore::open(&path, &SqliteOptions::default()).unwrap_or_else(|error| panic!("{at}: {error}"));
    let page = store.list("/power/", None, 0, None).await.unwrap();
    let found: BTreeMap<_, _> = page.items.iter().map(|kv| (&*kv.key, (&kv.value[..], kv.mod_revision))).collect();
    let mut newest = 1;
    // Each key has one writer: it is as last acknowledged, or as asked for since.
    let mut may_be: BTreeMap<&str, Vec<&Note>> = BTreeMap::new();
    for note in known.iter().take_while(|note| note.from <= at) {
        let notes = may_be.entry(&note.key).or_default();
        if let Some(revision) = note.revision {
            newest = newest.max(revision);
            notes.clear();
        }
        notes.push(note);
    }
    for (key, notes) in &may_be {
        let fits = |note: &&Note| match (found.get(key), &note.value) {
            (None, None) => true,
            // Nothing was ever acknowledged.
            (None, Some(_)) => notes.iter().all(|note| note.revision.is_none()),
            (Some((value, revision)), Some(wanted)) => {
                *value == wanted.as_bytes() && note.revision.is_none_or(|known| known == *revision)
            }
            (Some(_), None) => false,
        };
        assert!(notes.iter().any(fits), "cut at {at}: {key} is {:?}", found.get(key).map(|(_, revision)| revision));
    }
    assert!(found.keys().all(|key| may_be.contains_key(key)));
    let revision = store.current_revision().await.unwrap();
    assert!(revision >= newest, "cut at {at}: revision {revision} after {newest}");
    soon(store.close()).await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "cut at {at}");
}

/// In memory where there is room: it is the recorded log that decides what a cut leaves, not this machine's disk.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_takes_back_nothing() {
    let directory = scratch();
    let recorder = Recorder::start(directory.path());
    let notes = Notes { recorder, notes: Arc::default() };
    live(&directory, &notes).await;
    let (log, notes) = (recorder.log(), std::mem::take(&mut *notes.notes.lock().unwrap()));
    let writes_of = |suffix: &str| {
        log.iter().filter(|op| op.file.ends_with(suffix) && matches!(op.what, What::Write { .. })).count()
    };
    assert!(writes_of("-wal") > 200 && writes_of(".db") > 20, "too little happened to the files");
    let mut disk = Disk::default();
    let mut random = 1_u64;
    for (at, op) in log.iter().enumerate() {
        // A cut before this operation. What is safe changes with syncs alone; what else may be there, with every write.
        let mut worst = matches!(op.what, What::Sync | What::Delete { .. });
        for _ in 0..2 {
            let left = scratch();
            disk.cut(left.path(), || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                !worst && random >> 63 == 1
            });
            check(left.path(), &notes, at).await;
            if !std::mem::take(&mut worst) {
                break;
            }
        }
        disk.apply(op);
    }
    let left = scratch();
    disk.cut(left.path(), || false);
    check(left.path(), &notes, log.len()).await;
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_ends_writing() {
    let directory = scratch();
    let recorder = Recorder::start(directory.path());
    let store = open(&directory);
    let revision = store.put("/a", text("1"), Expect::Any, None).await.unwrap();
    recorder.fail_syncs(true);
    let failed = store.put("/a", text("2"), Expect::Any, None).await.unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed:?}");
    recorder.fail_syncs(false);
    // The kernel may have forgotten what it could not write: nothing that comes later can be trusted to be safe.
    let later = store.put("/b", text("1"), Expect::Any, None).await.unwrap_err().to_string();
    assert!(later.contains("could not be synced; restart keelson"), "{later}");
    let (a, at) = store.get("/a").await.unwrap();
    assert_eq!((a.map(|kv| kv.mod_revision), at), (Some(revision), revision), "reads go on, at what was acknowledged");
    soon(store.close()).await;
    assert!(open(&directory).put("/b", text("1"), Expect::Any, None).await.is_ok());
    assert!(fs::exists(directory.path().join("state.db")).unwrap());
}
