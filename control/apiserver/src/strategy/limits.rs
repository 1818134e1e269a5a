//! What bounds workloads: PodDisruptionBudget, HorizontalPodAutoscaler, PriorityClass, RuntimeClass, LimitRange, ResourceQuota.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use apimachinery::field::{FieldError, Path};
use apimachinery::quantity::Quantity;
use apimachinery::{meta, names};
use serde_json::{Map, Value, json};

use super::Strategy;
use super::apps::{amount, percent};
use super::core::validate_quantity;
use super::plain::{Plain, defaults};
use super::tools::{
    Problems, each_mut, empty, indexed, int, label_selector, made, map, named, one_of, some, strings, text, within,
};

/// The highest value of a class that is not the system's.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

/// The strategy of PriorityClasses.
pub(super) static PRIORITY_CLASS: Plain = Plain {
    defaults: LazyLock::new(|| defaults(&[("preemptionPolicy", "\"PreemptLowerPriority\"")])),
    immutable: &[("value", Some("may not be changed in an update.")), ("preemptionPolicy", None)],
    validate: |class, problems| {
        let (name, value) = (meta::name(class), int(class, "value").unwrap_or(0));
        if name.starts_with("system-") {
            let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
            if !known.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
                let why = match known.iter().find(|(one, _)| *one == name) {
                    Some((_, value)) => format!("value of {name} PriorityClass must be {value}"),
                    None => format!("{name} is not a known system priority class"),
                };
                let path = Path::new("metadata").child("name");
                problems.push(FieldError::forbidden(&path, format!("{detail}{why}")));
            }
        } else if value > HIGHEST_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            problems.push(FieldError::forbidden(&Path::new("value"), detail));
        }
        let policies = ["Never", "PreemptLowerPriority"];
        one_of(&Path::new("preemptionPolicy"), text(class, "preemptionPolicy"), &policies, true, problems);
    },
};

/// The strategy of RuntimeClasses.
pub(super) static RUNTIME_CLASS: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("handler", None)],
    validate: |class, problems| {
        let handler = text(class, "handler");
        problems.extend(named(&Path::new("handler"), handler, names::is_dns1123_label(handler)));
        let path = Path::new("overhead").child("podFixed");
        for (name, value) in map(&class["overhead"], "podFixed").into_iter().flatten() {
            validate_quantity(&path.key(name.as_str()), name, value, problems);
        }
    },
};

/// The strategy of PodDisruptionBudgets.
pub(super) static BUDGET: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[],
    validate: |budget, problems| {
        let (path, spec) = (Path::new("spec"), &budget["spec"]);
        if some(spec, "minAvailable").is_some() && some(spec, "maxUnavailable").is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            problems.push(FieldError::invalid(&path, spec.clone(), detail));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            let Some(value) = some(spec, field) else { continue };
            percent(&path.child(field), value, amount(value), problems);
        }
        if let Some(selector) = some(spec, "selector") {
            label_selector(&path.child("selector"), selector, problems);
        }
        let policy = text(spec, "unhealthyPodEvictionPolicy");
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &policies, false, problems);
    },
};

/// The strategy of HorizontalPodAutoscalers.
#[derive(Debug)]
pub(super) struct Autoscaler;

impl Strategy for Autoscaler {
    fn defaults(&self, autoscaler: &mut Value) {
        within(autoscaler, "spec", |spec| {
            if some(spec, "minReplicas").is_none() {
                spec["minReplicas"] = 1.into();
            }
            if empty(spec, "metrics") {
                let target = json!({"type": "Utilization", "averageUtilization": 80});
                spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
            }
        });
    }

    fn validate(&self, autoscaler: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &autoscaler["spec"]);
        let (least, most) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or(0));
        if least < 1 {
            let detail = "must be greater than or equal to 1";
            problems.push(FieldError::invalid(&path.child("minReplicas"), least, detail));
        }
        if most < 1 {
            problems.push(FieldError::invalid(&path.child("maxReplicas"), most, "must be greater than 0"));
        }
        if most < least {
            let detail = "must be greater than or equal to `minReplicas`";
            problems.push(FieldError::invalid(&path.child("maxReplicas"), most, detail));
        }
        let target = path.child("scaleTargetRef");
        for field in ["kind", "name"] {
            if empty(&spec["scaleTargetRef"], field) {
                problems.push(FieldError::required(&target.child(field), ""));
            }
        }
        problems
    }
}

/// The strategy of LimitRanges.
#[derive(Debug)]
pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn defaults(&self, range: &mut Value) {
        within(range, "spec", |spec| {
            each_mut(spec, "limits", |item| {
                if text(item, "type") == "Container" {
                    // A limit that is not given is the maximum; a request, the limit, else the minimum.
                    fill(item, "default", "max");
                    fill(item, "defaultRequest", "default");
                    fill(item, "defaultRequest", "min");
                }
            });
        });
    }

    fn validate(&self, range: &Value) -> Problems {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for (path, item) in indexed(&range["spec"], "limits", &Path::new("spec")) {
            let kind = text(item, "type");
            if kind.is_empty() {
                problems.push(FieldError::required(&path.child("type"), ""));
            } else if !seen.insert(kind) {
                problems.push(FieldError::duplicate(&path.child("type"), kind));
            }
            limit(&path, kind, item, &mut problems);
        }
        problems
    }
}

fn fill(item: &mut Value, into: &str, from: &str) {
    let Some(source) = map(item, from).cloned() else { return };
    let target = made(item, into);
    for (name, value) in source {
        if target.get(&name).is_none() {
            target[name] = value;
        }
    }
}

fn limit(path: &Path, kind: &str, item: &Value, problems: &mut Problems) {
    for field in ["default", "defaultRequest"] {
        if kind == "Pod" && !empty(item, field) {
            let detail = "may not be specified when `type` is 'Pod'";
            problems.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let path = path.child(field);
        for (name, value) in map(item, field).into_iter().flatten() {
            validate_quantity(&path.key(name.as_str()), name, value, problems);
        }
    }
    let pairs = [
        ("min", "max", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min value", "default value"),
        ("default", "max", "default", "default value", "max value"),
    ];
    let amounts = |field: &str| map(item, field).cloned().unwrap_or_else(Map::new);
    for (small, big, at, small_name, big_name) in pairs {
        let (small, big) = (amounts(small), amounts(big));
        for (name, low) in &small {
            let Some(high) = big.get(name) else { continue };
            if read(low).zip(read(high)).is_some_and(|(low, high)| low > high) {
                let low = low.as_str().unwrap_or_default();
                let detail =
                    format!("{small_name} {low} is greater than {big_name} {}", high.as_str().unwrap_or_default());
                problems.push(FieldError::invalid(&path.child(at).key(name.as_str()), low, detail));
            }
        }
    }
}

fn read(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

/// The strategy of ResourceQuotas.
#[derive(Debug)]
pub(super) struct Quota;

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

impl Strategy for Quota {
    fn validate(&self, quota: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &quota["spec"]);
        amounts(&path, spec, "hard", &mut problems);
        for scope in strings(spec, "scopes") {
            if !SCOPES.contains(&scope) {
                let scopes = spec["scopes"].clone();
                problems.push(FieldError::invalid(&path.child("scopes"), scopes, "unsupported scope"));
            }
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        super::tools::immutable(&Path::new("spec"), &new["spec"], &old["spec"], "scopes", &mut problems);
        problems
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        for field in ["hard", "used"] {
            amounts(&Path::new("status"), &new["status"], field, &mut problems);
        }
        problems
    }
}

fn amounts(path: &Path, object: &Value, field: &'static str, problems: &mut Problems) {
    let path = path.child(field);
    for (name, value) in map(object, field).into_iter().flatten() {
        let at = path.key(name.as_str());
        problems.extend(named(&at, name, names::is_qualified_name(name)));
        validate_quantity(&at, name, value, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(strategy: &dyn Strategy, cases: &[(Value, &[&str])]) {
        for (object, expected) in cases {
            let mut object = object.clone();
            strategy.defaults(&mut object);
            let said: Vec<String> = strategy.validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(said, *expected, "{object}");
        }
    }

    #[test]
    fn priority_classes() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        check(
            &PRIORITY_CLASS,
            &[
                (class("a", 1), &[]),
                (class("system-node-critical", 2_000_001_000), &[]),
                (
                    class("system-x", 1),
                    &[
                        "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
                    ],
                ),
                (
                    class("b", 1_000_000_001),
                    &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
                ),
            ],
        );
        let (mut new, mut old) = (class("a", 2), class("a", 1));
        PRIORITY_CLASS.defaults(&mut new);
        PRIORITY_CLASS.defaults(&mut old);
        let said = PRIORITY_CLASS.validate_update(&new, &old);
        assert_eq!(said[0].to_string(), "value: Forbidden: may not be changed in an update.");
    }

    #[test]
    fn budgets_and_autoscalers() {
        let budget = |spec: Value| json!({"spec": spec});
        check(
            &BUDGET,
            &[
                (budget(json!({"minAvailable": "50%"})), &[]),
                (
                    budget(json!({"maxUnavailable": "150%"})),
                    &["spec.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%"],
                ),
                (
                    budget(json!({"minAvailable": -1})),
                    &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
                ),
            ],
        );
        check(
            &Autoscaler,
            &[(
                json!({"spec": {"scaleTargetRef": {"kind": "Deployment"}}}),
                &[
                    "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                    "spec.scaleTargetRef.name: Required value",
                ],
            )],
        );
    }

    #[test]
    fn limits_and_quotas() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}});
        LimitRange.defaults(&mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(
            (&item["default"], &item["defaultRequest"]),
            (&json!({"cpu": "1"}), &json!({"cpu": "1", "memory": "1Mi"}))
        );
        check(
            &LimitRange,
            &[(
                json!({"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
                &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"],
            )],
        );
        check(
            &Quota,
            &[(
                json!({"spec": {"hard": {"pods": "-1", "cpu": "0.5", "secrets": "0.5"}}}),
                &[
                    "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "spec.hard[secrets]: Invalid value: \"500m\": must be an integer",
                ],
            )],
        );
    }
}
