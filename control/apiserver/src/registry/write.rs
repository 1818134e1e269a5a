//! Creating and updating: the one path that every write of an object takes.
//!
//! identity → defaults → mutating admission → defaults → the kind's preparation → validation → validating admission → store.

use std::sync::Arc;

use apimachinery::field::{FieldError, Path};
use apimachinery::status::Status;
use apimachinery::{meta, names, time};
use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Expect, StoreError};

use super::managers::{self, Who};
use super::resource::Storage;
use super::{Registry, convert, errors, object_meta, required, services};
use crate::admission::{Attributes, Operation};
use crate::auth::User;
use crate::authz::Authorizer;
use crate::request::{MAX_BODY, Warnings};

/// How often a generated name is made anew when it is taken.
const NAME_ATTEMPTS: usize = 8;
/// The largest object: what a body may hold, and room for what is added to it. Patches could make it grow for ever, and every
/// change of a large one takes its bytes of the history that all watches share.
pub(super) const MAX_OBJECT: usize = MAX_BODY + (1 << 20);
/// How often a change is made anew when someone else wrote meanwhile.
const WRITE_ATTEMPTS: usize = 64;

/// One write's surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) storage: &'a Arc<Storage>,
    pub(crate) namespace: &'a str,
    pub(crate) user: &'a User,
    /// None for the server's own writes.
    pub(crate) authorizer: Option<&'a Authorizer>,
    pub(crate) warnings: &'a Warnings,
    pub(crate) dry_run: bool,
    /// Who owns what this changes.
    pub(crate) manager: &'a str,
    /// Whether the objects come with their owners, because they are applied.
    pub(crate) applies: bool,
}

/// What a write made.
pub(crate) struct Written {
    /// The object in its stored version, with its `resourceVersion`.
    pub(crate) bytes: Bytes,
    /// Whether it is new.
    pub(crate) created: bool,
}

/// What part of an object an update may change.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// All but `status`.
    Main,
    /// `status`, and what metadata may be written with it.
    Status,
    /// What a subresource's function leaves of the new object.
    Sub {
        /// The subresource.
        name: &'static str,
        /// Makes of the new object the old one with what may change.
        keep: fn(new: &mut Value, old: &Value) -> Result<(), Status>,
        /// Checks what may change.
        validate: fn(new: &Value, old: &Value) -> Vec<FieldError>,
    },
}

/// Makes the wanted object of the present one.
pub(crate) type Change<'a> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'a;

impl Part {
    pub(super) fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Sub { name, .. } => name,
        }
    }
}

impl Writer<'_> {
    pub(super) fn attributes<'b>(
        &'b self,
        operation: Operation,
        subresource: &'b str,
        object: Value,
    ) -> Attributes<'b> {
        Attributes {
            operation,
            group: self.storage.group,
            resource: self.storage.resource,
            subresource,
            namespace: self.namespace,
            name: meta::name(&object).to_owned(),
            object,
            old: None,
            dry_run: self.dry_run,
            user: self.user,
            authorizer: self.authorizer,
            warnings: self.warnings,
        }
    }

    fn warn(&self, new: &Value, old: Option<&Value>) {
        for warning in self.storage.strategy.warnings(new, old) {
            self.warnings.push(warning);
        }
    }

    /// Makes an object.
    pub(crate) async fn create(&self, mut object: Value) -> Result<Written, Status> {
        let storage = self.storage;
        object_meta::prepare_create(&mut object, self.namespace, self.applies)?;
        storage.strategy.defaults(&mut object);
        let mut attributes = self.attributes(Operation::Create, "", object);
        self.registry.admission().admit(self.registry, &mut attributes).await?;
        let object = &mut attributes.object;
        storage.strategy.defaults(object);
        if storage.has_status
            && !storage.facts.keeps_initial_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        storage.strategy.prepare_create(object);
        storage.complete(object);
        object_meta::normalise(object);
        if storage.facts.generation {
            object["metadata"]["generation"] = 1.into();
        }
        let base = meta::generate_name(object).to_owned();
        let generated = meta::name(object).is_empty() && !base.is_empty();
        if generated {
            meta::set_text(object, "name", &names::generate_name(&base));
        }
        let mut claim = services::Claim::on_create(self, object).await?;
        let mut invalid = object_meta::validate(object, storage);
        invalid.extend(storage.strategy.validate(object));
        if storage.strategy.checks_requiredness_by_schema()
            && let Some(schema) = storage.schema
        {
            invalid.extend(required::missing(schema, object));
        }
        if !invalid.is_empty() {
            return Err(storage.invalid(if generated { "" } else { meta::name(object) }, invalid));
        }
        self.warn(object, None);
        attributes.name = meta::name(&attributes.object).to_owned();
        self.registry.admission().validate(self.registry, &attributes).await?;
        let written = self.put_new(&mut attributes.object, generated.then_some(&*base)).await?;
        claim.keep(self.dry_run);
        Ok(written)
    }

    /// Stores a new object, under other generated names while they are taken.
    async fn put_new(&self, object: &mut Value, base: Option<&str>) -> Result<Written, Status> {
        let storage = self.storage;
        for _ in 0..NAME_ATTEMPTS {
            let name = meta::name(object);
            let key = storage.key(self.namespace, name);
            let encoded = meta::encode(object);
            check_size(&encoded.bytes)?;
            let put = if self.dry_run {
                match storage.fresh_cache().await?.get(&key) {
                    Some(_) => Err(StoreError::Conflict { current: None }),
                    None => Ok(None),
                }
            } else {
                let store = self.registry.store();
                store.put(&key, encoded.bytes.clone(), Expect::Absent, storage.facts.ttl).await.map(Some)
            };
            match (put, base) {
                (Ok(None), _) => return Ok(Written { bytes: encoded.bytes, created: true }),
                (Ok(Some(revision)), _) => {
                    let bytes = meta::splice_rv_at(&encoded.bytes, encoded.rv_at, revision);
                    return Ok(Written { bytes, created: true });
                }
                (Err(StoreError::Conflict { .. }), Some(base)) => {
                    meta::set_text(object, "name", &names::generate_name(base));
                }
                (Err(StoreError::Conflict { .. }), None) => {
                    return Err(Status::already_exists(storage.group, storage.resource, name));
                }
                (Err(error), _) => return Err(errors::store(&error, storage, name)),
            }
        }
        Err(Status::generate_name_conflict(storage.group, storage.resource, meta::name(object), 1))
    }

    /// Changes an object. `change` is called again on the newest state when someone else wrote meanwhile; what it returns may
    /// name the resourceVersion that it insists on. `may_create` allows PUT to make the object.
    pub(crate) async fn update(
        &self,
        name: &str,
        part: Part,
        may_create: bool,
        change: &mut Change<'_>,
    ) -> Result<Written, Status> {
        let storage = self.storage;
        let key = storage.key(self.namespace, name);
        let mut cache = storage.cache().await?;
        for _ in 0..WRITE_ATTEMPTS {
            let Some(entry) = cache.get(&key) else {
                return match may_create {
                    true => Box::pin(self.create(create_on_update(change)?)).await,
                    false => Err(storage.not_found(name)),
                };
            };
            let old = convert::parse(&entry.bytes)?;
            let wanted = change(&old)?;
            match Box::pin(self.update_once(&entry, &old, wanted, part)).await? {
                Some(written) => return Ok(written),
                None => cache = storage.fresh_cache().await?,
            }
        }
        Err(Status::modified(storage.group, storage.resource, name))
    }

    /// Changes an object of the server's own.
    pub(crate) async fn put_right(&self, name: &str, change: &mut Change<'_>) -> Result<Written, Status> {
        self.update(name, Part::Main, false, change).await
    }

    /// One attempt at an update; none where someone else wrote first.
    async fn update_once(
        &self,
        entry: &Arc<Entry>,
        old: &Value,
        mut new: Value,
        part: Part,
    ) -> Result<Option<Written>, Status> {
        let storage = self.storage;
        self.check_identity(entry, old, &mut new, part)?;
        object_meta::prepare_update(&mut new, old)?;
        storage.strategy.defaults(&mut new);
        let mut attributes =
            Attributes { old: Some(old), ..self.attributes(Operation::Update, part.subresource(), new) };
        self.registry.admission().admit(self.registry, &mut attributes).await?;
        storage.strategy.defaults(&mut attributes.object);
        self.prepare(&mut attributes.object, old, part)?;
        let new = &mut attributes.object;
        let mut claim = services::Claim::on_update(self, new, old, part).await?;
        let invalid = self.validate(new, old, part);
        if !invalid.is_empty() {
            return Err(storage.invalid(entry.name(), invalid));
        }
        self.warn(new, Some(old));
        self.registry.admission().validate(self.registry, &attributes).await?;
        let new = &mut attributes.object;
        self.settle_owners(new, old, part);
        if new == old {
            return Ok(Some(Written { bytes: entry.bytes.clone(), created: false }));
        }
        let written = if deletion_is_due(storage, new, old) {
            self.finish_deletion(entry, new).await?
        } else {
            self.put_changed(entry, new).await?
        };
        if written.is_some() {
            claim.keep(self.dry_run);
        }
        Ok(written)
    }

    /// Refuses an update of another object or of another state than the present one.
    fn check_identity(&self, entry: &Entry, old: &Value, new: &mut Value, part: Part) -> Result<(), Status> {
        let storage = self.storage;
        object_meta::match_namespace(new, self.namespace)?;
        let conflict = |message: String| Status::conflict(storage.group, storage.resource, entry.name(), message);
        let (uid, present) = (meta::uid(new), meta::uid(old));
        if !uid.is_empty() && uid != present {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {present}"
            )));
        }
        let version = meta::resource_version(new);
        if version.is_empty() || version == "0" {
            if matches!(part, Part::Main) && !storage.facts.unconditional_update {
                let path = Path::new("metadata").child("resourceVersion");
                let missing = FieldError::invalid(&path, 0, "must be specified for an update");
                return Err(storage.invalid(entry.name(), vec![missing]));
            }
            meta::set_text(new, "resourceVersion", meta::resource_version(old));
        } else if version != meta::resource_version(old) {
            if version.parse::<u64>().is_err() {
                let path = Path::new("metadata").child("resourceVersion");
                let detail = format!("strconv.ParseUint: parsing \"{version}\": invalid syntax");
                return Err(storage.invalid(entry.name(), vec![FieldError::invalid(&path, version, detail)]));
            }
            return Err(Status::modified(storage.group, storage.resource, entry.name()));
        }
        Ok(())
    }

    /// Puts back what this part of the object may not change, and counts generations.
    fn prepare(&self, new: &mut Value, old: &Value, part: Part) -> Result<(), Status> {
        let storage = self.storage;
        match part {
            Part::Main => {
                if storage.has_status {
                    put_back(new, old, "status");
                }
                storage.strategy.prepare_update(new, old);
            }
            Part::Status => {
                keep_status(new, old, storage.facts.status_leaves);
                storage.strategy.prepare_status_update(new, old);
            }
            Part::Sub { keep, .. } => keep(new, old)?,
        }
        object_meta::normalise(new);
        // A binding says where a pod runs, which is nothing that its user asks for.
        let counts = !matches!(part, Part::Status | Part::Sub { name: "binding", .. });
        if storage.facts.generation && counts && asks_for_more(storage, new, old) {
            new["metadata"]["generation"] = (meta::generation(old) + 1).into();
        }
        Ok(())
    }

    /// Says who owns the fields of a changed object, where that is kept.
    fn settle_owners(&self, new: &mut Value, old: &Value, part: Part) {
        if let Some(schema) = self.storage.schema.filter(|_| !self.applies) {
            let (manager, api_version) = (self.manager, &*self.storage.api_version);
            let who = Who { manager, api_version, subresource: part.subresource() };
            managers::after_update(old, new, schema, who, &time::now_rfc3339());
        }
    }

    fn validate(&self, new: &Value, old: &Value, part: Part) -> Vec<FieldError> {
        let mut invalid = object_meta::validate_update(new, old);
        invalid.extend(match part {
            Part::Main => self.storage.strategy.validate_update(new, old),
            Part::Status => self.storage.strategy.validate_status_update(new, old),
            Part::Sub { validate, .. } => validate(new, old),
        });
        invalid
    }

    /// Stores a changed object; none where someone else wrote first.
    pub(super) async fn put_changed(&self, entry: &Entry, new: &Value) -> Result<Option<Written>, Status> {
        let encoded = meta::encode(new);
        // What is too large already may shrink, and go.
        if encoded.bytes.len() > entry.bytes.len() && meta::deletion_timestamp(new).is_none() {
            check_size(&encoded.bytes)?;
        }
        if self.dry_run {
            let bytes = meta::splice_rv_at(&encoded.bytes, encoded.rv_at, entry.revision);
            return Ok(Some(Written { bytes, created: false }));
        }
        let expect = Expect::Revision(entry.revision);
        match self.registry.store().put(&entry.key, encoded.bytes.clone(), expect, self.storage.facts.ttl).await {
            Ok(revision) => {
                let bytes = meta::splice_rv_at(&encoded.bytes, encoded.rv_at, revision);
                Ok(Some(Written { bytes, created: false }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(errors::store(&error, self.storage, entry.name())),
        }
    }

    /// Removes an object whose last finalizer this update removed.
    async fn finish_deletion(&self, entry: &Entry, new: &Value) -> Result<Option<Written>, Status> {
        let revision = if self.dry_run { Some(entry.revision) } else { self.remove(entry).await? };
        let encoded = meta::encode(new);
        Ok(revision.map(|revision| Written {
            bytes: meta::splice_rv_at(&encoded.bytes, encoded.rv_at, revision),
            created: false,
        }))
    }

    /// Removes an object from the store as it is; none where someone else wrote first.
    pub(super) async fn remove(&self, entry: &Entry) -> Result<Option<u64>, Status> {
        match self.registry.store().delete(&entry.key, Expect::Revision(entry.revision)).await {
            Ok((_, revision)) => {
                services::release(self.registry, self.storage, entry).await;
                Ok(Some(revision))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(errors::store(&error, self.storage, entry.name())),
        }
    }
}

/// Refuses an object that is too large to be kept.
fn check_size(object: &Bytes) -> Result<(), Status> {
    if object.len() > MAX_OBJECT {
        return Err(Status::too_large(format_args!(
            "the object would have {} bytes, limit is {MAX_OBJECT}",
            object.len()
        )));
    }
    Ok(())
}

/// The object that PUT makes where there is none.
fn create_on_update(change: &mut Change<'_>) -> Result<Value, Status> {
    let mut object = change(&Value::Null)?;
    // A client that names a version means an object that has been there.
    let version = meta::resource_version(&object);
    if !version.is_empty() && version != "0" {
        return Err(Status::conflict("", "", meta::name(&object), "the object does not exist any more"));
    }
    meta::set_text(&mut object, "resourceVersion", "");
    Ok(object)
}

fn put_back(new: &mut Value, old: &Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Everything from `old` but `status` and the metadata that may be written with it; `leaves` may not.
fn keep_status(new: &mut Value, old: &Value, leaves: &[&str]) {
    let Some(fields) = new.as_object_mut() else { return };
    fields.retain(|field, _| matches!(field.as_str(), "metadata" | "status"));
    for (field, value) in old.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "metadata" | "status") {
            fields.insert(field.clone(), value.clone());
        }
    }
    if let (Some(metadata), Some(before)) = (meta::metadata_mut(new), meta::metadata(old)) {
        for field in leaves {
            match before.get(*field) {
                Some(value) => metadata.insert((*field).to_owned(), value.clone()),
                None => metadata.remove(*field),
            };
        }
    }
}

/// Whether anything but metadata and status changed (or, for kinds that count them, annotations).
fn asks_for_more(storage: &Storage, new: &Value, old: &Value) -> bool {
    let (Some(after), Some(before)) = (new.as_object(), old.as_object()) else { return false };
    let relevant = |field: &str| !matches!(field, "metadata" | "status");
    let changed = after.iter().any(|(field, value)| relevant(field) && before.get(field) != Some(value))
        || before.keys().any(|field| relevant(field) && !after.contains_key(field));
    changed || (storage.facts.generation_counts_annotations && meta::annotations(new) != meta::annotations(old))
}

/// Whether an object that is being deleted has nothing left to wait for.
fn deletion_is_due(storage: &Storage, new: &Value, old: &Value) -> bool {
    let namespace_waits = (storage.group, storage.resource) == ("", "namespaces")
        && new.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    meta::deletion_timestamp(old).is_some()
        && meta::deletion_grace_period_seconds(old).unwrap_or(0) == 0
        && meta::finalizers(new).next().is_none()
        && !namespace_waits
}
