//! Recent events, read by index.

use std::collections::VecDeque;
use std::sync::Arc;

use super::budget::Budget;
use super::entry::WatchEvent;
use crate::api::Revision;

/// What an event costs beside the states it keeps alive.
const OVERHEAD: usize = 160;
/// How many times a ring's bounds may be passed by events that a watcher has yet to read: a burst that clients are slow to
/// take costs memory for a while, not a list by each of them.
pub(super) const SLACK: usize = 4;

/// A bounded log of events. Every event ever added has an index; the oldest ones are forgotten.
pub(crate) struct Ring {
    events: VecDeque<Arc<WatchEvent>>,
    /// Index of the first event kept.
    first: u64,
    /// Everything after this revision is kept.
    floor: Revision,
    max_events: usize,
    budget: Arc<Budget>,
}

impl Ring {
    /// With everything after `floor`.
    pub(crate) fn new(floor: Revision, recent: Vec<Arc<WatchEvent>>, max_events: usize, budget: Arc<Budget>) -> Ring {
        let mut ring = Ring { events: VecDeque::new(), first: 0, floor, max_events, budget };
        ring.fill(recent);
        ring
    }

    /// Adds an event. Who pushes asks afterwards that the bounds be kept.
    pub(crate) fn push(&mut self, event: Arc<WatchEvent>) {
        self.budget.take(cost(&event));
        self.events.push_back(event);
    }

    /// Forgets the oldest events until their number is within bounds; from the index `unread` on it may be passed.
    pub(crate) fn shorten(&mut self, unread: u64) {
        while self.events.len() > self.max_events.saturating_mul(self.times(unread)) {
            self.pop();
        }
    }

    /// The revision of the first event kept.
    pub(crate) fn oldest(&self) -> Option<Revision> {
        self.events.front().map(|event| event.revision())
    }

    /// Forgets the oldest events, up to a revision where one is given, until the budget is kept; from the index `unread` on
    /// it may be passed.
    pub(crate) fn forget(&mut self, until: Option<Revision>, unread: u64) {
        while self.budget.is_exceeded(self.times(unread))
            && self.oldest().is_some_and(|oldest| until.is_none_or(|until| oldest < until))
        {
            self.pop();
        }
        // What a burst made room for is not kept for the next one.
        self.events.shrink_to(2 * self.events.len());
    }

    fn times(&self, unread: u64) -> usize {
        if self.first < unread { 1 } else { SLACK }
    }

    /// Forgets everything, as after a gap, and begins anew after `floor`; watchers notice that they fell off.
    pub(crate) fn reset(&mut self, floor: Revision, recent: Vec<Arc<WatchEvent>>) {
        self.clear();
        self.first += 1;
        self.floor = floor;
        self.fill(recent);
    }

    fn fill(&mut self, recent: Vec<Arc<WatchEvent>>) {
        recent.into_iter().for_each(|event| self.push(event));
        self.shorten(u64::MAX);
    }

    fn clear(&mut self) {
        while !self.events.is_empty() {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(oldest) = self.events.pop_front() else { return };
        self.budget.give_back(cost(&oldest));
        self.first += 1;
        self.floor = oldest.revision();
    }

    /// Everything after this revision is still here.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The index that the next event will get.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The index of the first event after `revision` (of those kept).
    pub(crate) fn index_after(&self, revision: Revision) -> u64 {
        self.first + self.events.partition_point(|event| event.revision() <= revision) as u64
    }

    /// The events from `index` on; `None` when the one at `index` is forgotten.
    pub(crate) fn since(&self, index: u64) -> Option<impl DoubleEndedIterator<Item = &Arc<WatchEvent>>> {
        let skip = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (skip <= self.events.len()).then(|| self.events.range(skip..))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The bytes that only the ring keeps alive: superseded and deleted states.
fn cost(event: &WatchEvent) -> usize {
    let deleted = if event.kind == crate::EventKind::Deleted { event.entry.bytes.len() } else { 0 };
    OVERHEAD + deleted + event.previous.as_ref().map_or(0, |previous| previous.bytes.len() + OVERHEAD)
}
