//! Workloads that end: Job and CronJob.

use apimachinery::field::{FieldError, Path};
use apimachinery::meta;
use serde_json::{Value, json};

use super::Strategy;
use super::core::validate_template;
use super::template::{pods_warnings, template_defaults};
use super::tools::{
    Problems, always, default_to, empty, flag, immutable, int, keep, made, non_negative, one_of, some, text, within,
};

/// The names of a job's pods' labels, with their predecessors.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// The strategy of Jobs.
#[derive(Debug)]
pub(super) struct Job;

impl Strategy for Job {
    fn defaults(&self, job: &mut Value) {
        always(job, "spec", job_spec);
        let labels = job.pointer("/spec/template/metadata/labels").cloned();
        if let Some(labels) = labels
            && job.pointer("/metadata/labels").is_none_or(|own| own.as_object().is_none_or(serde_json::Map::is_empty))
        {
            made(job, "metadata")["labels"] = labels;
        }
    }

    fn prepare_create(&self, job: &mut Value) {
        if flag(&job["spec"], "manualSelector") == Some(true) {
            return;
        }
        // The pods are told apart by what only this job has.
        let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
        always(job, "spec", |spec| {
            let labels = made(made(made(spec, "template"), "metadata"), "labels");
            for (label, value) in
                [(UID_LABEL, &uid), ("controller-uid", &uid), (NAME_LABEL, &name), ("job-name", &name)]
            {
                labels[label] = value.as_str().into();
            }
            if empty(spec, "selector") {
                spec["selector"] = json!({ "matchLabels": { UID_LABEL: uid } });
            }
        });
    }

    fn validate(&self, job: &Value) -> Problems {
        let mut problems = Vec::new();
        validate_spec(&Path::new("spec"), &job["spec"], &mut problems);
        problems
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pods_warnings(&Path::new("spec").child("template"), &new["spec"]["template"], new, old)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let path = Path::new("spec");
        let suspended = flag(&old["spec"], "suspend") == Some(true) && empty(&old["status"], "startTime");
        let (new, old) = (&new["spec"], &old["spec"]);
        for field in
            ["selector", "completionMode", "podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy"]
        {
            immutable(&path, new, old, field, &mut problems);
        }
        let elastic = text(new, "completionMode") == "Indexed"
            && int(new, "completions").is_some()
            && int(new, "completions") == int(new, "parallelism");
        if !elastic {
            immutable(&path, new, old, "completions", &mut problems);
        }
        // What says where pods may run can be set until the job starts for the first time.
        let mut template = new["template"].clone();
        if suspended {
            let before = &old["template"];
            for field in ["labels", "annotations"] {
                keep(made(&mut template, "metadata"), &before["metadata"], field);
            }
            if before.get("metadata").is_none() {
                keep(&mut template, before, "metadata");
            }
            for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                within(&mut template, "spec", |spec| keep(spec, &before["spec"], field));
            }
        }
        if template != old["template"] {
            let value = new["template"].clone();
            problems.push(FieldError::invalid(&path.child("template"), value, "field is immutable"));
        }
        problems
    }
}

fn job_spec(spec: &mut Value) {
    if some(spec, "completions").is_none() && some(spec, "parallelism").is_none() {
        spec["completions"] = 1.into();
    }
    default_to(spec, "parallelism", 1);
    if some(spec, "backoffLimitPerIndex").is_some() {
        default_to(spec, "backoffLimit", i64::from(i32::MAX));
    }
    default_to(spec, "backoffLimit", 6);
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let replacement = if some(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    default_to(spec, "podReplacementPolicy", replacement);
    template_defaults(spec);
}

fn validate_spec(path: &Path, spec: &Value, problems: &mut Problems) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "maxFailedIndexes",
        "backoffLimitPerIndex",
    ] {
        if let Some(value) = int(spec, field) {
            non_negative(&path.child(field), value, problems);
        }
    }
    let mode = text(spec, "completionMode");
    one_of(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"], false, problems);
    if mode == "Indexed" && int(spec, "completions").is_none() {
        let detail = "when completion mode is Indexed";
        problems.push(FieldError::required(&path.child("completions"), detail));
    }
    if mode != "Indexed" && some(spec, "backoffLimitPerIndex").is_some() {
        let value = spec["backoffLimitPerIndex"].clone();
        let detail = "requires indexed completion mode";
        problems.push(FieldError::invalid(&path.child("backoffLimitPerIndex"), value, detail));
    }
    let template = path.child("template");
    validate_template(&template, &spec["template"], problems);
    let policy = spec.pointer("/template/spec/restartPolicy").and_then(Value::as_str).unwrap_or_default();
    let at = template.child("spec").child("restartPolicy");
    match policy {
        "OnFailure" if some(spec, "podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            problems.push(FieldError::invalid(&at, policy, detail));
        }
        "OnFailure" | "Never" => {}
        "" | "Always" => problems.push(FieldError::required(&at, "valid values: \"OnFailure\", \"Never\"")),
        other => problems.push(FieldError::not_supported(&at, other, &["Never", "OnFailure"])),
    }
}

/// The strategy of CronJobs.
#[derive(Debug)]
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn defaults(&self, job: &mut Value) {
        always(job, "spec", |spec| {
            default_to(spec, "concurrencyPolicy", "Allow");
            default_to(spec, "suspend", false);
            default_to(spec, "successfulJobsHistoryLimit", 3);
            default_to(spec, "failedJobsHistoryLimit", 1);
            always(spec, "jobTemplate", |template| always(template, "spec", template_defaults));
        });
    }

    fn validate(&self, job: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &job["spec"]);
        let name = meta::name(job);
        if name.len() > 52 {
            let path = Path::new("metadata").child("name");
            problems.push(FieldError::invalid(&path, name, "must be no more than 52 characters"));
        }
        let schedule = text(spec, "schedule");
        if schedule.is_empty() {
            problems.push(FieldError::required(&path.child("schedule"), ""));
        } else if let Err(why) = check_schedule(schedule) {
            problems.push(FieldError::invalid(&path.child("schedule"), schedule, why));
        }
        let zone = text(spec, "timeZone");
        // A machine without time zones cannot tell which ones there are.
        let unknown = || !jiff::tz::db().is_definitively_empty() && jiff::tz::TimeZone::get(zone).is_err();
        if some(spec, "timeZone").is_some() && (zone.eq_ignore_ascii_case("local") || unknown()) {
            let detail = format!("unknown time zone {zone}");
            problems.push(FieldError::invalid(&path.child("timeZone"), zone, detail));
        }
        let policies = ["Allow", "Forbid", "Replace"];
        one_of(&path.child("concurrencyPolicy"), text(spec, "concurrencyPolicy"), &policies, true, &mut problems);
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            if let Some(value) = int(spec, field) {
                non_negative(&path.child(field), value, &mut problems);
            }
        }
        let template = path.child("jobTemplate").child("spec");
        validate_spec(&template, &spec["jobTemplate"]["spec"], &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        // A name that was too long when it was made may stay.
        let mut problems = self.validate(new);
        if meta::name(old).len() > 52 {
            problems.retain(|problem| problem.path != "metadata.name");
        }
        problems
    }
}

/// Checks a schedule: five fields, or `@hourly` and the like, as cron(5) has them.
fn check_schedule(schedule: &str) -> Result<(), String> {
    const NAMED: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    if schedule.contains("TZ") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if let Some(pause) = schedule.strip_prefix("@every ") {
        let digits = pause.trim().starts_with(|first: char| first.is_ascii_digit());
        return if digits { Ok(()) } else { Err(format!("failed to parse duration {schedule}")) };
    }
    if schedule.starts_with('@') {
        let known = NAMED.contains(&schedule);
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &MONTHS), (0, 6, &DAYS)];
    for (field, bounds) in fields.iter().zip(bounds) {
        field.split(',').try_for_each(|part| check_range(part, bounds))?;
    }
    Ok(())
}

/// One range of a field: `*`, `?`, `n`, `n-m`, each with `/step`.
fn check_range(part: &str, (low, high, words): (u32, u32, &[&str])) -> Result<(), String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step
        && !step.parse().is_ok_and(|step: u32| step > 0)
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if matches!(range, "*" | "?") {
        return Ok(());
    }
    let number = |text: &str| {
        let word = words.iter().position(|word| text.eq_ignore_ascii_case(word)).and_then(|at| u32::try_from(at).ok());
        word.map(|at| at + low).or_else(|| text.parse().ok()).ok_or_else(|| format!("failed to parse int from {text}"))
    };
    let (start, end) = match range.split_once('-') {
        None => (number(range)?, number(range)?),
        Some((start, end)) => (number(start)?, number(end)?),
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: &Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]});
        within(&mut job, "spec", |spec| default_to(spec, "template", json!({"spec": pod})));
        Job.defaults(&mut job);
        Job.prepare_create(&mut job);
        job
    }

    fn said(problems: &Problems) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_job_finds_its_pods_by_its_uid() {
        let job = job(&json!({}));
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {UID_LABEL: "u"}}));
        let labels = json!({UID_LABEL: "u", "controller-uid": "u", NAME_LABEL: "j", "job-name": "j"});
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert!(said(&Job.validate(&job)).is_empty());
    }

    #[test]
    fn jobs() {
        let always = json!({"spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "x"}]}});
        let cases = [
            (
                json!({"template": always}),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (json!({"parallelism": -1}), "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
            (
                json!({"completionMode": "Indexed", "parallelism": 1}),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(said(&Job.validate(&job(&spec))), [expected], "{spec}");
        }
    }

    #[test]
    fn a_suspended_job_may_be_sent_elsewhere() {
        let old = job(&json!({"suspend": true}));
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert!(said(&Job.validate_update(&new, &old)).is_empty());
        new["spec"]["suspend"] = false.into();
        let started = {
            let mut started = old.clone();
            started["spec"]["suspend"] = false.into();
            started
        };
        assert!(said(&Job.validate_update(&new, &started))[0].starts_with("spec.template: Invalid value"));
        let mut image = old.clone();
        image["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into();
        assert_eq!(Job.validate_update(&image, &old).len(), 1);
    }

    #[test]
    fn schedules() {
        for schedule in ["*/5 * * * ?", "0 0 1 jan mon-fri", "@hourly", "@every 1h", "1,2,3-5/2 0-23 1-31 1-12 0-6"] {
            assert_eq!(check_schedule(schedule), Ok(()), "{schedule}");
        }
        for schedule in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@often",
            "TZ=UTC * * * * *",
        ] {
            assert!(check_schedule(schedule).is_err(), "{schedule}");
        }
    }
}
