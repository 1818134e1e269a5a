//! A port of a node can be given away once an address and protocol.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, PreFilter, Rejection};
use crate::objects::Port;

/// The plugin.
pub(super) struct NodePorts;

fn conflict(a: &Port, b: &Port) -> bool {
    fn protocol(port: &Port) -> &str {
        if port.protocol.is_empty() { "TCP" } else { &port.protocol }
    }
    fn any(port: &Port) -> bool {
        matches!(port.host_ip.as_str(), "" | "0.0.0.0" | "::")
    }
    a.host_port == b.host_port && protocol(a) == protocol(b) && (any(a) || any(b) || a.host_ip == b.host_ip)
}

fn conflicts(wanted: &[Port], used: &[Port]) -> bool {
    wanted.iter().any(|wanted| used.iter().any(|used| conflict(wanted, used)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo) -> PreFilter {
        if pod.ports.is_empty() { PreFilter::Skip } else { PreFilter::Continue }
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if conflicts(&pod.ports, &node.ports) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Err(Rejection::resolvable(vec![reason.into()]));
        }
        Ok(())
    }

    fn helps(&self, pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::NodeUpdated { .. } | ClusterEvent::PodShrunk(_) => false,
            ClusterEvent::PodRemoved(removed) => conflicts(&pod.ports, &removed.ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_conflict_by_address_and_protocol() {
        let port = |host_port, host_ip: &str, protocol: &str| Port {
            host_port,
            host_ip: host_ip.into(),
            protocol: protocol.into(),
        };
        let cases = [
            (port(80, "", "TCP"), port(80, "", ""), true),
            (port(80, "", "TCP"), port(80, "", "UDP"), false),
            (port(80, "", "TCP"), port(81, "", "TCP"), false),
            (port(80, "10.0.0.1", "TCP"), port(80, "10.0.0.2", "TCP"), false),
            (port(80, "10.0.0.1", "TCP"), port(80, "10.0.0.1", "TCP"), true),
            (port(80, "10.0.0.1", "TCP"), port(80, "0.0.0.0", "TCP"), true),
        ];
        for (a, b, want) in cases {
            assert_eq!((conflict(&a, &b), conflict(&b, &a)), (want, want), "{a:?} {b:?}");
        }
    }
}
