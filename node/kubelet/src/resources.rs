//! Requests and limits of containers and pods as numbers: cpu in thousandths, everything else in whole units.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod;

/// A quantity as a number: cpu in milli-units, others rounded up to units. `None` where it is not a quantity.
pub(crate) fn amount(resource: &str, quantity: &Quantity) -> Option<i64> {
    let parsed = apimachinery::quantity::Quantity::parse(&quantity.0).ok()?;
    Some(if resource == "cpu" { parsed.as_milli() } else { parsed.as_i64() })
}

fn from_map(resources: Option<&ResourceRequirements>, resource: &str, limits: bool) -> Option<i64> {
    let resources = resources?;
    let map = if limits { &resources.limits } else { &resources.requests };
    amount(resource, map.as_ref()?.get(resource)?)
}

/// What the container is promised; a limit without a request is one.
pub(crate) fn request(container: &Container, resource: &str) -> Option<i64> {
    request_of(container.resources.as_ref(), resource)
}

/// The request among these requirements; a limit without one is one.
pub(crate) fn request_of(resources: Option<&ResourceRequirements>, resource: &str) -> Option<i64> {
    from_map(resources, resource, false).or_else(|| from_map(resources, resource, true))
}

/// What the container may not exceed.
pub(crate) fn limit(container: &Container, resource: &str) -> Option<i64> {
    limit_of(container.resources.as_ref(), resource)
}

/// The limit among these requirements.
pub(crate) fn limit_of(resources: Option<&ResourceRequirements>, resource: &str) -> Option<i64> {
    from_map(resources, resource, true)
}

/// The pod's effective request: the larger of its app containers with sidecars and of any init step, plus overhead.
pub(crate) fn pod_request(pod: &Pod, resource: &str) -> i64 {
    let own = from_map(pod::spec(pod).resources.as_ref(), resource, false);
    own.unwrap_or_else(|| aggregate(pod, |c| request(c, resource).unwrap_or(0))) + overhead(pod, resource)
}

/// The pod's limit: only where every container (or the pod itself) has one.
pub(crate) fn pod_limit(pod: &Pod, resource: &str) -> Option<i64> {
    if let Some(own) = from_map(pod::spec(pod).resources.as_ref(), resource, true) {
        return Some(own + overhead(pod, resource));
    }
    let complete = pod::all_containers(pod).all(|c| limit(c, resource).is_some_and(|v| v > 0));
    complete.then(|| aggregate(pod, |c| limit(c, resource).unwrap_or(0)) + overhead(pod, resource))
}

fn aggregate(pod: &Pod, of: impl Fn(&Container) -> i64) -> i64 {
    let mut sidecars = 0;
    let mut peak = 0;
    for container in pod::init_containers(pod) {
        if pod::restartable(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    let apps: i64 = pod::containers(pod).iter().map(&of).sum();
    peak.max(apps + sidecars)
}

fn overhead(pod: &Pod, resource: &str) -> i64 {
    let overhead = pod::spec(pod).overhead.as_ref();
    overhead.and_then(|map| map.get(resource)).and_then(|q| amount(resource, q)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn cpu(name: &str, request: &str, sidecar: bool) -> Container {
        Container {
            name: name.into(),
            restart_policy: sidecar.then(|| "Always".into()),
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([("cpu".into(), Quantity(request.into()))])),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        }
    }

    #[test]
    fn pod_request_is_the_peak_over_its_life() {
        let spec = PodSpec {
            init_containers: Some(vec![cpu("side", "100m", true), cpu("init", "900m", false)]),
            containers: vec![cpu("a", "200m", false), cpu("b", "300m", false)],
            ..PodSpec::default()
        };
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        assert_eq!(pod_request(&pod, "cpu"), 1000);
        assert_eq!(pod_request(&pod, "memory"), 0);
        assert_eq!(pod_limit(&pod, "cpu"), None);
    }
}
