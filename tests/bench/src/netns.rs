//! Running code inside a cluster's network namespace.

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::Path;

/// Runs the function on a thread of its own inside the namespace; threads that it starts are inside too.
///
/// # Errors
/// The namespace cannot be entered, or what the function says.
pub(crate) fn inside<T: Send>(namespace: &Path, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let file = File::open(namespace).with_context(|| format!("{}: cannot be opened", namespace.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
