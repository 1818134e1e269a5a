//! The node's own say on a pod: does it fit, are its host ports free, is it meant for this node at all.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::allocation::Pending;
use crate::container::{security, sysctls};
use crate::pod;
use crate::resources;
use crate::worker::Failure;

/// What the node offers. `labels` are those the node had when it was last asked (see [`asks_for_labels`]).
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    pub(crate) name: String,
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) pods: usize,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its kernel enforces AppArmor's profiles.
    pub(crate) apparmor: bool,
}

/// Whether the node takes the pod beside those it has.
pub(crate) fn admit(pod: &Pod, others: &[&Pod], offer: &Offer) -> Result<(), Failure> {
    let fail = |reason: &str, message: String| Err(Failure { reason: reason.to_owned(), message });
    if pod::spec(pod).os.as_ref().is_some_and(|os| os.name != "linux") {
        return fail("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS".into());
    }
    if let Err(why) = sysctls::check(pod) {
        return fail("SysctlForbidden", format!("forbidden sysctl: {why}"));
    }
    if !offer.apparmor && security::wants_apparmor(pod) {
        return fail("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
    }
    if others.len() >= offer.pods {
        let used = others.len();
        let message =
            format!("Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {}", offer.pods);
        return fail("OutOfpods", message);
    }
    for (resource, capacity) in [("cpu", offer.cpu_milli), ("memory", offer.memory)] {
        let wanted = resources::pod_request(pod, resource);
        let used: i64 = others.iter().map(|other| resources::pod_request(other, resource)).sum();
        if wanted > 0 && wanted + used > capacity {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return fail(&format!("OutOf{resource}"), message);
        }
    }
    if !matches_node(pod, offer) {
        return fail(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        );
    }
    let taken: HashSet<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clash = |(protocol, ip, port): &(String, String, i32)| {
        taken.iter().any(|(p, i, n)| p == protocol && n == port && (i == ip || i == "0.0.0.0" || ip == "0.0.0.0"))
    };
    if host_ports(pod).iter().any(clash) {
        return fail(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        );
    }
    Ok(())
}

/// Whether the node can give a pod what a resize asks for, beside what the others have. Less of something is always
/// granted.
pub(crate) fn resize(asked: &Pod, given: &Pod, others: &[&Pod], offer: &Offer) -> Result<(), Pending> {
    let wish = |resource| (resources::pod_request(asked, resource), resources::pod_request(given, resource));
    let grown: Vec<_> = [("cpu", offer.cpu_milli), ("memory", offer.memory)]
        .into_iter()
        .filter_map(|(resource, capacity)| {
            let (wanted, had) = wish(resource);
            (wanted > had).then_some((resource, wanted, capacity))
        })
        .collect();
    if let Some((resource, wanted, capacity)) = grown.iter().find(|(_, wanted, capacity)| wanted > capacity) {
        let message =
            format!("Node didn't have enough capacity: {resource}, requested: {wanted}, capacity: {capacity}");
        return Err(Pending { reason: "Infeasible", message });
    }
    for (resource, wanted, capacity) in grown {
        let used: i64 = others.iter().map(|other| resources::pod_request(other, resource)).sum();
        if wanted + used > capacity {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return Err(Pending { reason: "Deferred", message });
        }
    }
    Ok(())
}

/// Whether the pod chooses nodes by their labels, which anyone may have changed a moment ago.
pub(crate) fn asks_for_labels(pod: &Pod) -> bool {
    let by_affinity =
        required(pod).is_some_and(|all| all.node_selector_terms.iter().any(|term| term.match_expressions.is_some()));
    by_affinity || pod::spec(pod).node_selector.as_ref().is_some_and(|labels| !labels.is_empty())
}

fn required(pod: &Pod) -> Option<&NodeSelector> {
    let affinity = pod::spec(pod).affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let ports = pod::all_containers(pod).flat_map(|c| pod::list(&c.ports));
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), ip, number))
        })
        .collect()
}

fn matches_node(pod: &Pod, offer: &Offer) -> bool {
    let spec = pod::spec(pod);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| offer.labels.get(key) == Some(value));
    selected && required(pod).is_none_or(|all| all.node_selector_terms.iter().any(|term| matches_term(term, offer)))
}

fn matches_term(term: &NodeSelectorTerm, offer: &Offer) -> bool {
    let expressions = pod::list(&term.match_expressions);
    let fields = pod::list(&term.match_fields);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| matches_requirement(r, offer.labels.get(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && matches_requirement(r, Some(&offer.name)))
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = pod::list(&requirement.values);
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = values.first().and_then(number);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        AppArmorProfile, Container, ContainerPort, PodOS, PodSpec, ResourceRequirements, SecurityContext,
    };
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    fn pod(cpu: &str, port: Option<i32>, selector: Option<(&str, &str)>) -> Pod {
        let container = Container {
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([("cpu".into(), Quantity(cpu.into()))])),
                ..ResourceRequirements::default()
            }),
            ports: port.map(|p| vec![ContainerPort { host_port: Some(p), ..ContainerPort::default() }]),
            ..Container::default()
        };
        let spec = PodSpec {
            containers: vec![container],
            node_selector: selector.map(|(k, v)| BTreeMap::from([(k.into(), v.into())])),
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    #[test]
    fn reasons() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let mut offer = Offer { name: "n".into(), cpu_milli: 2000, memory: 1 << 30, pods: 2, labels, apparmor: false };
        let present = pod("1500m", Some(80), None);
        for (others, new, expected) in [
            (1, pod("500m", None, Some(("zone", "a"))), None),
            (1, pod("501m", None, None), Some("OutOfcpu")),
            (2, pod("0", None, None), Some("OutOfpods")),
            (1, pod("0", Some(80), None), Some("NodePorts")),
            (0, pod("0", Some(80), None), None),
            (0, pod("0", None, Some(("zone", "b"))), Some("NodeAffinity")),
        ] {
            let others = vec![&present; others];
            let got = admit(&new, &others, &offer).err().map(|failure| failure.reason);
            assert_eq!(got.as_deref(), expected);
        }
        for (others, from, to, expected) in [
            (1, "100m", "500m", None),
            (1, "100m", "501m", Some("Deferred")),
            (1, "100m", "2001m", Some("Infeasible")),
            (2, "500m", "400m", None),
        ] {
            let pending = resize(&pod(to, None, None), &pod(from, None, None), &vec![&present; others], &offer);
            assert_eq!(pending.err().map(|pending| pending.reason), expected, "{from} to {to}");
        }
        let mut windows = pod("0", None, None);
        windows.spec.as_mut().unwrap().os = Some(PodOS { name: "windows".into() });
        assert_eq!(admit(&windows, &[], &offer).unwrap_err().reason, "PodOSNotSupported");
        for (profile, refused) in [("Unconfined", false), ("RuntimeDefault", true), ("Localhost", true)] {
            let mut confined = pod("0", None, None);
            let profile = AppArmorProfile { type_: profile.into(), ..AppArmorProfile::default() };
            let security = SecurityContext { app_armor_profile: Some(profile), ..SecurityContext::default() };
            confined.spec.as_mut().unwrap().containers[0].security_context = Some(security);
            offer.apparmor = false;
            let reason = admit(&confined, &[], &offer).err().map(|failure| failure.reason);
            assert_eq!(reason.as_deref(), refused.then_some("AppArmor"));
            offer.apparmor = true;
            assert!(admit(&confined, &[], &offer).is_ok());
        }
    }
}
