//! The options of requests, from the URL's parameters and (of deletions) the body.

use std::time::Duration;

use apimachinery::decode::FieldValidation;
use apimachinery::field::{FieldError, Path};
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::status::Status;
use serde_json::Value;
use store::Revision;

use super::convert::event_field;
use super::resource::Served;
use crate::request::Query;

const META: &str = "meta.k8s.io";
/// The type of a deletion's body.
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Which revision a read may answer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The newest.
    Newest,
    /// Whatever is at hand.
    Any,
    /// This or a newer one.
    NotOlderThan(Revision),
    /// Exactly this.
    Exact(Revision),
}

/// Options of lists, watches and collection deletions.
#[derive(Debug, Clone)]
pub(super) struct ListOptions {
    pub(super) selection: Selection,
    pub(super) at: At,
    pub(super) limit: usize,
    pub(super) continuation: String,
}

/// Options of a watch beside those of a list.
#[derive(Debug, Clone)]
pub(super) struct WatchOptions {
    pub(super) selection: Selection,
    pub(super) at: At,
    pub(super) bookmarks: bool,
    pub(super) send_initial: Option<bool>,
    pub(super) timeout: Option<Duration>,
}

/// Which objects are wanted.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    everything: bool,
}

/// Options of every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriteOptions {
    pub(super) dry_run: bool,
    pub(super) validation: FieldValidation,
}

/// Options of an apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApplyOptions {
    pub(super) write: WriteOptions,
    /// Who applies.
    pub(super) manager: String,
    /// Whether fields are taken from their owners.
    pub(super) force: bool,
}

/// What a deletion does with dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They stay, without their owner.
    Orphan,
    /// They go later.
    Background,
    /// They go first.
    Foreground,
}

/// Options of deletions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<Propagation>,
    /// `orphanDependents: false`, which makes the answer 202 where the object is not gone yet.
    pub(crate) cascade_asked: bool,
    pub(crate) dry_run: bool,
}

impl Selection {
    fn parse(query: &Query, served: &Served) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or("")).map_err(Status::bad_request)?;
        let mut fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or("")).map_err(Status::bad_request)?;
        for requirement in &mut fields.requirements {
            requirement.field = known_field(served, &requirement.field)?;
        }
        let everything = labels.is_everything() && fields.is_empty();
        Ok(Self { labels, fields, everything })
    }

    /// Whether all objects are wanted.
    pub(super) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether this object is wanted.
    pub(super) fn matches(&self, entry: &store::Entry) -> bool {
        self.everything
            || (self.labels.matches(|key| entry.labels.get(key))
                && self.fields.matches(|field| match field {
                    "metadata.name" => entry.name(),
                    "metadata.namespace" => entry.namespace(),
                    other => entry.field(other).unwrap_or(""),
                }))
    }

    /// The one name that can match, where the selector says so.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }
}

/// The stored name of a selectable field.
fn known_field(served: &Served, field: &str) -> Result<String, Status> {
    let facts = served.storage()?.facts;
    let stored = match served.name() {
        "events" => event_field(&served.resource.group, field),
        _ => Some(field.into()),
    };
    let known =
        |stored: &str| matches!(stored, "metadata.name" | "metadata.namespace") || facts.fields.contains(&stored);
    match (stored.filter(|stored| known(stored)), facts.fields) {
        (Some(stored), _) => Ok(stored.into_owned()),
        (None, []) => Err(Status::bad_request(format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ))),
        (None, _) => Err(Status::bad_request(format!("field label not supported: {field}"))),
    }
}

fn integer(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))),
    }
}

fn boolean(query: &Query, name: &str) -> Option<bool> {
    query.get(name).map(|_| query.flag(name))
}

pub(super) fn revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        let path = Path::new("resourceVersion");
        Status::invalid(
            META,
            "ListOptions",
            "",
            vec![FieldError::invalid(&path, text, format!("strconv.ParseUint: parsing \"{text}\": invalid syntax"))],
        )
    })
}

fn at_least(text: &str) -> Result<At, Status> {
    Ok(match text {
        "" => At::Newest,
        "0" => At::Any,
        text => At::NotOlderThan(revision(text)?),
    })
}

/// 400 for options that do not go together.
fn bad_options(error: &FieldError) -> Status {
    Status::bad_request(format!("ListOptions.{META} \"\" is invalid: {error}"))
}

fn forbidden_match(detail: &str) -> Status {
    bad_options(&FieldError::forbidden(&Path::new("resourceVersionMatch"), detail))
}

impl ListOptions {
    pub(super) fn parse(query: &Query, served: &Served) -> Result<Self, Status> {
        if query.get("sendInitialEvents").is_some_and(|text| !text.is_empty()) {
            let path = Path::new("sendInitialEvents");
            return Err(bad_options(&FieldError::forbidden(&path, "sendInitialEvents is forbidden for list")));
        }
        let limit = integer(query, "limit")?.unwrap_or(0).max(0);
        // A list ends by itself; the wish must be a number nevertheless.
        integer(query, "timeoutSeconds")?;
        let continuation = query.get("continue").unwrap_or("").to_owned();
        let at = list_at(query, limit, &continuation)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { selection: Selection::parse(query, served)?, at, limit, continuation })
    }
}

fn list_at(query: &Query, limit: i64, continuation: &str) -> Result<At, Status> {
    let version = query.get("resourceVersion").unwrap_or("");
    let wanted = query.get("resourceVersionMatch").unwrap_or("");
    if !wanted.is_empty() && version.is_empty() {
        return Err(forbidden_match("resourceVersionMatch is forbidden unless resourceVersion is provided"));
    }
    if !wanted.is_empty() && !continuation.is_empty() {
        return Err(forbidden_match("resourceVersionMatch is forbidden when continue is provided"));
    }
    if !continuation.is_empty() && !matches!(version, "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    match (wanted, version) {
        ("Exact", "0") => Err(forbidden_match("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ("Exact", text) => Ok(At::Exact(revision(text)?)),
        // Pages from a given revision were exact before resourceVersionMatch existed.
        ("", text) if limit > 0 && !matches!(text, "" | "0") => Ok(At::Exact(revision(text)?)),
        ("" | "NotOlderThan", text) => at_least(text),
        (other, _) => Err(bad_options(&FieldError::not_supported(
            &Path::new("resourceVersionMatch"),
            other,
            &["Exact", "NotOlderThan", ""],
        ))),
    }
}

impl WatchOptions {
    pub(super) fn parse(query: &Query, served: &Served) -> Result<Self, Status> {
        let send_initial = boolean(query, "sendInitialEvents");
        let wanted = query.get("resourceVersionMatch").unwrap_or("");
        match (send_initial, wanted) {
            (Some(_), "NotOlderThan") | (None, "") => {}
            (Some(_), _) => {
                return Err(forbidden_match("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
            }
            (None, _) => {
                return Err(forbidden_match(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        if query.get("continue").is_some_and(|token| !token.is_empty()) {
            let path = Path::new("continue");
            return Err(bad_options(&FieldError::forbidden(&path, "continue is forbidden for watch")));
        }
        let timeout = integer(query, "timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            selection: Selection::parse(query, served)?,
            at: at_least(query.get("resourceVersion").unwrap_or(""))?,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial,
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }
}

/// The revision that a get may answer from.
pub(super) fn get_at(query: &Query) -> Result<At, Status> {
    at_least(query.get("resourceVersion").unwrap_or(""))
}

impl ApplyOptions {
    pub(super) fn parse(query: &Query) -> Result<Self, Status> {
        let write = WriteOptions::parse_with(query, "PatchOptions", true)?;
        let manager = query.get("fieldManager").unwrap_or("").to_owned();
        Ok(Self { write, manager, force: query.flag("force") })
    }
}

impl WriteOptions {
    /// Options of a create, update or patch, `kind` naming which.
    pub(super) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::parse_with(query, kind, false)
    }

    fn parse_with(query: &Query, kind: &str, applies: bool) -> Result<Self, Status> {
        let mut errors = Vec::new();
        if applies && query.get("fieldManager").unwrap_or("").is_empty() {
            errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        if !applies && kind == "PatchOptions" && query.get("force").is_some_and(|force| !force.is_empty()) {
            errors.push(FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let manager = query.get("fieldManager").unwrap_or("");
        let path = Path::new("fieldManager");
        if manager.len() > 128 {
            errors.push(FieldError::too_long(&path, 128));
        } else if manager.chars().any(char::is_control) {
            errors.push(FieldError::invalid(&path, manager, "should only contain printable characters"));
        }
        let validation = match query.get("fieldValidation").unwrap_or("") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let path = Path::new("fieldValidation");
                errors.push(FieldError::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        if errors.is_empty() { Ok(Self { dry_run, validation }) } else { Err(Status::invalid(META, kind, "", errors)) }
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let mut on = false;
    for value in values {
        match value {
            "All" => on = true,
            "" => {}
            other => errors.push(FieldError::not_supported(&Path::new("dryRun"), other, &["All"])),
        }
    }
    on
}

impl DeleteOptions {
    /// Options of a deletion: from the body where there is one, else from the URL.
    pub(super) fn parse(query: &Query, body: Option<&Value>) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let mut options = Self::default();
        let (policy, orphan): (Option<String>, Option<bool>);
        if let Some(body) = body {
            let text = |at: &str| body.pointer(at).and_then(Value::as_str).map(str::to_owned);
            options.grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
            options.uid = text("/preconditions/uid");
            options.resource_version = text("/preconditions/resourceVersion");
            policy = text("/propagationPolicy");
            orphan = body.get("orphanDependents").and_then(Value::as_bool);
            let values = body.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            options.dry_run = dry_run(values.chain(query.all("dryRun")), &mut errors);
        } else {
            options.grace = integer(query, "gracePeriodSeconds")?;
            policy = query.get("propagationPolicy").filter(|text| !text.is_empty()).map(str::to_owned);
            orphan = boolean(query, "orphanDependents");
            options.dry_run = dry_run(query.all("dryRun"), &mut errors);
        }
        let path = Path::new("propagationPolicy");
        if policy.is_some() && orphan.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy.clone().unwrap_or_default(), detail));
        }
        options.propagation = match (policy.as_deref(), orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some(other), _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported(&path, other, &supported));
                None
            }
            (None, None) => None,
        };
        options.cascade_asked = orphan == Some(false);
        // As upstream, a negative grace period counts as one second.
        options.grace = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
        if errors.is_empty() { Ok(options) } else { Err(Status::invalid(META, "DeleteOptions", "", errors)) }
    }
}
