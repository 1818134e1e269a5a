//! Quality of service: the class a pod falls in and the OOM score its containers get.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod;
use crate::resources;

/// The three classes; the cgroup tree follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QosClass {
    /// Every container's limits equal its requests, for cpu and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// All three.
    pub(crate) const ALL: [QosClass; 3] = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];

    /// As status.qosClass spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod. The API server has usually set it; the spec decides otherwise.
    pub(crate) fn of(pod: &Pod) -> QosClass {
        match pod::status(pod).qos_class.as_deref() {
            Some("Guaranteed") => return QosClass::Guaranteed,
            Some("Burstable") => return QosClass::Burstable,
            Some("BestEffort") => return QosClass::BestEffort,
            _ => {}
        }
        let mut any = false;
        let mut all = true;
        let whole = pod::spec(pod).resources.as_ref().filter(|all| all.requests.is_some() || all.limits.is_some());
        let containers = pod::all_containers(pod).map(|container| container.resources.as_ref());
        let holders: Vec<_> = whole.map_or_else(|| containers.collect(), |whole| vec![Some(whole)]);
        for holder in holders {
            for resource in ["cpu", "memory"] {
                let request = resources::request_of(holder, resource).filter(|v| *v > 0);
                let limit = resources::limit_of(holder, resource).filter(|v| *v > 0);
                any |= request.is_some() || limit.is_some();
                all &= limit.is_some() && request.or(limit) == limit;
            }
        }
        match (any, all) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    }
}

const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// Priorities from here on are the system's.
const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// The kernel's preference for killing this container first: the less of its node's memory it asked for, the higher.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let critical = pod::spec(pod).priority_class_name.as_deref() == Some("system-node-critical");
    if critical && pod::spec(pod).priority.unwrap_or(0) >= SYSTEM_PRIORITY {
        return GUARANTEED_OOM_SCORE;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {
            let of = |container: &Container| resources::request(container, "memory").unwrap_or(0);
            // A sidecar goes no sooner than what it serves.
            let served = pod::containers(pod).iter().filter(|_| pod::is_sidecar(pod, &container.name));
            let request = served.map(of).min().unwrap_or(0).max(of(container));
            let score = 1000 - (1000 * i128::from(request) / i128::from(memory_capacity.max(1))) as i64;
            score.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    fn quantities(text: &str) -> Option<BTreeMap<String, Quantity>> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').expect("test data"));
        Some(pairs.map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).collect())
    }

    fn pod(requests: &str, limits: &str) -> Pod {
        let resources =
            ResourceRequirements { requests: quantities(requests), limits: quantities(limits), claims: None };
        let container = Container { name: "c".into(), resources: Some(resources), ..Container::default() };
        Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn class_and_score() {
        let gib = 1 << 30;
        let cases = [
            ("", "", QosClass::BestEffort, 1000),
            ("cpu=1 memory=1Gi", "cpu=1 memory=1Gi", QosClass::Guaranteed, -997),
            ("", "cpu=1 memory=1Gi", QosClass::Guaranteed, -997),
            ("cpu=1000m memory=1024Mi", "cpu=1 memory=1Gi", QosClass::Guaranteed, -997),
            ("cpu=1 memory=1Gi", "cpu=2 memory=1Gi", QosClass::Burstable, 750),
            ("cpu=1", "", QosClass::Burstable, 999),
            ("memory=4Gi", "", QosClass::Burstable, 3),
            ("", "memory=1Gi", QosClass::Burstable, 750),
        ];
        for (requests, limits, class, score) in cases {
            let pod = pod(requests, limits);
            assert_eq!(QosClass::of(&pod), class, "{requests} / {limits}");
            assert_eq!(oom_score_adj(&pod, &pod::containers(&pod)[0], 4 * gib), score, "{requests} / {limits}");
        }
        // A sidecar is as safe as the least of what it serves.
        for (own, of_app, score) in [("memory=1Gi", "memory=2Gi", 500), ("memory=2Gi", "memory=1Gi", 500)] {
            let mut both = pod(of_app, "");
            let sidecar =
                Container { restart_policy: Some("Always".into()), ..pod(own, "").spec.unwrap().containers[0].clone() };
            let sidecar = Container { name: "s".into(), ..sidecar };
            both.spec.as_mut().unwrap().init_containers = Some(vec![sidecar.clone()]);
            assert_eq!(oom_score_adj(&both, &sidecar, 4 * gib), score, "{own} beside {of_app}");
        }
        for (class, score) in [("system-node-critical", -997), ("system-cluster-critical", 1000)] {
            let mut critical = pod("", "");
            let spec = critical.spec.as_mut().unwrap();
            (spec.priority_class_name, spec.priority) = (Some(class.into()), Some(SYSTEM_PRIORITY));
            assert_eq!(oom_score_adj(&critical, &pod::containers(&critical)[0], 4 * gib), score, "{class}");
        }
    }
}
