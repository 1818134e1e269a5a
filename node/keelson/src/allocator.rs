//! The allocator. Objects are trees of many small pieces, made by one thread and often freed by another: glibc's takes a third of
//! the API server's time for that, and keeps what was freed.

#![expect(unsafe_code, reason = "jemalloc finds its settings by the name of a symbol")]

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Few arenas, since most threads wait most of the time; what is free goes back to the system after a second.
// SAFETY: jemalloc declares this symbol as a pointer to a C string, which this is.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 47] = b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
