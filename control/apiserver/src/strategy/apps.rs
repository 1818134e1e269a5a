//! Workloads that run on: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and what they are made of.

use std::sync::LazyLock;

use super::Strategy;
use super::core::validate_template;
use super::plain::Plain;
use super::template::{
    pods_warnings, replicas, selector_and_template, template, template_defaults, template_path, template_warnings,
};
use super::tools::{Problems, always, default_to, empty, immutable, int, keep, made, non_negative, one_of, some, text};
use apimachinery::field::{FieldError, Path};
use serde_json::{Value, json};

/// The strategy of Deployments.
#[derive(Debug)]
pub(super) struct Deployment;

impl Strategy for Deployment {
    fn defaults(&self, deployment: &mut Value) {
        always(deployment, "spec", |spec| {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "progressDeadlineSeconds", 600);
            let strategy = made(spec, "strategy");
            default_to(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                let rolling = made(strategy, "rollingUpdate");
                default_to(rolling, "maxUnavailable", "25%");
                default_to(rolling, "maxSurge", "25%");
            }
            template_defaults(spec);
        });
    }

    fn validate(&self, deployment: &Value) -> Problems {
        let mut problems = Vec::new();
        let path = Path::new("spec");
        let spec = &deployment["spec"];
        selector_and_template(spec, "deployment", &mut problems);
        rollout(&path.child("strategy"), &spec["strategy"], &mut problems);
        if let Some(limit) = int(spec, "revisionHistoryLimit") {
            non_negative(&path.child("revisionHistoryLimit"), limit, &mut problems);
        }
        if let Some(deadline) = int(spec, "progressDeadlineSeconds") {
            let at = path.child("progressDeadlineSeconds");
            non_negative(&at, deadline, &mut problems);
            if deadline <= int(spec, "minReadySeconds").unwrap_or(0) {
                problems.push(FieldError::invalid(&at, deadline, "must be greater than minReadySeconds"));
            }
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        selector_is_immutable(self, new, old)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        let (new, old) = (&new["status"], &old["status"]);
        replicas(new, &["updatedReplicas", "readyReplicas", "availableReplicas"], &mut problems);
        let (path, count) = (Path::new("status").child("collisionCount"), int(new, "collisionCount"));
        non_negative(&path, count.unwrap_or(0), &mut problems);
        if count < int(old, "collisionCount") {
            let value = new.get("collisionCount").cloned().unwrap_or(Value::Null);
            problems.push(FieldError::invalid(&path, value, "cannot be decremented"));
        }
        problems
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pods_warnings(&template_path(), &new["spec"]["template"], new, old)
    }
}

fn selector_is_immutable(strategy: &dyn Strategy, new: &Value, old: &Value) -> Problems {
    let mut problems = strategy.validate(new);
    immutable(&Path::new("spec"), &new["spec"], &old["spec"], "selector", &mut problems);
    problems
}

fn rollout(path: &Path, strategy: &Value, problems: &mut Problems) {
    match text(strategy, "type") {
        "Recreate" => {
            if some(strategy, "rollingUpdate").is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                problems.push(FieldError::forbidden(&path.child("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => rolling(&path.child("rollingUpdate"), &strategy["rollingUpdate"], problems),
        other => problems.push(FieldError::not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"])),
    }
}

fn rolling(path: &Path, rolling: &Value, problems: &mut Problems) {
    let mut zero = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[field];
        let at = path.child(field);
        let amount = amount(value);
        zero += u8::from(matches!(amount, Ok((0, _))));
        // More than all may surge.
        match amount {
            Ok((number, true)) if field == "maxSurge" => non_negative(&at, number, problems),
            amount => percent(&at, value, amount, problems),
        }
    }
    if zero == 2 {
        let value = rolling["maxUnavailable"].clone();
        problems.push(FieldError::invalid(&path.child("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0"));
    }
}

/// A number that is not negative, or a percentage of at most 100.
pub(super) fn percent(path: &Path, value: &Value, amount: Result<(i64, bool), String>, problems: &mut Problems) {
    match amount {
        Ok((number, true)) if number > 100 => {
            problems.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
        }
        Ok((number, _)) => non_negative(path, number, problems),
        Err(message) => problems.push(FieldError::invalid(path, value.clone(), message)),
    }
}

/// A number, or a percentage as a string.
pub(super) fn amount(value: &Value) -> Result<(i64, bool), String> {
    match value {
        Value::String(text) => text
            .strip_suffix('%')
            .and_then(|number| number.parse().ok())
            .map(|number| (number, true))
            .ok_or_else(|| {
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')".to_owned()
            }),
        other => Ok((other.as_i64().unwrap_or(0), false)),
    }
}

/// The strategy of ReplicaSets.
#[derive(Debug)]
pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn defaults(&self, set: &mut Value) {
        always(set, "spec", |spec| {
            default_to(spec, "replicas", 1);
            template_defaults(spec);
        });
    }

    fn validate(&self, set: &Value) -> Problems {
        let mut problems = Vec::new();
        selector_and_template(&set["spec"], "deployment", &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        selector_is_immutable(self, new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pods_warnings(&template_path(), &new["spec"]["template"], new, old)
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        replicas(&new["status"], &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], &mut problems);
        problems
    }
}

/// The strategy of ReplicationControllers, whose selector is a plain map that follows the template's labels.
#[derive(Debug)]
pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    fn defaults(&self, controller: &mut Value) {
        always(controller, "spec", |spec| {
            default_to(spec, "replicas", 1);
            let labels = spec.pointer("/template/metadata/labels").cloned();
            if empty(spec, "selector")
                && let Some(labels) = labels
            {
                spec["selector"] = labels;
            }
            // Here a missing template is told from an empty one.
            if some(spec, "template").is_some() {
                template_defaults(spec);
            }
        });
    }

    fn validate(&self, controller: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &controller["spec"]);
        for field in ["minReadySeconds", "replicas"] {
            non_negative(&path.child(field), int(spec, field).unwrap_or(0), &mut problems);
        }
        if empty(spec, "selector") {
            problems.push(FieldError::required(&path.child("selector"), ""));
        }
        let selector = json!({ "matchLabels": spec["selector"] });
        template(spec, Some(&selector), "ReplicationController", &mut problems);
        problems
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let mut problems = Vec::new();
        replicas(&new["status"], &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], &mut problems);
        problems
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pods_warnings(&template_path(), &new["spec"]["template"], new, old)
    }
}

/// The strategy of StatefulSets.
#[derive(Debug)]
pub(super) struct StatefulSet;

impl Strategy for StatefulSet {
    fn defaults(&self, set: &mut Value) {
        always(set, "spec", |spec| {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "podManagementPolicy", "OrderedReady");
            let update = made(spec, "updateStrategy");
            default_to(update, "type", "RollingUpdate");
            if text(update, "type") == "RollingUpdate" {
                default_to(made(update, "rollingUpdate"), "partition", 0);
            }
            let retention = made(spec, "persistentVolumeClaimRetentionPolicy");
            default_to(retention, "whenDeleted", "Retain");
            default_to(retention, "whenScaled", "Retain");
            template_defaults(spec);
        });
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(&template_path(), &new["spec"]["template"], new, old)
    }

    fn validate(&self, set: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &set["spec"]);
        selector_and_template(spec, "statefulset", &mut problems);
        let policy = text(spec, "podManagementPolicy");
        one_of(&path.child("podManagementPolicy"), policy, &["OrderedReady", "Parallel"], true, &mut problems);
        let (at, update) = (path.child("updateStrategy"), &spec["updateStrategy"]);
        let rolling = some(update, "rollingUpdate");
        match text(update, "type") {
            "RollingUpdate" => {
                let partition = rolling.and_then(|rolling| int(rolling, "partition")).unwrap_or(0);
                non_negative(&at.child("rollingUpdate").child("partition"), partition, &mut problems);
            }
            "OnDelete" => {
                if let Some(rolling) = rolling {
                    let detail = "only allowed for updateStrategy 'RollingUpdate'";
                    problems.push(FieldError::invalid(&at.child("rollingUpdate"), rolling.clone(), detail));
                }
            }
            _ => problems.push(FieldError::invalid(&at, update.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
        }
        let (at, retention) =
            (path.child("persistentVolumeClaimRetentionPolicy"), &spec["persistentVolumeClaimRetentionPolicy"]);
        for field in ["whenDeleted", "whenScaled"] {
            one_of(&at.child(field), text(retention, field), &["Delete", "Retain"], true, &mut problems);
        }
        let start = int(&spec["ordinals"], "start").unwrap_or(0);
        non_negative(&path.child("ordinals").child("start"), start, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let mut same = new["spec"].clone();
        for field in MUTABLE_OF_STATEFUL_SETS {
            keep(&mut same, &old["spec"], field);
        }
        if same != old["spec"] {
            problems.push(FieldError::forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ));
        }
        problems
    }
}

const MUTABLE_OF_STATEFUL_SETS: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The strategy of DaemonSets.
#[derive(Debug)]
pub(super) struct DaemonSet;

impl Strategy for DaemonSet {
    fn defaults(&self, set: &mut Value) {
        always(set, "spec", |spec| {
            default_to(spec, "revisionHistoryLimit", 10);
            let update = made(spec, "updateStrategy");
            default_to(update, "type", "RollingUpdate");
            if text(update, "type") == "RollingUpdate" {
                let rolling = made(update, "rollingUpdate");
                default_to(rolling, "maxUnavailable", 1);
                default_to(rolling, "maxSurge", 0);
            }
            template_defaults(spec);
        });
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(&template_path(), &new["spec"]["template"], new, old)
    }

    fn validate(&self, set: &Value) -> Problems {
        let mut problems = Vec::new();
        selector_and_template(&set["spec"], "daemonset", &mut problems);
        let (path, update) = (Path::new("spec").child("updateStrategy"), &set["spec"]["updateStrategy"]);
        one_of(&path.child("type"), text(update, "type"), &["OnDelete", "RollingUpdate"], true, &mut problems);
        if text(update, "type") == "RollingUpdate" {
            let (path, update) = (path.child("rollingUpdate"), &update["rollingUpdate"]);
            let zero = |field: &str| matches!(amount(&update[field]), Ok((0, _)));
            for field in ["maxUnavailable", "maxSurge"] {
                percent(&path.child(field), &update[field], amount(&update[field]), &mut problems);
            }
            match (zero("maxUnavailable"), zero("maxSurge")) {
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    problems.push(FieldError::invalid(&path.child("maxSurge"), update["maxSurge"].clone(), detail));
                }
                (true, true) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    problems.push(FieldError::required(&path.child("maxUnavailable"), detail));
                }
                _ => {}
            }
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        selector_is_immutable(self, new, old)
    }
}

/// The strategy of PodTemplates.
#[derive(Debug)]
pub(super) struct PodTemplate;

impl Strategy for PodTemplate {
    fn defaults(&self, object: &mut Value) {
        template_defaults(object);
    }

    fn validate(&self, object: &Value) -> Problems {
        let mut problems = Vec::new();
        validate_template(&Path::new("template"), &object["template"], &mut problems);
        problems
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(&Path::new("template"), &new["template"], new, old)
    }
}

/// The strategy of ControllerRevisions.
pub(super) static REVISION: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("data", None)],
    validate: |revision, problems| {
        if some(revision, "data").is_none() {
            problems.push(FieldError::required(&Path::new("data"), "data is mandatory"));
        }
        non_negative(&Path::new("revision"), int(revision, "revision").unwrap_or(0), problems);
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({ "spec": {
            "selector": { "matchLabels": { "app": "a" } },
            "template": { "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "a", "image": "x" }] } },
        } });
        change(&mut object["spec"]);
        Deployment.defaults(&mut object);
        Deployment.validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sets_say_how_they_are_updated() {
        let template = json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "a", "image": "x" }] } });
        let said = |strategy: &dyn Strategy, update: Value| {
            let selector = json!({ "matchLabels": { "app": "a" } });
            let mut object =
                json!({ "spec": { "selector": selector, "template": template, "updateStrategy": update } });
            strategy.defaults(&mut object);
            strategy.validate(&object).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let rolling = |rolling: Value| json!({ "rollingUpdate": rolling });
        let cases: [(&dyn Strategy, Value, &str); 6] = [
            (&DaemonSet, json!({}), ""),
            (&DaemonSet, rolling(json!({ "maxSurge": 1, "maxUnavailable": 0 })), ""),
            (
                &DaemonSet,
                rolling(json!({ "maxSurge": 1 })),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (&StatefulSet, json!({ "type": "OnDelete" }), ""),
            (
                &StatefulSet,
                rolling(json!({ "partition": -1 })),
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                &StatefulSet,
                json!({ "type": "X" }),
                "spec.updateStrategy: Invalid value: {\"type\":\"X\"}: must be 'RollingUpdate' or 'OnDelete'",
            ),
        ];
        for (strategy, update, expected) in cases {
            assert_eq!(said(strategy, update.clone()), expected, "{update}");
        }
    }

    #[test]
    fn deployments() {
        assert_eq!(deployment(|_| ()), Vec::<String>::new());
        assert_eq!(
            deployment(|spec| *spec = json!({})),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                "spec.template.spec.containers: Required value",
            ]
        );
        assert_eq!(
            deployment(|spec| spec["template"]["metadata"]["labels"] = json!({ "app": "b" })),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            deployment(|spec| spec["strategy"] = json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 0 } })),
            ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
        assert_eq!(
            deployment(|spec| spec["replicas"] = json!(-1)),
            ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            deployment(|spec| spec["template"]["spec"]["restartPolicy"] = json!("Never")),
            ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
        );
    }

    #[test]
    fn a_status_does_not_contradict_itself() {
        let cases = [
            (json!({}), ""),
            (
                json!({ "replicas": 3, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 1, "collisionCount": 2 }),
                "",
            ),
            (
                json!({ "replicas": 1, "collisionCount": 0 }),
                "status.collisionCount: Invalid value: 0: cannot be decremented",
            ),
            (
                json!({ "replicas": 1, "readyReplicas": 2, "collisionCount": 1 }),
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ),
            (
                json!({ "replicas": 1, "availableReplicas": 1, "observedGeneration": -1, "collisionCount": 1 }),
                "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0, \
                 status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
            ),
        ];
        for (status, expected) in cases {
            let old = json!({ "status": if status == json!({}) { json!({}) } else { json!({ "collisionCount": 1 }) } });
            let said = Deployment.validate_status_update(&json!({ "status": status }), &old);
            let said: Vec<String> = said.iter().map(ToString::to_string).collect();
            assert_eq!(said.join(", "), expected, "{status}");
        }
    }
}
