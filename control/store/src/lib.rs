//! The store: what the cluster's objects are kept in, and the watch cache through which they are read.
//!
//! [`Store`] is a small asynchronous trait over revisions: every successful write gets the next one, and a watch from a
//! revision delivers everything after it exactly once. [`SqliteStore`] is the default, [`MemoryStore`] serves tests.
//! Above either stands one [`WatchCache`] a resource, which answers reads, lists and watches from memory at a consistent
//! revision. Values are opaque to the store; the cache knows only where `metadata.resourceVersion` goes into them.

mod api;
mod cache;
mod hub;
mod memory;
mod sqlite;

pub use api::{EventKind, Expect, KeyValue, Page, Result, Revision, Store, StoreError, StoreEvent};
pub use cache::{
    Budget, CacheError, CacheOptions, Entry, Extractor, Pairs, Range, Selectable, Snapshot, WatchCache, WatchEvent,
    Watcher,
};
pub use hub::WatchStream;
pub use memory::MemoryStore;
pub use sqlite::{SqliteOptions, SqliteStore};
