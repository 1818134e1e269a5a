//! How failures of the store and its caches are told to clients.

use apimachinery::status::Status;
use store::{CacheError, StoreError};

use super::resource::Storage;

/// The store refused or failed a write of an object.
pub(super) fn store(error: &StoreError, storage: &Storage, name: &str) -> Status {
    match error {
        StoreError::Conflict { .. } => Status::modified(storage.group, storage.resource, name),
        StoreError::Compacted { .. } => expired(),
        StoreError::Future { current } => too_large(0, *current),
        StoreError::Full { .. } => Status::insufficient_storage(
            "the disk of the cluster's database is full; reads go on, and writes succeed again once there is space",
        ),
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        StoreError::Corrupt { .. } | StoreError::Locked { .. } | StoreError::Lagged | StoreError::Io { .. } => {
            // Paths and keys stay in the log; clients learn only that it failed.
            tracing::error!(%error, resource = storage.resource, name, "the store failed");
            Status::internal("the database failed; the server's log says why")
        }
    }
}

/// A cache cannot serve a read.
pub(super) fn cache(error: &CacheError) -> Status {
    match error {
        CacheError::Lagged | CacheError::Compacted { .. } => expired(),
        CacheError::Future { requested, current } => too_large(*requested, *current),
        CacheError::Closed => Status::service_unavailable("the server is shutting down"),
        CacheError::Store(StoreError::Closed) => Status::service_unavailable("the server is shutting down"),
        CacheError::Store(source) => {
            tracing::error!(error = %source, "the store failed");
            Status::internal("the database failed; the server's log says why")
        }
    }
}

/// 410 for a revision whose history is gone.
pub(super) fn expired() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

/// 410 for a watch that starts too far back.
pub(super) fn too_old(requested: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {requested} ({oldest})"))
}

/// 504 for a revision that the server has not reached.
pub(super) fn too_large(requested: u64, current: u64) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {requested}, current: {current}"))
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "");
    status.details.get_or_insert_default().retry_after_seconds = 1;
    status
}
