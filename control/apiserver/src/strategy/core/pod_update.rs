//! What may change in a pod that is there: a few fields of its spec, and the containers that are added to look at it
//! (pkg/apis/core/validation, ValidatePodUpdate and ValidatePodEphemeralContainersUpdate).

use super::pod;
use super::pod_spec::MIRROR;
use crate::strategy::tools::{Problems, changed, each_mut, empty, int, items, keep, map, some, text};
use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use serde_json::{Value, json};

/// Checks an update of a pod.
pub(super) fn validate(new: &Value, old: &Value) -> Problems {
    let mut problems = Vec::new();
    // Most updates are of labels and annotations; the spec that is stored was found valid.
    if meta::annotations(new) != meta::annotations(old) {
        annotations(new, old, &mut problems);
    }
    if new["spec"] != old["spec"] {
        pod::whole(new, &mut problems);
        updatable(&new["spec"], &old["spec"], &mut problems);
    }
    problems
}

fn annotations(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("metadata").child("annotations");
    match (meta::annotation(old, MIRROR), meta::annotation(new, MIRROR)) {
        (None, Some(_)) => {
            problems.push(FieldError::forbidden(&path.key(MIRROR), "may not add mirror pod annotation"));
        }
        (Some(before), after) if after != Some(before) => {
            problems.push(FieldError::forbidden(&path.key(MIRROR), "may not remove or update mirror pod annotation"));
        }
        _ => {}
    }
    super::pod_spec::annotations(&path, &new["metadata"], &new["spec"], problems);
}

/// All that may change in a pod's spec; everything else must be what it was.
fn updatable(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if items(new, list).len() != items(old, list).len() {
            let detail = "pod updates may not add or remove containers";
            problems.push(FieldError::forbidden(&path.child(list), detail));
            return;
        }
    }
    if !deadline(&path, new, old, problems) {
        return;
    }
    tolerations(&path, new, old, problems);
    for (index, gate) in items(new, "schedulingGates").iter().enumerate() {
        if !items(old, "schedulingGates").contains(gate) {
            let name = text(gate, "name");
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            problems.push(FieldError::forbidden(&path.child("schedulingGates").index(index).child("name"), detail));
        }
    }
    let mut rest = without_mutable(new, old);
    if !empty(old, "schedulingGates") {
        tightened(&path, &mut rest, old, problems);
    }
    if rest != *old {
        problems.push(FieldError::forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n",
        ));
    }
}

/// Whether there is anything more to say.
fn deadline(path: &Path, new: &Value, old: &Value, problems: &mut Problems) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (int(old, "activeDeadlineSeconds"), int(new, "activeDeadlineSeconds")) {
        (_, Some(new)) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            problems.push(FieldError::invalid(&path, new, "must be between 0 and 2147483647, inclusive"));
            return false;
        }
        (Some(old), Some(new)) if new > old => {
            problems.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
            return false;
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            problems.push(FieldError::invalid(&path, Value::Null, detail));
        }
        _ => {}
    }
    true
}

/// Tolerations are only added; how long one that is there holds may change.
fn tolerations(path: &Path, new: &Value, old: &Value, problems: &mut Problems) {
    let untimed = |toleration: &Value| {
        let mut toleration = toleration.clone();
        keep(&mut toleration, &Value::Null, "tolerationSeconds");
        toleration
    };
    let present: Vec<Value> = items(new, "tolerations").iter().map(untimed).collect();
    if !items(old, "tolerations").iter().all(|one| present.contains(&untimed(one))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        problems.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }
}

/// A spec with the old values of the fields that any pod may change.
fn without_mutable(spec: &Value, old: &Value) -> Value {
    let mut spec = spec.clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(&mut spec, old, field);
    }
    let grace = |spec| int(spec, "terminationGracePeriodSeconds");
    if grace(old).is_some_and(|grace| grace < 0) && grace(&spec) == Some(1) {
        keep(&mut spec, old, "terminationGracePeriodSeconds");
    }
    for list in ["containers", "initContainers"] {
        let mut before = items(old, list).iter();
        each_mut(&mut spec, list, |container| {
            if let Some(before) = before.next() {
                keep(container, before, "image");
            }
        });
    }
    spec
}

/// A gated pod may still be bound to fewer nodes; what is allowed of that is put back.
fn tightened(path: &Path, rest: &mut Value, old: &Value, problems: &mut Problems) {
    if changed(rest, old, "nodeSelector") {
        let kept = |(key, value): (&String, &Value)| rest["nodeSelector"].get(key) == Some(value);
        if !map(old, "nodeSelector").is_none_or(|old| old.iter().all(kept)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            let value = some(rest, "nodeSelector").cloned().unwrap_or_else(|| json!({}));
            problems.push(FieldError::invalid(&path.child("nodeSelector"), value, detail));
        }
        keep(rest, old, "nodeSelector");
    }
    let (before, after) = (old["affinity"]["nodeAffinity"].clone(), rest["affinity"]["nodeAffinity"].clone());
    if before != after {
        node_affinity(&path.child("affinity").child("nodeAffinity"), &after, &before, problems);
        let mut affinity = some(rest, "affinity").cloned().unwrap_or_else(|| json!({}));
        keep(&mut affinity, &old["affinity"], "nodeAffinity");
        if affinity.as_object().is_some_and(serde_json::Map::is_empty) && old.get("affinity").is_none() {
            keep(rest, old, "affinity");
        } else {
            rest["affinity"] = affinity;
        }
    }
}

fn node_affinity(path: &Path, new: &Value, old: &Value, problems: &mut Problems) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let (before, after) = (items(&old[REQUIRED], "nodeSelectorTerms"), items(&new[REQUIRED], "nodeSelectorTerms"));
    let path = path.child(REQUIRED).child("nodeSelectorTerms");
    if before.is_empty() {
        return;
    }
    if before.len() != after.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        problems.push(FieldError::invalid(&path, after.to_vec(), detail));
        return;
    }
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        let grows = |list| items(after, list).starts_with(items(before, list));
        // A term that matched nothing may not begin to match.
        let nothing = |term| empty(term, "matchExpressions") && empty(term, "matchFields");
        let only_added =
            if nothing(before) { nothing(after) } else { grows("matchExpressions") && grows("matchFields") };
        if !only_added {
            let detail = "only additions are allowed (no mutations or deletions)";
            problems.push(FieldError::invalid(&path.index(index), after.clone(), detail));
        }
    }
}

/// Checks an update of `/ephemeralcontainers`, which only ever adds.
pub(crate) fn validate_ephemeral(new: &Value, old: &Value) -> Problems {
    if meta::annotation(old, MIRROR).is_some() {
        return vec![FieldError::forbidden(&Path::new(""), "static pods do not support ephemeral containers")];
    }
    let mut problems = Vec::new();
    pod::whole(new, &mut problems);
    let path = Path::new("spec").child("ephemeralContainers");
    for before in items(&old["spec"], "ephemeralContainers") {
        let name = text(before, "name");
        let same = items(&new["spec"], "ephemeralContainers").iter().find(|one| text(one, "name") == name);
        let what = match same {
            Some(same) if same == before => continue,
            Some(_) => "changed",
            None => "removed",
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {what}\n");
        problems.push(FieldError::forbidden(&path, detail));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy;

    fn pod(spec: &Value) -> Value {
        let mut pod = json!({ "metadata": { "name": "a" }, "spec": spec });
        super::super::pod::Pod.defaults(&mut pod);
        pod
    }

    fn said(problems: &Problems) -> String {
        problems.iter().map(|problem| problem.to_string().trim_end().to_owned()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn only_a_few_fields_may_change() {
        const OTHERS: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        let toleration = |seconds: i64| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let old = pod(
            &json!({"containers": [{"name": "a", "image": "x:1"}], "tolerations": [toleration(5)], "activeDeadlineSeconds": 10}),
        );
        let cases = [
            ("/spec/containers/0/image", json!("x:2"), ""),
            (
                "/spec/containers/0/image",
                json!(" x:2"),
                "spec.containers[0].image: Invalid value: \" x:2\": must not have leading or trailing whitespace",
            ),
            ("/spec/containers/0/imagePullPolicy", json!("Never"), OTHERS),
            ("/spec/terminationGracePeriodSeconds", json!(5), OTHERS),
            ("/spec/restartPolicy", json!("Never"), OTHERS),
            ("/spec/tolerations", json!([toleration(6), {"key": "b", "operator": "Exists"}]), ""),
            (
                "/spec/tolerations",
                json!([]),
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ),
            ("/spec/activeDeadlineSeconds", json!(9), ""),
            (
                "/spec/activeDeadlineSeconds",
                json!(11),
                "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value",
            ),
        ];
        for (at, value, expected) in cases {
            let mut new = old.clone();
            *new.pointer_mut(at).unwrap() = value.clone();
            assert_eq!(said(&validate(&new, &old)), expected, "{at} {value}");
        }
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "x"}]);
        super::super::pod::Pod.defaults(&mut new);
        assert_eq!(said(&validate(&new, &old)), OTHERS, "there is a subresource for them");
        new["spec"]["nodeName"] = "n".into();
        assert_eq!(said(&validate(&new, &old)), OTHERS);
    }

    #[test]
    fn a_gated_pod_is_bound_more_tightly() {
        let spec = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "a", "image": "x"}], "schedulingGates": [{"name": "g/a"}]});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            pod(&spec)
        };
        let affinity = |expressions: Value| {
            let terms = json!([{"matchExpressions": expressions}]);
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let exists = |key: &str| json!({"key": key, "operator": "Exists"});
        let selector = |labels: Value| json!({"nodeSelector": labels});
        let cases = [
            (json!({}), selector(json!({"a": "b"})), ""),
            (selector(json!({"a": "b"})), selector(json!({"a": "b", "c": "d"})), ""),
            (
                selector(json!({"a": "b"})),
                selector(json!({"a": "c"})),
                "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ),
            (json!({}), affinity(json!([exists("a")])), ""),
            (affinity(json!([exists("a")])), affinity(json!([exists("a"), exists("b")])), ""),
            (
                affinity(json!([exists("a")])),
                affinity(json!([exists("b")])),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {\"matchExpressions\":[{\"key\":\"b\",\"operator\":\"Exists\"}]}: only additions are allowed (no mutations or deletions)",
            ),
            (json!({}), json!({"schedulingGates": []}), ""),
            (
                json!({}),
                json!({"schedulingGates": [{"name": "g/b"}]}),
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g/b'",
            ),
        ];
        for (before, after, expected) in cases {
            assert_eq!(said(&validate(&spec(after.clone()), &spec(before))), expected, "{after}");
        }
    }

    #[test]
    fn ephemeral_containers_are_checked_and_stay() {
        let with = |list: Value| {
            pod(
                &json!({"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v"}], "ephemeralContainers": list}),
            )
        };
        let old = with(json!([{"name": "d", "image": "x"}]));
        let first = json!({"name": "d", "image": "x"});
        let cases = [
            (json!([first, {"name": "e", "image": "x", "targetContainerName": "a"}]), ""),
            (json!([]), "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed"),
            (
                json!([{"name": "d", "image": "y"}]),
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed",
            ),
            (json!([first, {"name": "e"}]), "spec.ephemeralContainers[1].image: Required value"),
            (json!([first, {"name": "a", "image": "x"}]), "spec.ephemeralContainers[1].name: Duplicate value: \"a\""),
            (
                json!([first, {"name": "e", "image": "x", "targetContainerName": "z"}]),
                "spec.ephemeralContainers[1].targetContainerName: Not found: \"z\"",
            ),
            (
                json!([first, {"name": "e", "image": "x", "ports": [{"containerPort": 80}]}]),
                "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!([first, {"name": "e", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]}]),
                "spec.ephemeralContainers[1].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            ),
        ];
        for (list, expected) in cases {
            assert_eq!(said(&validate_ephemeral(&with(list.clone()), &old)), expected, "{list}");
        }
        let mut mirror = old.clone();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(
            said(&validate_ephemeral(&mirror, &mirror)),
            "[]: Forbidden: static pods do not support ephemeral containers"
        );
    }
}
