//! Rows of workloads: the groups `apps`, `batch`, `autoscaling` and `policy`.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, at, boolean, condition, containers, labels, list, name, number, scalar, selector, text};
use super::duration::{human_duration, since};
use super::{AGE, Column, NAME, Printer, Row, number as integer, text as column, wide};
use crate::{meta, time};

const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    integer("Up-to-date"),
    integer("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const REPLICA_SET_COLUMNS: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const DAEMON_SET_COLUMNS: &[Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    integer("Up-to-date"),
    integer("Available"),
    column("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const JOB_COLUMNS: &[Column] = &[
    NAME,
    column("Status"),
    column("Completions"),
    column("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const CRON_JOB_COLUMNS: &[Column] = &[
    NAME,
    column("Schedule"),
    column("Timezone"),
    Column { ty: "boolean", ..column("Suspend") },
    integer("Active"),
    column("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

const AUTOSCALER_COLUMNS: &[Column] =
    &[NAME, column("Reference"), column("Targets"), column("MinPods"), column("MaxPods"), integer("Replicas"), AGE];

const BUDGET_COLUMNS: &[Column] =
    &[NAME, column("Min Available"), column("Max Unavailable"), integer("Allowed Disruptions"), AGE];

pub(super) fn printer(resource: &str) -> Option<Printer> {
    let (columns, row): (&'static [Column], Row) = match resource {
        "deployments" => (DEPLOYMENT_COLUMNS, deployment),
        "replicasets" => (REPLICA_SET_COLUMNS, replica_set),
        "statefulsets" => (const { &[NAME, column("Ready"), AGE, wide("Containers"), wide("Images")] }, stateful_set),
        "daemonsets" => (DAEMON_SET_COLUMNS, daemon_set),
        "controllerrevisions" => {
            (const { &[NAME, column("Controller"), integer("Revision"), AGE] }, controller_revision)
        }
        "jobs" => (JOB_COLUMNS, job),
        "cronjobs" => (CRON_JOB_COLUMNS, cron_job),
        "horizontalpodautoscalers" => (AUTOSCALER_COLUMNS, autoscaler),
        "poddisruptionbudgets" => (BUDGET_COLUMNS, budget),
        _ => return None,
    };
    Some(Printer { columns, row })
}

/// The wide columns of a workload: containers, images, selector.
fn template(object: &Value) -> [Value; 3] {
    let [names, images] = containers(at(object, "spec.template.spec"));
    [names, images, selector(at(object, "spec.selector")).into()]
}

fn ready(object: &Value) -> Value {
    format!("{}/{}", number(object, "status.readyReplicas"), number(object, "spec.replicas")).into()
}

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        ready(object),
        number(object, "status.updatedReplicas").into(),
        number(object, "status.availableReplicas").into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        number(object, "spec.replicas").into(),
        number(object, "status.replicas").into(),
        number(object, "status.readyReplicas").into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images, _] = template(object);
    vec![name(object), ready(object), age(object, now), names, images]
}

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |key: &str| Value::from(number(at(object, "status"), key));
    let mut cells = vec![
        name(object),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        labels(at(object, "spec.template.spec.nodeSelector")).into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let controller = match meta::controller_of(object) {
        None => "<none>".to_owned(),
        Some(owner) => {
            let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
            let kind = crate::gvk::qualified(group, &text(owner, "kind").to_lowercase());
            format!("{kind}/{}", text(owner, "name"))
        }
    };
    vec![name(object), controller.into(), number(object, "revision").into(), age(object, now)]
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(object, "status.succeeded");
    let completions = match (at(object, "spec.completions").as_i64(), number(object, "spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    };
    let start = time::parse(text(object, "status.startTime"));
    let end = time::parse(text(object, "status.completionTime")).unwrap_or(now);
    let duration = start.map(|start| human_duration(end.as_second() - start.as_second())).unwrap_or_default();
    let mut cells =
        vec![name(object), job_status(object).into(), completions.into(), duration.into(), age(object, now)];
    cells.extend(template(object));
    cells
}

fn job_status(object: &Value) -> &'static str {
    let holds = |ty| condition(object, ty) == "True";
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if meta::deletion_timestamp(object).is_some() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = match text(object, "status.lastScheduleTime") {
        "" => "<none>".to_owned(),
        at => since(at, now),
    };
    let suspend = match at(object, "spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let [names, images] = containers(at(object, "spec.jobTemplate.spec.template.spec"));
    vec![
        name(object),
        text(object, "spec.schedule").into(),
        scalar(at(object, "spec.timeZone"), "<none>").into(),
        suspend.into(),
        list(object, "status.active").len().into(),
        last.into(),
        age(object, now),
        names,
        images,
        selector(at(object, "spec.jobTemplate.spec.selector")).into(),
    ]
}

fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = at(object, "spec.scaleTargetRef");
    vec![
        name(object),
        format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
        targets(object).into(),
        scalar(at(object, "spec.minReplicas"), "<unset>").into(),
        number(object, "spec.maxReplicas").into(),
        number(object, "status.currentReplicas").into(),
        age(object, now),
    ]
}

/// `cpu: 50%/80%` a metric, two of them, and how many more.
fn targets(object: &Value) -> String {
    let current = list(object, "status.currentMetrics");
    if let Some(target) = at(object, "spec.targetCPUUtilizationPercentage").as_i64() {
        let used = scalar(at(object, "status.currentCPUUtilizationPercentage"), "");
        return format!("cpu: {}/{target}%", if used.is_empty() { "<unknown>".to_owned() } else { format!("{used}%") });
    }
    let metrics = list(object, "spec.metrics");
    let shown: Vec<String> =
        metrics.iter().enumerate().map(|(index, metric)| target(metric, current.get(index))).collect();
    match shown.len() {
        0 => "<none>".to_owned(),
        all if all > 2 => format!("{} + {} more...", shown[..2].join(", "), all - 2),
        _ => shown.join(", "),
    }
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let (source, label) = match text(metric, "type") {
        "Resource" => ("resource", text(metric, "resource.name")),
        "ContainerResource" => ("containerResource", text(metric, "containerResource.name")),
        "Pods" => ("pods", ""),
        "Object" => ("object", ""),
        "External" => ("external", ""),
        _ => return "<unknown type>".to_owned(),
    };
    let (goal, now) = (at(metric, source), current.map_or(&Value::Null, |one| at(one, source)));
    let value = |key: &str, unit: &str, suffix: &str| {
        let used = scalar(&at(now, "current")[key], "");
        let used = if used.is_empty() { "<unknown>".to_owned() } else { format!("{used}{unit}") };
        format!("{used}/{}{unit}{suffix}", scalar(&at(goal, "target")[key], "<auto>"))
    };
    let text = match text(goal, "target.type") {
        "Utilization" => value("averageUtilization", "%", ""),
        "AverageValue" if source == "pods" || source == "resource" => value("averageValue", "", ""),
        "AverageValue" => value("averageValue", "", " (avg)"),
        _ => value("value", "", ""),
    };
    if label.is_empty() { text } else { format!("{label}: {text}") }
}

fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        scalar(at(object, "spec.minAvailable"), "N/A").into(),
        scalar(at(object, "spec.maxUnavailable"), "N/A").into(),
        number(object, "status.disruptionsAllowed").into(),
        age(object, now),
    ]
}

/// `true` and `false`, for the other groups' cells.
pub(super) fn flag(object: &Value, path: &str) -> Value {
    boolean(at(object, path)).into()
}
