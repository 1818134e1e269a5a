//! Tests of the stores and the watch cache through their public interface.

#![expect(clippy::unwrap_used, reason = "all of this is tests; clippy's exemption knows functions marked so only")]

mod cache;
mod contract;
mod crash;
mod endurance;
mod files;
mod power;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{SqliteOptions, SqliteStore, StoreEvent, WatchStream};

/// A deadline for what should take milliseconds.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it should have happened by now")
}

fn open(directory: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(directory.path().join("state.db"), &SqliteOptions::default()).unwrap()
}

fn text(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

/// Events until `done` says so.
async fn collect(stream: &WatchStream, done: impl Fn(&[Arc<StoreEvent>]) -> bool) -> Vec<Arc<StoreEvent>> {
    let mut all = Vec::new();
    while !done(&all) {
        all.extend(soon(stream.next()).await.unwrap());
    }
    all
}
