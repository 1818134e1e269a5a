//! Pods.

use super::{pod_defaults, pod_spec};
use crate::strategy::Strategy;
use crate::strategy::tools::{Problems, changed, each_mut, empty, int, items, keep, some, text, within};
use apimachinery::field::{FieldError, Path};
use serde_json::{Value, json};

/// The strategy of pods.
#[derive(Debug)]
pub(in crate::strategy) struct Pod;

impl Strategy for Pod {
    fn defaults(&self, pod: &mut Value) {
        within(pod, "spec", pod_defaults::pod);
    }

    fn prepare_create(&self, pod: &mut Value) {
        pod["status"] = json!({ "phase": "Pending", "qosClass": qos_class(&pod["spec"]) });
        if !empty(&pod["spec"], "schedulingGates") {
            pod["status"]["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": apimachinery::time::now_rfc3339(),
            }]);
        }
    }

    fn validate(&self, pod: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("spec");
        match some(pod, "spec") {
            Some(spec) => {
                pod_spec::spec(&path, spec, &mut problems);
                if !empty(spec, "ephemeralContainers") {
                    let detail = "cannot be set on create";
                    problems.push(FieldError::forbidden(&path.child("ephemeralContainers"), detail));
                }
            }
            None => problems.push(FieldError::required(&path.child("containers"), "")),
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        // Most updates are of labels and annotations; what is stored was found valid.
        if new["spec"] == old["spec"] {
            return problems;
        }
        pod_spec::spec(&Path::new("spec"), &new["spec"], &mut problems);
        updatable(new, old, &mut problems);
        problems
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        // The QoS class is decided once.
        if let (Some(new), Some(old)) = (new.get_mut("status"), old.get("status")) {
            keep(new, old, "qosClass");
        }
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        let (new, old) = (&new["status"], &old["status"]);
        let path = Path::new("status").child("nominatedNodeName");
        let nominated = text(new, "nominatedNodeName");
        if changed(new, old, "nominatedNodeName") && !nominated.is_empty() {
            let messages = apimachinery::names::is_dns1123_subdomain(nominated);
            problems.extend(crate::strategy::tools::named(&path, nominated, messages));
        }
        problems
    }
}

/// All that may change in a running pod's spec; everything else must be what it was.
fn updatable(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("spec");
    if items(&new["spec"], "containers").len() != items(&old["spec"], "containers").len() {
        problems.push(FieldError::forbidden(&path.child("containers"), "pod updates may not add or remove containers"));
        return;
    }
    if items(&new["spec"], "initContainers").len() != items(&old["spec"], "initContainers").len() {
        problems
            .push(FieldError::forbidden(&path.child("initContainers"), "pod updates may not add or remove containers"));
        return;
    }
    deadline(new, old, problems);
    let old_tolerations = items(&old["spec"], "tolerations");
    let all_kept = old_tolerations.iter().all(|toleration| items(&new["spec"], "tolerations").contains(toleration));
    if !all_kept {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        problems.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }
    if without_mutable(&new["spec"], &old["spec"]) != without_mutable(&old["spec"], &old["spec"]) {
        problems.push(FieldError::forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

fn deadline(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("spec").child("activeDeadlineSeconds");
    match (int(&old["spec"], "activeDeadlineSeconds"), int(&new["spec"], "activeDeadlineSeconds")) {
        (Some(old), Some(new)) if new > old => {
            problems.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (Some(_), None) => problems.push(FieldError::invalid(
            &path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

/// A spec with the old values of the fields that may change. Gates may only be removed, and a gated pod may still be
/// bound more tightly; both are looked at in full where the scheduler's features are.
fn without_mutable(spec: &Value, old: &Value) -> Value {
    let mut spec = spec.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers"] {
        keep(&mut spec, old, field);
    }
    if items(&spec, "schedulingGates").iter().all(|gate| items(old, "schedulingGates").contains(gate)) {
        keep(&mut spec, old, "schedulingGates");
    }
    if !empty(old, "schedulingGates") {
        keep(&mut spec, old, "nodeSelector");
        keep(&mut spec, old, "affinity");
    }
    for list in ["containers", "initContainers"] {
        let mut images = items(old, list)
            .iter()
            .map(|container| text(container, "image").to_owned())
            .collect::<Vec<_>>()
            .into_iter();
        each_mut(&mut spec, list, |container| {
            if let Some(image) = images.next() {
                container["image"] = image.into();
            }
        });
    }
    spec
}

/// The quality of service that a pod gets, from what it asks for as a whole or else from what its containers ask for
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let whole = [spec];
    let containers: Vec<&Value> = items(spec, "containers").iter().chain(items(spec, "initContainers")).collect();
    let of_whole = ["limits", "requests"].iter().any(|list| !empty(&spec["resources"], list));
    let holders: &[&Value] = if of_whole { &whole } else { &containers };
    let mut any = false;
    let mut guaranteed = true;
    for holder in holders {
        for name in ["cpu", "memory"] {
            let amount = |list: &str| {
                let value = holder.get("resources")?.get(list)?.get(name)?;
                super::resources::parse(value).filter(|quantity| !quantity.is_zero())
            };
            let (limit, request) = (amount("limits"), amount("requests"));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &Value) -> Value {
        let mut pod = json!({ "metadata": { "name": "a" }, "spec": spec });
        Pod.defaults(&mut pod);
        pod
    }

    fn said(problems: &Problems) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let cases = [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x", "imagePullPolicy": "Sometimes"}]}),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}]}),
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ),
            (
                json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]}),
                "spec.containers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
            ),
            (
                json!({"hostnameOverride": "h", "hostNetwork": true, "containers": [{"name": "a", "image": "x"}]}),
                "spec.hostnameOverride: Forbidden: may not be specified when 'hostNetwork' is true",
            ),
            (
                json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}], "containers": [{"name": "a", "image": "x",
                    "env": [{"name": "E", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}}}]}]}),
                "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"v\": referenced volume must be of type emptyDir",
            ),
            (
                json!({"restartPolicy": "Maybe", "containers": [{"name": "a", "image": "x"}]}),
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {}}]}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "hostNetwork": true,
                    "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "hostUsers": false, "hostPID": true}),
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "resources": {"limits": {"hugepages-2Mi": "2Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}}]}),
                "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v", "secret": {}}]}),
                "spec.volumes[0].secret.secretName: Required value",
            ),
        ];
        for (spec, expected) in cases {
            let problems = Pod.validate(&pod(&spec));
            assert_eq!(said(&problems), [expected], "{spec}");
        }
    }

    #[test]
    fn only_a_few_fields_may_change() {
        let old = pod(&json!({"containers": [{"name": "a", "image": "x:1"}]}));
        let mut image = old.clone();
        image["spec"]["containers"][0]["image"] = "x:2".into();
        assert_eq!(said(&Pod.validate_update(&image, &old)), Vec::<String>::new());
        let mut node = old.clone();
        node["spec"]["nodeName"] = "other".into();
        let problems = Pod.validate_update(&node, &old);
        assert_eq!(problems.len(), 1);
        assert!(said(&problems)[0].starts_with("spec: Forbidden: pod updates may not change fields other than"));
    }

    #[test]
    fn quality_of_service() {
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "0.5"}}), "Burstable"),
        ];
        for (resources, class) in cases {
            assert_eq!(qos_class(&json!({"containers": [{"resources": resources}]})), class, "{resources}");
        }
    }
}
