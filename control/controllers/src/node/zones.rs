//! How fast the nodes of a zone are given up, by upstream's rates. Where most of a zone is silent at once, it is more likely that
//! something between is broken than that all its machines are: nobody has to leave, or only slowly where there is much to lose.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::objects::Node;

/// Between two nodes of a zone (upstream's `--node-eviction-rate`, 0.1 a second).
const INTERVAL: Duration = Duration::from_secs(10);
/// The same where most of a large zone is not ready (`--secondary-node-eviction-rate`, 0.01 a second).
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
/// A zone of more nodes is large (`--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// Most of a zone, in percent (`--unhealthy-zone-threshold`), and at least so many nodes.
const MOST_PERCENT: usize = 55;
const SEVERAL: usize = 3;

/// Region and zone; both may be empty.
pub(super) type Zone = (String, String);

/// When the pods of a node that is not ready have to leave it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Now,
    In(Duration),
    NotYet,
}

/// When the next node of each zone may be given up.
#[derive(Default)]
pub(super) struct Pace(Mutex<HashMap<Zone, Instant>>);

/// The zone that a node's labels name.
pub(super) fn zone_of(node: &Node) -> Zone {
    let label = |name: &str| node.metadata.labels.get(name).cloned().unwrap_or_default();
    (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The time between two nodes of a zone with so many that are ready and that are not; none if nobody is to leave.
fn interval(ready: usize, unready: usize) -> Option<Duration> {
    let all = ready + unready;
    match ready > 0 && unready >= SEVERAL && unready * 100 >= all * MOST_PERCENT {
        false => Some(INTERVAL),
        true if all > LARGE => Some(SLOW_INTERVAL),
        true => None,
    }
}

impl Pace {
    /// Gives one more node of a zone up, or says when that may be.
    pub(super) fn take(&self, zone: &Zone, (ready, unready): (usize, usize), now: Instant) -> Leave {
        let Some(interval) = interval(ready, unready) else { return Leave::NotYet };
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        next.retain(|_, at| *at > now);
        match next.get(zone) {
            Some(at) => Leave::In(*at - now),
            None => {
                next.insert(zone.clone(), now + interval);
                Leave::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_upstreams() {
        for (ready, unready, want) in [
            (0, 1, Some(INTERVAL)),
            (0, 9, Some(INTERVAL)),
            (1, 2, Some(INTERVAL)),
            (1, 3, None),
            (4, 4, Some(INTERVAL)),
            (9, 11, None),
            (22, 28, None),
            (22, 29, Some(SLOW_INTERVAL)),
            (60, 40, Some(INTERVAL)),
        ] {
            assert_eq!(interval(ready, unready), want, "{ready} ready, {unready} not");
        }
    }

    #[test]
    fn one_node_a_zone_and_interval() {
        let now = Instant::now();
        let (pace, here, there) = (Pace::default(), Zone::default(), (String::new(), "b".to_owned()));
        assert_eq!(pace.take(&here, (5, 2), now), Leave::Now);
        assert_eq!(pace.take(&here, (5, 2), now), Leave::In(INTERVAL));
        assert_eq!(pace.take(&there, (5, 2), now), Leave::Now);
        assert_eq!(pace.take(&there, (1, 3), now), Leave::NotYet);
        assert_eq!(pace.take(&here, (5, 2), now + INTERVAL), Leave::Now);
    }
}
