//! Each node's part of the cluster's range of pod addresses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use informer::queue::{Action, Queue};
use informer::recorder::{EventType, ObjectRef, Recorder};
use informer::rest::{self, Rest};
use informer::{Event, Informer, ObjectKey};
use serde_json::json;

use crate::framework::{Doing, Env, Error, Result, path_of, synced};
use crate::objects::Node;

struct Controller {
    rest: Rest,
    recorder: Recorder,
    nodes: Informer<Node>,
    range: Range,
    /// Given out here and perhaps not in the informer yet: node and part.
    given: Mutex<Vec<(String, String)>>,
}

/// A range cut into equal parts.
#[derive(Clone, Copy, Debug)]
struct Range {
    base: IpAddr,
    prefix: u8,
    part: u8,
}

pub(super) fn start(env: &Env, (base, prefix): (IpAddr, u8), part: u8) {
    let nodes = env.informers.nodes.clone();
    let queue = Queue::new("node-cidr");
    let changed = queue.clone();
    nodes.on_event(move |event| match event {
        Event::Upsert { new, .. } if new.spec.pod_cidr.is_empty() => changed.add(new.metadata.name.clone()),
        _ => {}
    });
    let known = synced!(nodes);
    let controller = Arc::new(Controller {
        rest: env.rest(super::CONTROLLER),
        recorder: env.recorder(super::CONTROLLER),
        nodes,
        range: Range { base, prefix, part },
        given: Mutex::default(),
    });
    // One at a time: two nodes must not get the same part.
    env.run(queue, 1, known, controller, |this, name| async move { this.reconcile(&name).await });
}

impl Range {
    /// The first part that is not in use.
    fn free(&self, used: &HashSet<String>) -> Option<String> {
        let bits = if self.base.is_ipv4() { 32 } else { 128 };
        if self.part < self.prefix || self.part > bits {
            return None;
        }
        let count = 1u128.checked_shl(u32::from(self.part - self.prefix)).unwrap_or(u128::MAX);
        // More parts than used ones need not be looked at.
        let count = count.min(used.len() as u128 + 1);
        (0..count).map(|number| self.part(number, bits)).find(|part| !used.contains(part))
    }

    fn part(&self, number: u128, bits: u8) -> String {
        let shift = |bits_left: u8| number.checked_shl(u32::from(bits_left)).unwrap_or_default();
        let address = match self.base {
            IpAddr::V4(base) => {
                let offset = u32::try_from(shift(bits - self.part)).unwrap_or_default();
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(offset)))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(shift(bits - self.part)))),
        };
        format!("{address}/{}", self.part)
    }
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Action> {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) else { return Ok(Action::Done) };
        if !node.spec.pod_cidr.is_empty() {
            return Ok(Action::Done);
        }
        let Some(part) = self.choose(name) else {
            let about = ObjectRef::of("v1", "Node", &node.metadata);
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            self.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", message);
            let why = format!("no part of {}/{} is free", self.range.base, self.range.prefix);
            return Err(Error::Invalid { object: format!("node {name}"), why });
        };
        let patch = json!({
            "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": part, "podCIDRs": [part] },
        });
        let patched = self.rest.strategic_merge(&path_of(node.as_ref()), &patch).await;
        rest::absent_is_none(patched).doing(|| format!("give {part} to node {name}"))?;
        Ok(Action::Done)
    }

    fn choose(&self, name: &str) -> Option<String> {
        let nodes = self.nodes.list();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // What the informer shows need not be remembered, and a node that is gone gives its part back.
        given.retain(|(name, _)| nodes.iter().any(|node| node.metadata.name == *name && node.spec.pod_cidr.is_empty()));
        if let Some((_, part)) = given.iter().find(|(known, _)| known == name) {
            return Some(part.clone());
        }
        let shown = nodes.iter().flat_map(|node| node.spec.pod_cidrs.iter().chain([&node.spec.pod_cidr])).cloned();
        let used: HashSet<String> = shown.chain(given.iter().map(|(_, part)| part.clone())).collect();
        let part = self.range.free(&used)?;
        given.push((name.to_owned(), part.clone()));
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_in_order() {
        // (base, prefix, prefix of a part, in use, want)
        type Case = (&'static str, u8, u8, &'static [&'static str], Option<&'static str>);
        let cases: [Case; 6] = [
            ("10.244.0.0", 16, 24, &[], Some("10.244.0.0/24")),
            ("10.244.0.0", 16, 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24")),
            ("10.0.0.0", 23, 24, &["10.0.0.0/24", "10.0.1.0/24"], None),
            ("10.0.0.0", 24, 24, &[""], Some("10.0.0.0/24")),
            ("10.0.0.0", 24, 23, &[], None),
            ("fd00::", 48, 64, &["fd00::/64"], Some("fd00:0:0:1::/64")),
        ];
        for (base, prefix, part, used, want) in cases {
            let range = Range { base: base.parse().unwrap(), prefix, part };
            let used = used.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(range.free(&used).as_deref(), want, "{base}/{prefix} {used:?}");
        }
    }
}
