//! The database's file: refused, locked, resumed, full.

use std::fs;
use std::path::Path;
use std::process::Command;

use store::{Expect, SqliteOptions, SqliteStore, Store, StoreError};

use crate::{collect, open, text};

#[tokio::test]
async fn a_restart_keeps_objects_revisions_and_history() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = store.put("/k", text("1"), Expect::Any, None).await.unwrap();
    store.put("/k", text("2"), Expect::Any, None).await.unwrap();
    let (_, last) = store.delete("/k", Expect::Any).await.unwrap();
    // The newest row is gone with this; the revision must not go back with it.
    store.compact(last).await.unwrap();
    store.close().await;
    let store = open(&directory);
    assert_eq!(store.current_revision().await.unwrap(), last);
    assert!(matches!(store.watch("/", first).await, Err(StoreError::Compacted { .. })));
    let next = store.put("/k", text("3"), Expect::Absent, None).await.unwrap();
    assert_eq!(next, last + 1);
    store.close().await;
    let store = open(&directory);
    let events = collect(&store.watch("/", last).await.unwrap(), |events| !events.is_empty()).await;
    assert_eq!((events.len(), events[0].revision()), (1, next));
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_alone() {
    let ours = tempfile::tempdir().unwrap();
    let store = open(&ours);
    for n in 0..200 {
        store.put(&format!("/k/{n}"), text("x".repeat(500)), Expect::Any, None).await.unwrap();
    }
    store.close().await;
    let sound = fs::read(ours.path().join("state.db")).unwrap();
    let mut garbled = sound.clone();
    garbled[8_192..40_960].fill(0xa5);
    let changed = |sql: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.db");
        fs::write(&path, &sound).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        fs::read(path).unwrap()
    };
    for (what, bytes, says) in [
        ("text", b"{\"not\": \"a database\"}".to_vec(), "not an SQLite database"),
        ("a cut-off header", sound[..60].to_vec(), "not an SQLite database"),
        ("another application", changed("PRAGMA application_id = 7"), "another application"),
        ("no application", changed("PRAGMA application_id = 0"), "another application"),
        ("a newer version", changed("PRAGMA user_version = 99"), "version 99"),
        ("no tables", changed("DROP TABLE history"), "tables are missing"),
        ("garbled pages", garbled, ""),
        ("a cut-off file", sound[..sound.len() / 2 / 4_096 * 4_096].to_vec(), ""),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        fs::write(&path, &bytes).unwrap();
        let error = SqliteStore::open(&path, &SqliteOptions::default()).err().expect(what);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error:?}");
        let message = error.to_string();
        assert!(message.contains(&*path.to_string_lossy()) && message.contains(says), "{what}: {message}");
        assert!(fs::read(&path).unwrap() == bytes, "{what}: the file was changed");
    }
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state.db"), "").unwrap();
    let store = open(&directory);
    assert_eq!(store.current_revision().await.unwrap(), 1);
}

/// Somebody moved the database and left its log behind, which has what was written last.
#[tokio::test]
async fn a_log_without_its_database_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("state.db"), directory.path().join("state.db-wal"));
    let store = open(&directory);
    store.put("/k", text("1"), Expect::Any, None).await.unwrap();
    let bytes = fs::read(&log).unwrap();
    store.close().await;
    for empty in [false, true] {
        if empty {
            fs::write(&path, "").unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&log, &bytes).unwrap();
        let error = SqliteStore::open(&path, &SqliteOptions::default()).err().unwrap().to_string();
        assert!(error.contains("missing or empty") && error.contains("state.db-wal"), "{error}");
        assert!(fs::read(&log).unwrap() == bytes, "the log was changed");
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_that_a_deleted_file_would_lose() {
    let directory = tempfile::tempdir().unwrap();
    let (path, aside) = (directory.path().join("state.db"), directory.path().join("aside.db"));
    let store = open(&directory);
    store.put("/k", text("1"), Expect::Any, None).await.unwrap();
    fs::rename(&path, &aside).unwrap();
    let error = store.put("/k", text("2"), Expect::Any, None).await.unwrap_err().to_string();
    assert!(error.contains("moved or deleted") && error.contains(&*path.to_string_lossy()), "{error}");
    fs::write(&path, "").unwrap();
    assert!(store.put("/k", text("2"), Expect::Any, None).await.is_err(), "another file in its place is not the same");
    fs::rename(&aside, &path).unwrap();
    store.put("/k", text("2"), Expect::Any, None).await.unwrap();
}

#[tokio::test]
async fn two_cannot_open_one_database() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let path = directory.path().join("state.db");
    let second = SqliteStore::open(&path, &SqliteOptions::default()).err().unwrap().to_string();
    let pid = format!("(pid {})", std::process::id());
    assert!(second.contains("in use by another process") && second.contains(&pid), "{second}");
    store.close().await;
    open(&directory);
}

#[tokio::test]
async fn a_bounded_file_is_full_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { max_bytes: Some(1 << 20), ..SqliteOptions::default() };
    let store = SqliteStore::open(directory.path().join("state.db"), &options).unwrap();
    fill_and_recover(&store).await;
}

/// A small file system of its own: the log, its index and the checkpoints run out of space as well.
#[tokio::test]
async fn a_full_disk_fails_writes_only_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::tmpfs(directory.path()) else {
        return crate::files::skipped("mounting a tmpfs needs root");
    };
    let ballast = directory.path().join("ballast");
    let store = open(&directory);
    store.put("/kept", text("k"), Expect::Any, None).await.unwrap();
    let mut acknowledged = 0;
    let full = loop {
        let key = format!("/fill/{acknowledged}");
        match store.put(&key, text("x".repeat(60_000)), Expect::Any, None).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        // Leave a little for the file system; what fills up is the log.
        if acknowledged == 10 {
            fs::write(&ballast, vec![0; 2 << 20]).unwrap();
        }
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    let revision = store.current_revision().await.unwrap();
    assert_eq!(store.list("/fill/", None, 0, None).await.unwrap().items.len(), acknowledged);
    assert!(store.get("/kept").await.unwrap().0.is_some());
    fs::remove_file(&ballast).unwrap();
    assert_eq!(store.put("/after", text("x".repeat(60_000)), Expect::Any, None).await.unwrap(), revision + 1);
    store.close().await;
    let store = open(&directory);
    assert_eq!(store.current_revision().await.unwrap(), revision + 1);
    assert_eq!(store.list("/fill/", None, 0, None).await.unwrap().items.len(), acknowledged);
    store.close().await;
}

async fn fill_and_recover(store: &SqliteStore) {
    let value = || text("x".repeat(50_000));
    let mut count = 0;
    let full = loop {
        match store.put(&format!("/fill/{count}"), value(), Expect::Absent, None).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    assert!(count > 5);
    let before = store.current_revision().await.unwrap();
    // A small write may still fit, reads go on, and a failed write left nothing.
    assert_eq!(store.list("/fill/", None, 0, None).await.unwrap().items.len(), count);
    assert!(store.put("/fill/x", value(), Expect::Any, None).await.is_err());
    assert_eq!(store.current_revision().await.unwrap(), before);
    for n in 0..3 {
        store.delete(&format!("/fill/{n}"), Expect::Any).await.unwrap();
    }
    store.compact(store.current_revision().await.unwrap()).await.unwrap();
    store.put("/fill/x", value(), Expect::Any, None).await.unwrap();
}

fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "not to be skipped in CI: {why}");
    eprintln!("skipped: {why}");
}

struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn tmpfs(at: &'a Path) -> Option<Mount<'a>> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Mount(at))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}
