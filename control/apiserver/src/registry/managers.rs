//! Who owns which fields of an object (`metadata.managedFields`), and what server-side apply makes of that.
//!
//! Ownership is kept from the first apply on: until then nobody asks for it, and what is there then belongs to
//! `before-first-apply`, as it does upstream for objects that were made without being tracked.

use std::sync::LazyLock;

use apimachinery::apply::{self, Comparison, Set};
use apimachinery::gvk::parse_api_version;
use apimachinery::schema::Schema;
use apimachinery::status::{Cause, Details, Status, reason};
use apimachinery::{decode, meta};
use serde_json::{Map, Value, json};

/// Owns what was there before anyone applied.
const BEFORE: &str = "before-first-apply";
/// Owns what the oldest of many updaters did.
const ANCIENT: &str = "ancient-changes";
/// Updaters that are told apart.
const MOST_UPDATERS: usize = 10;
/// The manager of `kubectl apply --server-side`, which takes over from `kubectl apply`.
const KUBECTL: &str = "kubectl";
/// Where `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields that nobody owns: an object's identity, and what only the server writes.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    let metadata = json!({".": {}, "f:name": {}, "f:namespace": {}, "f:creationTimestamp": {}, "f:selfLink": {}, "f:uid": {},
        "f:clusterName": {}, "f:generation": {}, "f:managedFields": {}, "f:resourceVersion": {}});
    Set::parse(&json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": metadata})).unwrap_or_default()
});

/// Whose change it is.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) manager: &'a str,
    pub(super) api_version: &'a str,
    pub(super) subresource: &'a str,
}

/// An apply's surroundings.
pub(super) struct Apply<'a> {
    pub(super) who: Who<'a>,
    /// Whether it takes fields from their owners.
    pub(super) force: bool,
    pub(super) schema: &'a Schema,
    /// Leaves of a set what this part of the object may change.
    pub(super) within: &'a (dyn Fn(Set) -> Set + Sync),
    pub(super) now: &'a str,
}

#[derive(Clone, Debug, PartialEq)]
struct Owner {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Set,
}

/// Fields that others own and that would change.
struct Conflict {
    with: String,
    fields: Set,
}

impl Owner {
    fn new(who: Who<'_>, applied: bool, fields: Set) -> Self {
        Self {
            manager: who.manager.to_owned(),
            applied,
            api_version: who.api_version.to_owned(),
            subresource: who.subresource.to_owned(),
            time: None,
            fields,
        }
    }

    /// Whether the same manager did the same thing. Who applies stays who they are in another version.
    fn is(&self, who: Who<'_>, applied: bool) -> bool {
        self.applied == applied
            && self.manager == who.manager
            && self.subresource == who.subresource
            && (applied || self.api_version == who.api_version)
    }

    /// As messages name it.
    fn named(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if !self.applied {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    fn parse(entry: &Value) -> Result<Self, String> {
        let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
        let applied = match &*text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        if text("fieldsType") != "FieldsV1" {
            return Err(format!("invalid fieldsType {:?} in managed fields", text("fieldsType")));
        }
        let none = json!({});
        let fields = Set::parse(entry.get("fieldsV1").filter(|fields| !fields.is_null()).unwrap_or(&none))?;
        let time = entry["time"].as_str().map(str::to_owned);
        let (manager, api_version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
        Ok(Self { manager, applied, api_version, subresource, time, fields })
    }

    fn to_value(&self) -> Value {
        let mut entry = Map::new();
        let operation = if self.applied { "Apply" } else { "Update" };
        let texts = [
            ("manager", self.manager.as_str()),
            ("operation", operation),
            ("apiVersion", &self.api_version),
            ("time", self.time.as_deref().unwrap_or("")),
            ("fieldsType", "FieldsV1"),
            ("subresource", &self.subresource),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            entry.insert(key.to_owned(), text.into());
        }
        entry.insert("fieldsV1".to_owned(), self.fields.to_value());
        Value::Object(entry)
    }
}

/// The owners that an object names.
fn owners(object: &Value) -> Result<Vec<Owner>, String> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(Owner::parse).collect()
}

/// Writes an object's owners.
fn write(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|owner| !owner.fields.is_empty());
    owners.sort_by(|a, b| {
        let key = |one: &Owner| (!one.applied, one.time.clone(), one.manager.clone(), one.api_version.clone());
        key(a).cmp(&key(b)).then_with(|| a.subresource.cmp(&b.subresource))
    });
    put(object, (!owners.is_empty()).then(|| owners.iter().map(Owner::to_value).collect()));
}

fn put(object: &mut Value, managed: Option<Value>) {
    let Some(metadata) = meta::metadata_mut(object) else { return };
    match managed {
        Some(managed) => metadata.insert("managedFields".to_owned(), managed),
        None => metadata.remove("managedFields"),
    };
}

fn compare(old: &Value, new: &Value, schema: &Schema) -> Result<Comparison, String> {
    Ok(apply::compare(old, new, schema)?.map(|set| set.difference(&NOBODYS)))
}

/// Makes the owners of an updated object what the update makes of them. A client may write them itself, or forget them all.
pub(super) fn after_update(old: &Value, new: &mut Value, schema: &Schema, who: Who<'_>, now: &str) {
    let before = old["metadata"].get("managedFields").cloned();
    let given = new["metadata"].get("managedFields").filter(|_| who.subresource.is_empty());
    let forgets =
        given.and_then(Value::as_array).is_some_and(|all| all.is_empty() || (all.len() == 1 && all[0] == json!({})));
    if forgets {
        return put(new, None);
    }
    let given = given.and_then(|_| owners(new).ok()).filter(|owners| !owners.is_empty());
    let Some(mut all) = given.or_else(|| owners(old).ok()).filter(|owners| !owners.is_empty()) else {
        return put(new, None);
    };
    // Ownership that cannot be worked out stays as it was; it is no reason to refuse an update.
    let Ok(changed) = compare(old, new, schema) else { return put(new, before) };
    if !changed.is_same() {
        let taken = changed.added.union(&changed.modified);
        let own = all.iter().position(|owner| owner.is(who, false)).map(|at| all.remove(at));
        let mut own = own.unwrap_or_else(|| Owner::new(who, false, Set::default()));
        for other in &mut all {
            let fields = std::mem::take(&mut other.fields);
            other.fields = fields.difference(&taken).difference(&changed.removed);
        }
        own.fields = own.fields.difference(&changed.removed).union(&taken);
        own.time = Some(now.to_owned());
        all.push(own);
    }
    write(new, capped(all));
}

/// With the oldest of too many updaters as one.
fn capped(mut all: Vec<Owner>) -> Vec<Owner> {
    all.retain(|owner| !owner.fields.is_empty());
    while all.iter().filter(|owner| !owner.applied).count() > MOST_UPDATERS {
        let mut updaters: Vec<usize> = (0..all.len()).filter(|at| !all[*at].applied).collect();
        updaters.sort_by(|a, b| all[*a].time.cmp(&all[*b].time));
        // Only what is said of one version can be said together.
        let version = |at: usize| &all[at].api_version;
        let pair = updaters.iter().enumerate().find_map(|(index, one)| {
            updaters[index + 1..].iter().find(|other| version(**other) == version(*one)).map(|other| (*one, *other))
        });
        let Some((one, other)) = pair else { break };
        let merged = all[one].fields.clone().union(&all[other].fields);
        let newest = &mut all[other];
        (newest.manager, newest.subresource, newest.fields) = (ANCIENT.to_owned(), String::new(), merged);
        all.remove(one);
    }
    all
}

/// The live object with what is applied, and its owners. `live` is null where there is none.
pub(super) fn apply(live: &Value, config: &Value, context: &Apply<'_>) -> Result<Value, Status> {
    let who = context.who;
    let empty = json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}});
    let mut all = owners(live).map_err(|why| refused(&format!("failed to decode managed fields: {why}")))?;
    if all.is_empty() && !live.is_null() {
        let there = compare(&empty, live, context.schema).map_err(|why| refused(&why))?.added;
        all = vec![Owner {
            time: Some(context.now.to_owned()),
            ..Owner::new(Who { manager: BEFORE, ..who }, false, there)
        }];
    }
    let live = if live.is_null() { &empty } else { live };
    let attempt = |force| merge(live, config, all.clone(), context, force).map_err(|why| refused(&why));
    let (mut new, owners) = match attempt(context.force)? {
        Ok(done) => done,
        Err(mut conflicts) => {
            if who.manager == KUBECTL {
                let own = last_applied(live, context.schema);
                for conflict in &mut conflicts {
                    conflict.fields = std::mem::take(&mut conflict.fields).difference(&own);
                }
                conflicts.retain(|conflict| !conflict.fields.is_empty());
            }
            if !conflicts.is_empty() {
                return Err(in_conflict(&conflicts));
            }
            attempt(true)?.map_err(|conflicts| in_conflict(&conflicts))?
        }
    };
    if who.manager == KUBECTL && meta::annotation(&new, LAST_APPLIED).is_some() {
        new["metadata"]["annotations"][LAST_APPLIED] = remembered(config).into();
    }
    write(&mut new, owners);
    Ok(new)
}

/// The text that `kubectl apply` would keep of a configuration.
fn remembered(config: &Value) -> String {
    let mut config = config.clone();
    if let Some(annotations) = config["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    format!("{config}\n")
}

type Merged = Result<(Value, Vec<Owner>), Vec<Conflict>>;

/// Merges, takes out what this manager applied before and nobody owns now, and settles who owns what.
fn merge(
    live: &Value,
    config: &Value,
    mut all: Vec<Owner>,
    context: &Apply<'_>,
    force: bool,
) -> Result<Merged, String> {
    let (who, schema) = (context.who, context.schema);
    let mut new = apply::merge(live, config, schema)?;
    let fields = apply::field_set(config, schema)?.difference(&NOBODYS);
    let last = all.iter().position(|owner| owner.is(who, true)).map(|at| all.remove(at));
    let mut own = Owner::new(who, true, (context.within)(fields));
    if let Some(last) = &last {
        let kept = all.iter().fold(own.fields.clone(), |kept, other| kept.union(&other.fields));
        let gone = apply::named(&last.fields, schema).difference(&apply::named(&kept, schema)).difference(&NOBODYS);
        new = apply::remove(&new, &gone, schema)?;
    }
    let changed = compare(live, &new, schema)?.map(|set| (context.within)(set));
    let taken = changed.added.clone().union(&changed.modified);
    let conflicts = all.iter().map(|other| Conflict { with: other.named(), fields: other.fields.intersection(&taken) });
    let conflicts: Vec<Conflict> = conflicts.filter(|conflict| !conflict.fields.is_empty()).collect();
    if !force && !conflicts.is_empty() {
        return Ok(Err(conflicts));
    }
    for other in &mut all {
        let fields = std::mem::take(&mut other.fields);
        other.fields = fields.difference(&taken).difference(&changed.removed);
    }
    let same =
        last.filter(|last| changed.is_same() && last.fields == own.fields && last.api_version == own.api_version);
    own.time = same.map_or_else(|| Some(context.now.to_owned()), |last| last.time);
    all.push(own);
    Ok(Ok((new, all)))
}

/// What `kubectl apply` applied and is still so: its successor may change it.
fn last_applied(live: &Value, schema: &Schema) -> Set {
    let Some(text) = meta::annotation(live, LAST_APPLIED) else { return Set::default() };
    let Ok(last) = decode::parse(text.as_bytes(), decode::Media::Json) else { return Set::default() };
    let (Ok(fields), Ok(since)) = (apply::field_set(&last, schema), apply::compare(&last, live, schema)) else {
        return Set::default();
    };
    fields.difference(&since.modified).difference(&since.added).difference(&since.removed)
}

/// 409 with a cause for each field.
fn in_conflict(conflicts: &[Conflict]) -> Status {
    let mut causes = Vec::new();
    for conflict in conflicts {
        causes.extend(conflict.fields.paths().into_iter().map(|field| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", conflict.with),
            field,
        }));
    }
    let message = if let [only] = &causes[..] {
        format!("Apply failed with 1 conflict: {}: {}", only.message, only.field)
    } else {
        let mut lines = Vec::new();
        for conflict in conflicts {
            lines.push(format!("conflicts with {}:", conflict.with));
            lines.extend(conflict.fields.paths().iter().map(|path| format!("- {path}")));
        }
        format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n"))
    };
    let details = Some(Box::new(Details { causes, ..Details::default() }));
    Status { code: 409, reason: reason::CONFLICT, message, details }
}

/// 500, as upstream answers what its machinery cannot apply.
pub(super) fn refused(why: &str) -> Status {
    Status { code: 500, reason: reason::UNKNOWN, message: why.to_owned(), details: None }
}

/// `default/web; apps/v1, Kind=Deployment`.
pub(super) fn described(object: &Value) -> String {
    let (group, version) = parse_api_version(meta::api_version(object)).unwrap_or_default();
    let (namespace, name) = (meta::namespace(object), meta::name(object));
    format!("{namespace}/{name}; {group}/{version}, Kind={}", meta::kind(object))
}
