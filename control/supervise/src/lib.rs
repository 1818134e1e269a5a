//! Long-lived loops that outlive a panic: it is logged, counted, and the loop runs again after a pause.
//!
//! What a loop knows is its state, which stays where it is: the next run goes on with it. So a loop's state must be sound at
//! every point where its body may panic, or be made anew at the beginning of the body.

mod backoff;
pub mod clock;
mod relay;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use backoff::Backoff;
pub use relay::{LINGER, relay};

/// A listener that cannot accept is most likely out of descriptors: it gives others this time to close some.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PAUSE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// A loop that ran this long was healthy: its next panic is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// How often something of each name has panicked in this process.
static PANICS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Runs a loop on the tracker until it returns or, between two of its panics, the server stops.
pub fn spawn<S, F>(name: &'static str, tasks: &TaskTracker, shutdown: &CancellationToken, state: S, body: F)
where
    S: Send + 'static,
    F: for<'a> FnMut(&'a mut S) -> BoxFuture<'a, ()> + Send + 'static,
{
    tasks.spawn(run(name, shutdown.clone(), state, body));
}

/// [`spawn`]'s task, for who owns it otherwise.
pub async fn run<S, F>(name: &'static str, shutdown: CancellationToken, mut state: S, mut body: F)
where
    S: Send,
    F: for<'a> FnMut(&'a mut S) -> BoxFuture<'a, ()> + Send,
{
    let mut pause = PAUSE;
    loop {
        let started = Instant::now();
        let (state, body) = (&mut state, &mut body);
        // A body that panics before it makes its future is caught as well.
        let running = AssertUnwindSafe(async move { body(state).await });
        let Err(panic) = running.catch_unwind().await else { return };
        panicked(name, &*panic);
        let pause = tokio::time::sleep(pause_after(started.elapsed(), &mut pause));
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// The time between a panic and the next run.
fn pause_after(ran: Duration, pause: &mut Backoff) -> Duration {
    if ran >= HEALTHY {
        pause.reset();
    }
    pause.step()
}

/// Logs and counts a panic that was caught. The panic hook has told where it was.
pub fn panicked(name: &'static str, panic: &(dyn Any + Send)) {
    *PANICS.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    tracing::error!(task = name, message = message(panic), "a task panicked and goes on");
}

/// How often something of each name has panicked: for metrics.
pub fn panics() -> Vec<(&'static str, u64)> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(name, count)| (*name, *count)).collect()
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: &str) -> u64 {
        panics().iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
    }

    #[tokio::test]
    async fn a_loop_that_panics_goes_on_with_its_state() {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (done, result) = tokio::sync::oneshot::channel();
        spawn("goes on", &tasks, &shutdown, (0, Some(done)), |(runs, done)| {
            *runs += 1;
            assert!(*runs != 1, "before there is a future");
            Box::pin(async move {
                tokio::task::yield_now().await;
                assert!(*runs != 2, "inside of it: {runs}");
                done.take().expect("this is the only run that ends").send(*runs).expect("the test waits");
            })
        });
        tasks.close();
        tasks.wait().await;
        assert_eq!((result.await, count("goes on")), (Ok(3), 2));
    }

    #[tokio::test]
    async fn a_loop_that_always_panics_ends_with_the_server() {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        spawn("always", &tasks, &shutdown, shutdown.clone(), |shutdown| {
            if count("always") == 2 {
                shutdown.cancel();
            }
            Box::pin(async { panic!("again") })
        });
        tasks.close();
        tasks.wait().await;
        assert_eq!(count("always"), 3);
    }

    #[test]
    fn pauses_grow_until_a_run_was_healthy() {
        let mut pause = PAUSE;
        let pauses: Vec<_> = (0..20).map(|_| pause_after(Duration::from_secs(1), &mut pause)).collect();
        assert_eq!(pauses[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses[19], Duration::from_secs(30));
        assert_eq!(pause_after(HEALTHY, &mut pause), pauses[0]);
    }
}
