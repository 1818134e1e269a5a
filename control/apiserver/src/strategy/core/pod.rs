//! Pods.

use super::{container, pod_defaults, pod_spec, warnings};
use crate::strategy::Strategy;
use crate::strategy::tools::{
    Problems, always, changed, each_mut, empty, in_step, indexed, int, items, keep, some, text, within,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use serde_json::{Value, json};

/// The strategy of pods.
#[derive(Debug)]
pub(in crate::strategy) struct Pod;

impl Strategy for Pod {
    fn defaults(&self, pod: &mut Value) {
        always(pod, "spec", pod_defaults::pod);
        within(pod, "status", |status| {
            in_step(status, "podIP", "podIPs", |item| item["ip"].clone(), |ip| json!({ "ip": ip }));
        });
    }

    fn prepare_create(&self, pod: &mut Value) {
        pod["status"] = json!({ "phase": "Pending", "qosClass": qos_class(&pod["spec"]) });
        match_labels(pod);
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
        let (path, spec) = (Path::new("spec"), &pod["spec"]);
        whole(pod, &mut problems);
        if !empty(spec, "ephemeralContainers") {
            problems.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !empty(spec, "schedulingGates") && !empty(spec, "nodeName") {
            let detail = "cannot be set until all schedulingGates have been cleared";
            problems.push(FieldError::forbidden(&path.child("nodeName"), detail));
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        super::pod_update::validate(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        // People make pods; what changes them is mostly software, and often.
        if old.is_some() {
            return Vec::new();
        }
        let mut all = Vec::from_iter(warnings::name(meta::name(new), "this is used in the Pod's hostname"));
        all.extend(warnings::pod(&Path::root(), new));
        all
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        // The QoS class is decided once.
        if let (Some(new), Some(old)) = (new.get_mut("status"), old.get("status")) {
            keep(new, old, "qosClass");
            keep_observed_generations(new, old);
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
        addresses(new, "podIPs", &mut problems);
        addresses(new, "hostIPs", &mut problems);
        if let Some(first) = items(new, "hostIPs").first().map(|first| text(first, "ip"))
            && first != text(new, "hostIP")
        {
            let path = Path::new("status").child("hostIPs").index(0).child("ip");
            problems.push(FieldError::invalid(&path, first, "must be equal to `hostIP`"));
        }
        problems
    }
}

/// The addresses of a pod or its node: at most one of each family.
fn addresses(status: &Value, list: &'static str, problems: &mut Problems) {
    let all = items(status, list);
    for (path, address) in indexed(status, list, &Path::new("status")) {
        pod_spec::ip(&path, text(address, "ip"), problems);
    }
    let of_v6 = all.iter().filter(|address| text(address, "ip").contains(':')).count();
    if all.len() > 2 || (all.len() == 2 && of_v6 != 1) {
        let detail = "may specify no more than one IP for each IP family";
        problems.push(FieldError::invalid(&Path::new("status").child(list), all.to_vec(), detail));
    }
}

/// Clients that do not know which generation a status tells of leave what is known.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    const FIELD: &str = "observedGeneration";
    if int(new, FIELD).unwrap_or(0) == 0 {
        keep(new, old, FIELD);
    }
    let before = items(old, "conditions");
    each_mut(new, "conditions", |condition| {
        let same = before.iter().find(|one| text(one, "type") == text(condition, "type"));
        if let Some(same) = same.filter(|_| int(condition, FIELD).unwrap_or(0) == 0) {
            keep(condition, same, FIELD);
        }
    });
}

/// Selectors of other pods that are to be alike or unlike this one get its own labels.
fn match_labels(pod: &mut Value) {
    let labels = pod["metadata"].get("labels").cloned().unwrap_or(Value::Null);
    for field in ["podAffinity", "podAntiAffinity"] {
        let join = |term: &mut Value| {
            let mut extra = Vec::new();
            for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
                for key in items(term, list).iter().filter_map(Value::as_str) {
                    let value = labels.get(key);
                    extra.extend(value.map(|value| json!({"key": key, "operator": operator, "values": [value]})));
                }
            }
            if extra.is_empty() || some(term, "labelSelector").is_none() {
                return;
            }
            let mut all = items(&term["labelSelector"], "matchExpressions").to_vec();
            all.extend(extra);
            term["labelSelector"]["matchExpressions"] = all.into();
        };
        let Some(terms) = pod.pointer_mut(&format!("/spec/affinity/{field}")) else { continue };
        each_mut(terms, "requiredDuringSchedulingIgnoredDuringExecution", join);
        each_mut(terms, "preferredDuringSchedulingIgnoredDuringExecution", |weighted| {
            within(weighted, "podAffinityTerm", join);
        });
    }
}

/// A pod as it stands: its spec, and what templates may leave open.
pub(super) fn whole(pod: &Value, problems: &mut Problems) {
    let (path, spec) = (Path::new("spec"), &pod["spec"]);
    if !spec.is_object() {
        problems.push(FieldError::required(&path.child("containers"), ""));
        return;
    }
    pod_spec::annotations(&Path::new("metadata").child("annotations"), &pod["metadata"], spec, problems);
    pod_spec::spec(&path, spec, problems);
    if empty(spec, "serviceAccountName") {
        for (path, volume) in indexed(spec, "volumes", &path) {
            for (path, source) in indexed(&volume["projected"], "sources", &path.child("projected")) {
                if some(source, "serviceAccountToken").is_some() {
                    let detail = "must not be specified when serviceAccountName is not set";
                    problems.push(FieldError::forbidden(&path.child("serviceAccountToken"), detail));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (path, container) in indexed(spec, list, &path) {
            container::image_has_no_margins(&path, container, problems);
        }
    }
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

    fn each_is_told(cases: &[(Value, &str)]) {
        for (spec, expected) in cases {
            assert_eq!(said(&Pod.validate(&pod(spec))).join(", "), *expected, "{spec}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        each_is_told(&[
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
                "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
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
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
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
        ]);
    }

    #[test]
    fn what_else_is_wrong_is_named_by_its_path() {
        each_is_told(&[
            (
                json!({"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v", "secret": {}}]}),
                "spec.volumes[0].secret.secretName: Required value",
            ),
            (
                json!({"containers": [{"name": "a", "image": " x"}]}),
                "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}]}),
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]}]}),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]}]}),
                "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "../a"}]}], "volumes": [{"name": "v"}]}),
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../a\": must not contain '..'",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "1", "hugepages-2Mi": "3Mi"}}}]}),
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi, spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}}}], "resources": {"requests": {"cpu": "1"}}}),
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "resources": {"limits": {"ephemeral-storage": "1"}}}),
                "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
                "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "/a"}}}]}),
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"/a\": must be a relative path",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "os": {"name": "plan9"}}),
                "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x"}], "nodeName": "n", "schedulingGates": [{"name": "a.b/c"}]}),
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "X_Y", "value": ""}]}}}]}),
                "spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: \"X_Y\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            ),
            (
                json!({"containers": [{"name": "a", "image": "x", "resources": {"limits": {"foo": "1"}}}]}),
                "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified, spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers, spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified, spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ),
        ]);
    }

    #[test]
    fn what_is_odd_is_accepted() {
        let one = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "a", "image": "x"}]});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        for spec in [
            one(json!({"imagePullSecrets": [{"name": ""}]})),
            one(json!({"terminationGracePeriodSeconds": -1})),
            one(json!({"schedulerName": "my scheduler"})),
            one(json!({"dnsConfig": {"searches": ["_sip._tcp.example.com", "."]}})),
            one(json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Tape"}}]})),
            one(json!({"volumes": [{"name": "v", "projected": {"sources": [{}]}}]})),
            one(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}}]}}})),
            json!({"containers": [{"name": "a", "image": "x", "resources": {"limits": {"kubernetes.io/x": "500m"}}}]}),
        ] {
            assert_eq!(said(&Pod.validate(&pod(&spec))), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn affinity_to_pods_of_the_same_labels() {
        let term = json!({"topologyKey": "t", "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["hash"], "mismatchLabelKeys": ["none"]});
        let mut pod = pod(&json!({"containers": [{"name": "a", "image": "x"}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}));
        pod["metadata"]["labels"] = json!({"hash": "1"});
        Pod.prepare_create(&mut pod);
        let selector = &pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["labelSelector"];
        assert_eq!(selector["matchExpressions"], json!([{"key": "hash", "operator": "In", "values": ["1"]}]));
        assert_eq!(said(&Pod.validate(&pod)), Vec::<String>::new());
    }

    #[test]
    fn a_status_is_made_whole() {
        let old = json!({"status": {"qosClass": "Burstable", "observedGeneration": 3,
            "conditions": [{"type": "Ready", "observedGeneration": 2}]}});
        let mut new = json!({"status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready"}, {"type": "X"}]}});
        Pod.defaults(&mut new);
        Pod.prepare_status_update(&mut new, &old);
        let expected = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "Burstable",
            "observedGeneration": 3, "conditions": [{"type": "Ready", "observedGeneration": 2}, {"type": "X"}]});
        assert_eq!(new["status"], expected);
        assert!(Pod.validate_status_update(&new, &old).is_empty());
        new["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]);
        assert_eq!(Pod.validate_status_update(&new, &old).len(), 1);
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
