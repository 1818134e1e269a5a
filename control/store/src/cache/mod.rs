//! The watch cache: one resource's latest objects and recent events, in memory.
//!
//! It is fed by one [`WatchStream`](crate::WatchStream). Reads first apply what that stream already holds, so whatever was
//! acknowledged by the store before a read began is seen by it, without waiting for the cache's task.
//!
//! - [`map`] is the ordered map; a [`Snapshot`] of it is two pointers, and a list walks it without a lock.
//! - [`ring`] keeps recent events, bounded by count, and by the bytes of a [`Budget`] that all caches share. Watchers read it
//!   by index: an event is stored, encoded and announced once, whatever the number of watchers. [`readers`] knows how far they
//!   are; for them the bounds give way a few times over. Who falls off the end all the same is cut off.
//! - [`forms`] keeps objects in another encoding for the next who asks, in a part of the same budget.
//! - Older revisions are had by undoing events on a snapshot, and beyond the ring from the store's history, which the ring also
//!   begins with.

mod budget;
mod entry;
mod forms;
mod load;
mod map;
mod readers;
mod ring;
mod watch_cache;
mod watcher;

pub use budget::Budget;
pub use entry::{Entry, Extractor, Pairs, Selectable, WatchEvent};
pub use map::{Range, Snapshot};
pub use watch_cache::{CacheError, CacheOptions, WatchCache};
pub use watcher::Watcher;
