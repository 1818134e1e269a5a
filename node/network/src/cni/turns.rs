//! One request at a time for each attachment, in the order they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A runtime that gives up on ADD sends DEL, while ADD may still be at it: what DEL frees, ADD would go on to use.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<(String, String), Weak<Semaphore>>>);

/// The turn of one request; over when it is dropped.
pub(super) type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Waits for the turn of a request about this container's interface. `None` is never had: nothing closes a turn.
    pub(super) async fn take(&self, container: &str, interface: &str) -> Option<Turn> {
        self.of(container, interface).acquire_owned().await.ok()
    }

    fn of(&self, container: &str, interface: &str) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let place = turns.entry((container.to_owned(), interface.to_owned())).or_default();
        place.upgrade().unwrap_or_else(|| {
            let turn = Arc::new(Semaphore::new(1));
            *place = Arc::downgrade(&turn);
            turn
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_nobody_else() {
        let turns = Turns::default();
        let add = turns.take("c", "eth0").await;
        let mut del = std::pin::pin!(turns.take("c", "eth0"));
        assert!((&mut del).now_or_never().is_none());
        drop(turns.take("c", "eth1").await);
        drop(turns.take("d", "eth0").await);
        assert!((&mut del).now_or_never().is_none());
        drop(add);
        assert!((&mut del).now_or_never().flatten().is_some());
        drop(turns.take("x", "eth0").await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "who has gone takes no room");
    }
}
