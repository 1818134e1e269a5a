//! Exponential back-off per key, by upstream's rules: the first retry is immediate, then 10 s doubling to 300 s,
//! forgotten after twice the maximum without a failure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;

/// Smallest delay.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// Largest delay.
pub(crate) const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key.
#[derive(Clone, Debug)]
pub(crate) struct Backoff<K> {
    entries: HashMap<K, Entry>,
}

impl<K: Eq + Hash> Default for Backoff<K> {
    fn default() -> Self {
        Backoff { entries: HashMap::new() }
    }
}

impl<K: Eq + Hash> Backoff<K> {
    /// How much longer to wait after something that failed at `since`; `None` when it may be tried now.
    pub(crate) fn remaining(&self, key: &K, since: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        // A failure that is yet to come happened before somebody put the clock back.
        if expired(since, entry.updated) || since > now {
            return None;
        }
        let until = since.checked_add(entry.delay).ok()?;
        let left = until.duration_since(now);
        left.is_positive().then(|| left.unsigned_abs())
    }

    /// How much longer to wait after the last failure that was noted.
    pub(crate) fn left(&self, key: &K, now: Timestamp) -> Option<Duration> {
        self.remaining(key, self.entries.get(key)?.updated, now)
    }

    /// The delay that now applies to the key.
    pub(crate) fn delay(&self, key: &K) -> Duration {
        self.entries.get(key).map_or(INITIAL, |entry| entry.delay)
    }

    /// Notes a try after a failure at `since`: the next failure waits longer.
    pub(crate) fn next(&mut self, key: K, since: Timestamp) {
        let delay = match self.entries.get(&key) {
            Some(entry) if !expired(since, entry.updated) => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key, Entry { delay, updated: since });
    }

    /// Puts an entry back that an earlier process had: `count` failures so far, the last at `since`.
    pub(crate) fn restore(&mut self, key: K, count: u32, since: Timestamp) {
        if count > 0 {
            let delay = INITIAL.saturating_mul(1 << count.saturating_sub(1).min(8)).min(MAX);
            self.entries.insert(key, Entry { delay, updated: since });
        }
    }

    /// Forgets the key.
    pub(crate) fn reset(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

fn expired(event: Timestamp, updated: Timestamp) -> bool {
    event.duration_since(updated).as_secs() > 2 * MAX.as_secs() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn first_restart_is_immediate_then_doubles_to_the_maximum() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.remaining(&"c", at(now), at(now)).map_or(0, |left| left.as_secs());
            waits.push(wait);
            backoff.next("c", at(now));
            now += wait as i64 + 1;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_prolong_the_wait() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(0));
        assert_eq!(backoff.remaining(&"c", at(0), at(-3600)), None);
        assert_eq!(backoff.left(&"c", at(-3600)), None);
        assert_eq!(backoff.left(&"c", at(4)).map(|left| left.as_secs()), Some(6));
    }

    #[test]
    fn a_long_run_resets() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(0));
        backoff.next("c", at(1));
        assert_eq!(backoff.remaining(&"c", at(602), at(602)), None);
        backoff.next("c", at(602));
        assert_eq!(backoff.delay(&"c"), INITIAL);
    }

    #[test]
    fn restored_as_if_never_forgotten() {
        for (count, expected) in [(0, 10), (1, 10), (2, 20), (4, 80), (6, 300), (90, 300)] {
            let mut backoff = Backoff::default();
            backoff.restore("c", count, at(0));
            assert_eq!(backoff.delay(&"c").as_secs(), expected, "{count}");
        }
    }
}
