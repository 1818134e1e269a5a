//! 1,000,000 updates of 100 Leases, and of Events with a time to live: how large do the files get, how long is a start?
//!
//! `cargo run --release -p store --example endurance [DIRECTORY]`. Fails when the files exceed 64 MB or the start a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{Expect, SqliteOptions, SqliteStore, Store};

const UPDATES: usize = 1_000_000;
const TASKS: usize = 64;
const MAX_BYTES: u64 = 64_000_000;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned()))?;
    let path = directory.path().join("state.db");
    let store = Arc::new(SqliteStore::open(&path, &SqliteOptions::default())?);
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(update(store.clone(), task))).collect();
    for task in tasks {
        task.await??;
    }
    let size = |name: &str| std::fs::metadata(directory.path().join(name)).map_or(0, |file| file.len());
    let (database, log) = (size("state.db"), size("state.db-wal"));
    println!("{UPDATES} updates in {:?}; database {database} bytes, log {log} bytes", start.elapsed());
    store.close().await;
    let start = Instant::now();
    let store = SqliteStore::open(&path, &SqliteOptions::default())?;
    let objects = store.list("/", None, 0, None).await?.items.len();
    let opened = start.elapsed();
    println!("start: {opened:?} with {objects} objects, at revision {}", store.current_revision().await?);
    store.close().await;
    if database + log > MAX_BYTES || opened > Duration::from_secs(1) {
        return Err("the bound is exceeded".into());
    }
    Ok(())
}

async fn update(store: Arc<SqliteStore>, task: usize) -> store::Result<()> {
    for n in 0..UPDATES / TASKS {
        if n % 20 == 0 {
            let key = format!("/registry/core/events/default/{task}-{n}");
            store.put(&key, Bytes::from(vec![b'e'; 700]), Expect::Absent, Some(Duration::from_secs(5))).await?;
        } else {
            let key = format!("/registry/coordination.k8s.io/leases/node/{}", (task + n * 7) % 100);
            store.put(&key, Bytes::from(vec![b'l'; 420]), Expect::Any, None).await?;
        }
    }
    Ok(())
}
