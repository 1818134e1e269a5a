//! Container logs: CRI's format, read from the end, followed by inotify.

mod format;
mod read;
mod tail;

pub(super) use format::{LogOptions, StreamFilter};
pub(super) use read::LogReader;
pub(crate) use tail::last_of_log;
