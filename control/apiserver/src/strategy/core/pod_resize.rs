//! What `/resize` may change of a pod: the cpu and memory of its containers and of the pod as a whole
//! (pkg/apis/core/validation, ValidatePodResize).

use super::pod;
use crate::strategy::tools::{Problems, empty, items, keep, map, some, text};
use apimachinery::field::{FieldError, Path};
use serde_json::Value;

/// The lists of containers, as messages call what is in them.
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// Makes `new` the old pod with nothing but what a resize may ask for taken from the new one. Containers keep the order
/// they came in: whether it is right is for the validation to say.
pub(crate) fn take(new: &mut Value, old: &Value) {
    let asked = std::mem::replace(new, old.clone());
    for list in LISTS {
        let known = items(&old["spec"], list);
        let taken: Vec<Value> = items(&asked["spec"], list)
            .iter()
            .map(|one| match known.iter().find(|before| text(before, "name") == text(one, "name")) {
                Some(before) => {
                    let mut same = before.clone();
                    keep(&mut same, one, "resources");
                    keep(&mut same, one, "resizePolicy");
                    same
                }
                None => one.clone(),
            })
            .collect();
        if !(taken.is_empty() && known.is_empty()) {
            new["spec"][list] = taken.into();
        }
    }
    keep(&mut new["spec"], &asked["spec"], "resources");
}

/// What is wrong with a resize.
pub(crate) fn validate(new: &Value, old: &Value) -> Problems {
    let path = Path::new("spec");
    let mut problems = Vec::new();
    pod::whole(new, &mut problems);
    let forbidden = |detail: &str| FieldError::forbidden(&path, detail);
    if old["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return vec![FieldError::forbidden(&Path::new(""), "static pods cannot be resized")];
    }
    if text(&old["spec"]["os"], "name") == "windows" {
        return vec![FieldError::forbidden(&Path::new(""), "windows pods cannot be resized")];
    }
    let class = pod::qos_class(&new["spec"]);
    if text(&old["status"], "qosClass") != class {
        let told = text(&new["status"], "qosClass");
        problems.push(FieldError::invalid(&path, told, "Pod QOS Class may not change as a result of resizing"));
    }
    if !node_resizes(old) {
        problems.push(forbidden("Pod running on node without support for resize"));
    }
    pod_level(&path, &new["spec"], &old["spec"], &mut problems);
    let order = order(&path, &new["spec"], &old["spec"]);
    if !order.is_empty() {
        problems.extend(order);
        return problems;
    }
    for list in LISTS {
        let pairs = items(&new["spec"], list).iter().zip(items(&old["spec"], list));
        for (index, (new, old)) in pairs.enumerate() {
            let path = path.child(list).index(index);
            removed(&path.child("resources"), "resource", &new["resources"], &old["resources"], &mut problems);
            let same = fixed(new, old) == *old;
            if list == "containers" {
                problems.extend((!same).then(|| forbidden("only cpu and memory resources are mutable")));
            } else {
                init_container(&path, new, old, same, &mut problems);
            }
        }
    }
    problems
}

/// Whether the pod's node tells what its containers have: one that does not cannot resize them.
fn node_resizes(pod: &Value) -> bool {
    let mut statuses = items(&pod["status"], "containerStatuses").iter();
    statuses.find(|status| some(&status["state"], "running").is_some()).is_none_or(|s| some(s, "resources").is_some())
}

fn init_container(path: &Path, new: &Value, old: &Value, same: bool, problems: &mut Problems) {
    if !same {
        let detail = "only cpu and memory resources for init or sidecar containers are mutable";
        problems.push(FieldError::forbidden(path, detail));
    }
    let restarts =
        || items(new, "resizePolicy").iter().any(|policy| text(policy, "restartPolicy") == "RestartContainer");
    if new != old && text(new, "restartPolicy") != "Always" && restarts() {
        let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
        problems.push(FieldError::forbidden(path, detail));
    }
}

fn pod_level(path: &Path, new: &Value, old: &Value, problems: &mut Problems) {
    let here = path.child("resources");
    let (before, after) = (&old["resources"], &new["resources"]);
    if !before.is_null() && after.is_null() {
        problems.push(FieldError::forbidden(&here, "pod-level resources cannot be removed"));
        return;
    }
    removed(&here, "pod-level resource", after, before, problems);
    let fixed = fixed(new, old);
    if fixed["resources"] != *before && !(before.is_null() && empty(&fixed, "resources")) {
        problems.push(FieldError::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
}

/// What once had a request or limit keeps one.
fn removed(path: &Path, what: &str, new: &Value, old: &Value, problems: &mut Problems) {
    for list in ["requests", "limits"] {
        let kept = |name: &String| map(new, list).is_some_and(|new| new.contains_key(name));
        if map(old, list).is_some_and(|old| !old.keys().all(kept)) {
            problems.push(FieldError::forbidden(&path.child(list), format!("{what} {list} cannot be removed")));
        }
    }
}

/// The holder of `resources` with the old cpu and memory: what then differs may not.
fn fixed(new: &Value, old: &Value) -> Value {
    let mut fixed = new.clone();
    let Some(resources) = fixed.get_mut("resources").and_then(Value::as_object_mut) else { return fixed };
    for list in ["requests", "limits"] {
        let mut amounts = resources.remove(list).and_then(|list| list.as_object().cloned()).unwrap_or_default();
        let before = map(&old["resources"], list);
        for name in ["cpu", "memory"] {
            amounts.remove(name);
            amounts.extend(before.and_then(|before| Some((name.to_owned(), before.get(name)?.clone()))));
        }
        if before.is_some() || !amounts.is_empty() {
            resources.insert(list.to_owned(), amounts.into());
        }
    }
    fixed
}

fn order(path: &Path, new: &Value, old: &Value) -> Problems {
    let mut problems = Vec::new();
    for list in LISTS {
        let (path, after, before) = (path.child(list), items(new, list), items(old, list));
        if after.len() != before.len() {
            problems.push(FieldError::forbidden(&path, format!("{list} may not be added or removed on resize")));
            continue;
        }
        for (index, _) in after.iter().zip(before).enumerate().filter(|(_, (a, b))| text(a, "name") != text(b, "name"))
        {
            let detail = format!("{list} may not be renamed or reordered on resize");
            problems.push(FieldError::forbidden(&path.index(index).child("name"), detail));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::Strategy;
    use serde_json::json;

    fn pod(containers: &Value) -> Value {
        let mut pod = json!({ "metadata": { "name": "a" }, "spec": { "containers": containers } });
        pod::Pod.defaults(&mut pod);
        pod::Pod.prepare_create(&mut pod);
        pod
    }

    fn one(name: &str, requests: &Value, limits: &Value) -> Value {
        json!({"name": name, "image": "i", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn what_a_resize_may_ask_for() {
        let none = &json!({});
        let cpu = |amount: &str| json!({ "cpu": amount });
        let qos = "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing";
        let both = json!({"cpu": "1", "memory": "1Mi"});
        for (old, new, expected) in [
            (json!([one("c", &cpu("1"), none)]), json!([one("c", &cpu("2"), none)]), ""),
            (
                json!([one("c", &cpu("1"), none)]),
                json!([one("c", &cpu("1"), &json!({"cpu": "2", "memory": "1Mi"}))]),
                "",
            ),
            (
                json!([one("c", &cpu("1"), &cpu("2"))]),
                json!([one("c", &cpu("3"), &cpu("2"))]),
                "spec.containers[0].resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit of 2",
            ),
            (
                json!([one("c", &cpu("1"), none)]),
                json!([one("c", none, &json!({"memory": "1Mi"}))]),
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ),
            (
                json!([one("c", &cpu("1"), &cpu("2"))]),
                json!([one("c", &cpu("1"), none)]),
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (json!([one("c", &cpu("1"), &cpu("2"))]), json!([one("c", &both, &both)]), qos),
            (
                json!([one("c", &cpu("1"), none)]),
                json!([one("c", &json!({"cpu": "1", "ephemeral-storage": "1"}), none)]),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                json!([one("a", &cpu("1"), none), one("b", &cpu("1"), none)]),
                json!([one("b", &cpu("1"), none), one("a", &cpu("1"), none)]),
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize, spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                json!([one("a", &cpu("1"), none)]),
                json!([one("a", &cpu("1"), none), one("b", &cpu("1"), none)]),
                "spec.containers: Forbidden: containers may not be added or removed on resize",
            ),
        ] {
            let (old, mut new) = (pod(&old), pod(&new));
            new["spec"]["nodeName"] = "other".into();
            take(&mut new, &old);
            assert!(new["spec"]["nodeName"].is_null(), "only resources are taken");
            let said: Vec<String> = validate(&new, &old).iter().map(ToString::to_string).collect();
            assert_eq!(said.join(", "), expected);
        }
    }

    #[test]
    fn a_pod_of_its_own_resources() {
        let with = |resources: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "resources": resources}});
            pod::Pod.defaults(&mut pod);
            pod::Pod.prepare_create(&mut pod);
            pod
        };
        let old = with(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}));
        assert_eq!(old["status"]["qosClass"], "Burstable");
        for (resources, expected) in [
            (json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "3"}}), None),
            (json!({"requests": {"cpu": "1"}}), Some("pod-level resource limits cannot be removed")),
            (Value::Null, Some("pod-level resources cannot be removed")),
        ] {
            let mut new = with(resources);
            take(&mut new, &old);
            let problems = validate(&new, &old);
            let found = |detail: &str| problems.iter().any(|problem| problem.to_string().contains(detail));
            assert!(expected.map_or(problems.is_empty(), found), "{problems:?}");
        }
    }

    #[test]
    fn a_whole_asks_for_its_containers_or_its_limits() {
        let asked = |amount: &str| json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": amount}}});
        for (resources, containers, expected) in [
            (json!({"limits": {"cpu": "1"}}), json!([{"name": "c", "image": "i"}]), json!({"cpu": "1"})),
            (json!({"limits": {"cpu": "1"}}), json!([asked("100m"), asked("0.2")]), json!({"cpu": "300m"})),
            (json!({"requests": {"memory": "1Mi"}}), json!([asked("100m")]), json!({"cpu": "100m", "memory": "1Mi"})),
            (json!({}), json!([asked("100m")]), Value::Null),
        ] {
            let mut pod = json!({"spec": {"containers": containers, "resources": resources}});
            pod::Pod.defaults(&mut pod);
            assert_eq!(pod["spec"]["resources"]["requests"], expected);
        }
    }

    #[test]
    fn a_node_that_does_not_tell_cannot_resize() {
        let mut old = pod(&json!([one("c", &json!({"cpu": "1"}), &json!({}))]));
        old["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
        let refused = validate(&old.clone(), &old);
        assert_eq!(refused[0].to_string(), "spec: Forbidden: Pod running on node without support for resize");
        old["status"]["containerStatuses"][0]["resources"] = json!({});
        assert!(validate(&old.clone(), &old).is_empty());
    }
}
