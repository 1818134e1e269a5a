//! Files stay bounded, whatever is written. `examples/endurance.rs` does the same ten times as long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{Expect, SqliteOptions, SqliteStore, Store};

use crate::{soon, text};

const UPDATES: usize = 100_000;
const TASKS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_updates_leave_small_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    // A tenth of the updates, so a quarter of the history: it is overrun many times.
    let options = SqliteOptions { history_bytes: 4 << 20, ..SqliteOptions::default() };
    let store = Arc::new(SqliteStore::open(&path, &options).unwrap());
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(update(store.clone(), task))).collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(120), task).await.unwrap().unwrap();
    }
    let revision = store.current_revision().await.unwrap();
    let size = |name: &str| std::fs::metadata(directory.path().join(name)).map_or(0, |file| file.len());
    let total = size("state.db") + size("state.db-wal");
    assert!(total < 40 << 20, "{total} bytes");
    // Killed here, the log is what a start has to read.
    drop(soon(store.list("/registry/core/events/", None, 0, None)).await.unwrap());
    store.close().await;
    drop(store);
    let start = Instant::now();
    let store = SqliteStore::open(&path, &options).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(store.current_revision().await.unwrap() >= revision);
    store.close().await;
    assert!(size("state.db") < 24 << 20, "{} bytes", size("state.db"));
}

async fn update(store: Arc<SqliteStore>, task: usize) {
    for n in 0..UPDATES / TASKS {
        if n % 20 == 0 {
            let key = format!("/registry/core/events/default/{task}-{n}");
            let ttl = Some(Duration::from_millis(500));
            store.put(&key, text("e".repeat(700)), Expect::Absent, ttl).await.unwrap();
        } else {
            let key = format!("/registry/coordination.k8s.io/leases/node/{}", (task + n * 7) % 100);
            store.put(&key, text("l".repeat(420)), Expect::Any, None).await.unwrap();
        }
    }
}
