//! What a pod was given of the node's cpu and memory. A resize asks for something else; until the node grants it, the
//! pod's worker goes on with what was given, and sees no more of the wish than why it has to wait.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod;
use crate::resources::amount;

/// The resources that can change while a pod runs.
pub(crate) const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Why a resize has not been granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` until other pods leave room, or `Infeasible` on this node.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Requests and limits of one resource, absent ones as zero.
fn amounts(resources: Option<&ResourceRequirements>, resource: &str) -> [i64; 2] {
    let of = |list: Option<&BTreeMap<String, Quantity>>| list?.get(resource).and_then(|q| amount(resource, q));
    let both = resources.map(|all| [of(all.requests.as_ref()), of(all.limits.as_ref())]);
    both.unwrap_or_default().map(Option::unwrap_or_default)
}

/// The resources in which two containers' requirements differ.
pub(crate) fn differing<'a>(
    one: Option<&'a ResourceRequirements>,
    other: Option<&'a ResourceRequirements>,
) -> impl Iterator<Item = &'static str> + 'a {
    RESIZABLE.into_iter().filter(move |resource| amounts(one, resource) != amounts(other, resource))
}

/// Whether two states of a pod have the same resources.
pub(crate) fn same(one: &Pod, other: &Pod) -> bool {
    let pairs = pod::all_containers(one).zip(pod::all_containers(other));
    let differ = |a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>| differing(a, b).next().is_some();
    !pairs.into_iter().any(|(a, b)| differ(a.resources.as_ref(), b.resources.as_ref()))
        && !differ(pod::spec(one).resources.as_ref(), pod::spec(other).resources.as_ref())
}

/// The pod as it now is, with the resources that it was given before.
pub(crate) fn kept(pod: &Pod, given: &Pod) -> Pod {
    let mut kept = with_resources(pod, |container| {
        pod::container(given, &container.name).map_or_else(|| container.resources.clone(), |c| c.resources.clone())
    });
    if let Some(spec) = &mut kept.spec {
        spec.resources.clone_from(&pod::spec(given).resources);
    }
    kept
}

/// What an earlier process of ours had given the pod, as the pod's status tells; what that does not name has what it
/// asks for.
pub(crate) fn restored(pod: &Pod) -> Pod {
    let status = pod::status(pod);
    let told: Vec<&ContainerStatus> =
        pod::list(&status.container_statuses).iter().chain(pod::list(&status.init_container_statuses)).collect();
    let mut restored = with_resources(pod, |container| {
        let status = told.iter().find(|status| status.name == container.name);
        let Some(limits) = status.and_then(|status| status.resources.as_ref()).map(|all| all.limits.clone()) else {
            return container.resources.clone();
        };
        let requests = status.and_then(|status| status.allocated_resources.clone());
        let claims = container.resources.as_ref().and_then(|all| all.claims.clone());
        Some(ResourceRequirements { requests, limits, claims })
    });
    if let (Some(spec), Some(told)) = (&mut restored.spec, &status.resources)
        && spec.resources.is_some()
    {
        spec.resources = Some(told.clone());
    }
    restored
}

fn with_resources(pod: &Pod, of: impl Fn(&Container) -> Option<ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        let lists = spec.init_containers.as_mut().into_iter().chain([&mut spec.containers]);
        for container in lists.flatten() {
            container.resources = of(container);
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, limit: Option<&str>) -> Pod {
        let quantities = |text: &str| BTreeMap::from([("cpu".to_owned(), Quantity(text.into()))]);
        let resources = ResourceRequirements {
            requests: Some(quantities(cpu)),
            limits: limit.map(quantities),
            ..ResourceRequirements::default()
        };
        let container = Container { name: "c".into(), resources: Some(resources), ..Container::default() };
        Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn a_wish_is_not_yet_given() {
        let (given, mut asked) = (pod("1", Some("1")), pod("2", Some("2")));
        assert!(same(&given, &pod("1000m", Some("1"))) && !same(&given, &asked));
        asked.metadata.name = Some("renamed".into());
        let kept = kept(&asked, &given);
        assert!(same(&kept, &given));
        assert_eq!(kept.metadata.name.as_deref(), Some("renamed"));
    }

    #[test]
    fn after_a_restart_the_status_tells_what_was_given() {
        let told = |text: serde_json::Value| -> Option<PodStatus> { serde_json::from_value(text).ok() };
        let mut asked = pod("2", Some("2"));
        asked.status = told(json!({"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "900m"}, "limits": {"cpu": "1"}},
        }]}));
        assert!(same(&restored(&asked), &pod("1", Some("1"))));
        asked.status = None;
        assert!(same(&restored(&asked), &asked));
    }
}
