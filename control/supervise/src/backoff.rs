//! Waits between attempts, doubled up to a limit.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Doubling waits.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `last`.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Backoff { first, last, next: first }
    }

    /// Begins again with the first wait: after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The wait to take now.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = now.saturating_mul(2).min(self.last);
        now
    }

    /// Waits; `false` if `shutdown` came first.
    pub async fn wait(&mut self, shutdown: &CancellationToken) -> bool {
        let wait = self.step();
        shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let steps: Vec<u128> = (0..4).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(steps, [100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.step().as_millis(), 100);
    }
}
