//! Keeps containerd running.

use std::time::Duration;

use ::supervise::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::State;
use super::spawn::{Plan, Running, start};

/// A containerd that lived this long did not die of its start.
const STABLE: Duration = Duration::from_secs(60);

/// The containerd that is kept running.
pub(super) struct Kept {
    pub(super) plan: Plan,
    pub(super) running: Running,
    pub(super) state: watch::Sender<State>,
    /// Ends it.
    pub(super) stop: CancellationToken,
    /// Leaves it.
    pub(super) shutdown: CancellationToken,
}

/// Starts containerd again whenever it ends.
pub(super) async fn supervise(kept: &mut Kept) {
    let Kept { plan, running, state, stop, shutdown } = kept;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut since = Instant::now();
    loop {
        let status = tokio::select! {
            () = stop.cancelled() => return end(plan, running, state).await,
            () = shutdown.cancelled() => return,
            status = running.exited() => status,
        };
        tracing::error!(pid = running.pid(), status, log = %plan.paths.log.display(), "containerd ended, starting it again");
        state.send_replace(State::Down);
        if since.elapsed() > STABLE {
            backoff.reset();
        }
        *running = loop {
            let wait = backoff.step();
            tokio::select! {
                () = stop.cancelled() => {
                    state.send_replace(State::Stopped);
                    return;
                }
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let started = tokio::select! {
                () = shutdown.cancelled() => return,
                started = start(plan) => started,
            };
            match started {
                Ok(running) => break running,
                Err(error) => tracing::error!(%error, "containerd does not start"),
            }
        };
        since = Instant::now();
        state.send_replace(State::Running { pid: running.pid() });
    }
}

async fn end(plan: &Plan, running: &mut Running, state: &watch::Sender<State>) {
    if let Err(error) = running.terminate().await {
        tracing::error!(%error, "containerd cannot be ended");
    }
    for path in [&plan.paths.pid, &plan.paths.socket, &plan.paths.ttrpc] {
        // Whatever is left is harmless: a next start looks at the process, not at the files.
        let _ = std::fs::remove_file(path);
    }
    state.send_replace(State::Stopped);
}
