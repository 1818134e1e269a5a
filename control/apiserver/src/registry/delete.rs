//! Deletion: preconditions, grace, finalizers, dependents; of one object and of collections.

use std::sync::Arc;

use apimachinery::status::Status;
use apimachinery::{meta, time};
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use store::Entry;

use super::list::{self, ListMeta};
use super::options::{DeleteOptions, ListOptions, Propagation};
use super::read::{Selected, select};
use super::resource::Storage;
use super::write::Writer;
use super::{Call, convert, respond};
use crate::accept::Encoding;
use crate::admission::{Attributes, Operation};
use crate::request::ResponseBody;
use crate::server::respond as answer;

const ATTEMPTS: usize = 64;
/// Deletions of a collection that run at once: enough to share the store's group commits.
const PARALLEL: usize = 32;

/// What became of an object.
pub(crate) enum Deleted {
    /// It is gone.
    Gone {
        /// Its last state, at the deletion's revision.
        last: Bytes,
        uid: String,
    },
    /// It goes later.
    Pending(Bytes),
}

/// What is to be done with an object.
enum Step {
    /// Remove it.
    Remove,
    /// Store it like this; it goes later.
    Mark(Value),
    /// It is already going and nothing changes.
    Leave,
}

/// Answers the deletion of one object.
pub(super) async fn delete(call: &Call<'_>, options: &DeleteOptions) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let accepted = call.accepted()?;
    warn_of_orphans(call, storage, options);
    let deleted = call.writer(options.dry_run)?.delete(call.name, options).await?;
    match deleted {
        Deleted::Gone { last, .. } if storage.facts.returns_deleted => {
            respond::object(StatusCode::OK, call.served, storage, accepted, &last)
        }
        Deleted::Gone { uid, .. } => {
            let mut details = json!({"name": call.name, "kind": storage.resource, "uid": uid});
            if !storage.group.is_empty() {
                details["group"] = storage.group.into();
            }
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            Ok(answer::object(StatusCode::OK, Encoding::liked(call.accept), &status))
        }
        Deleted::Pending(bytes) => {
            let code = if options.cascade_asked { StatusCode::ACCEPTED } else { StatusCode::OK };
            respond::object(code, call.served, storage, accepted, &bytes)
        }
    }
}

/// Answers the deletion of a collection: with the list of what was deleted.
pub(super) async fn delete_collection(
    call: &Call<'_>,
    options: &DeleteOptions,
) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let accepted = call.accepted()?;
    warn_of_orphans(call, storage, options);
    let list = ListOptions::parse(call.query, call.served)?;
    let Selected::Page(page) = select(storage, call.namespace, &list).await? else {
        return Err(super::errors::expired());
    };
    let mut results = futures::stream::iter(page.entries.clone())
        .map(|entry| async move {
            let writer = Writer { namespace: entry.namespace(), ..call.writer(options.dry_run)? };
            match writer.delete(entry.name(), options).await {
                Ok(_) => Ok(()),
                // Someone else was faster.
                Err(status) if status.code == 404 => Ok(()),
                Err(status) => Err(status),
            }
        })
        .buffer_unordered(PARALLEL);
    while let Some(result) = results.next().await {
        result?;
    }
    drop(results);
    let meta = ListMeta { revision: page.meta.revision, ..ListMeta::default() };
    let served = call.served;
    list::list(served.resource, &served.api_version, storage, accepted, &meta, page.entries).await
}

/// Jobs that are deleted without a word on their pods surprise many.
fn warn_of_orphans(call: &Call<'_>, storage: &Storage, options: &DeleteOptions) {
    if storage.resource == "jobs" && options.propagation.is_none() {
        call.warnings.push(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
             set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

impl Writer<'_> {
    /// Deletes an object, at once or later.
    pub(crate) async fn delete(&self, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
        let storage = self.storage;
        let key = storage.key(self.namespace, name);
        let mut cache = storage.cache().await?;
        for attempt in 0..ATTEMPTS {
            let entry = cache.get(&key).ok_or_else(|| storage.not_found(name))?;
            let old = convert::parse(&entry.bytes)?;
            if attempt == 0 {
                self.admit_deletion(name, &old).await?;
            }
            self.check_preconditions(name, &old, options)?;
            let done = match step(storage, &old, options, Timestamp::now()) {
                Step::Leave => Some(Deleted::Pending(entry.bytes.clone())),
                Step::Mark(new) if new == old => Some(Deleted::Pending(entry.bytes.clone())),
                Step::Mark(new) => self.put_changed(&entry, &new).await?.map(|written| Deleted::Pending(written.bytes)),
                Step::Remove => self.remove_now(&entry, &old).await?,
            };
            match done {
                Some(deleted) => return Ok(deleted),
                None => cache = storage.fresh_cache().await?,
            }
        }
        Err(Status::modified(storage.group, storage.resource, name))
    }

    async fn remove_now(&self, entry: &Arc<Entry>, old: &Value) -> Result<Option<Deleted>, Status> {
        let uid = meta::uid(old).to_owned();
        if self.dry_run {
            return Ok(Some(Deleted::Gone { last: entry.bytes.clone(), uid }));
        }
        let Some(revision) = self.remove(entry).await? else { return Ok(None) };
        Ok(Some(Deleted::Gone { last: meta::replace_rv(&entry.bytes, revision), uid }))
    }

    async fn admit_deletion(&self, name: &str, old: &Value) -> Result<(), Status> {
        let name = name.to_owned();
        let mut attributes = Attributes { name, old: Some(old), ..self.attributes(Operation::Delete, "", Value::Null) };
        self.registry.admission().admit(self.registry, &mut attributes).await?;
        self.registry.admission().validate(self.registry, &attributes).await
    }

    /// Refuses to delete another object or another state than the one that is meant.
    pub(super) fn check_preconditions(&self, name: &str, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
        let conflict = |message: String| Status::conflict(self.storage.group, self.storage.resource, name, message);
        let present = meta::uid(old);
        if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != present) {
            return Err(conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({present}). The object might have been deleted and then recreated"
            )));
        }
        let present = meta::resource_version(old);
        if let Some(version) = options.resource_version.as_deref().filter(|version| *version != present) {
            return Err(conflict(format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({present}). The object might have been modified"
            )));
        }
        Ok(())
    }
}

/// What a deletion does to an object.
fn step(storage: &Storage, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let propagation = options.propagation.or_else(|| default_propagation(storage, old));
    let finalizers = finalizers(old, propagation);
    if (storage.group, storage.resource) == ("", "namespaces") {
        return namespace_step(with_finalizers(old, finalizers), now);
    }
    let pending = !finalizers.is_empty();
    if !storage.facts.graceful {
        return if pending { mark(with_finalizers(old, finalizers), now, 0) } else { Step::Remove };
    }
    if let Some(at) = meta::deletion_timestamp(old) {
        let present = meta::deletion_grace_period_seconds(old).unwrap_or(0);
        if present <= 0 {
            return if pending { mark(with_finalizers(old, finalizers), now, 0) } else { Step::Remove };
        }
        return match options.grace {
            Some(grace) if grace < present => {
                // Only a shorter grace is taken; it counts from when the first deletion was asked for.
                let asked = time::parse(at).and_then(|at| at.checked_sub(SignedDuration::from_secs(present)).ok());
                match grace {
                    0 if !pending => Step::Remove,
                    grace => mark_at(with_finalizers(old, finalizers), asked.unwrap_or(now), grace),
                }
            }
            _ => Step::Leave,
        };
    }
    match pod_grace(old, options.grace) {
        0 if !pending => Step::Remove,
        grace => mark(with_finalizers(old, finalizers), now, grace),
    }
}

/// The seconds that a pod has to stop; none where nothing runs.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let text = |at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or("");
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Failed" | "Succeeded") {
        return 0;
    }
    let own = || pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    let grace = asked.or_else(own).unwrap_or(30);
    if grace < 0 { 1 } else { grace }
}

fn mark(new: Value, now: Timestamp, grace: i64) -> Step {
    if meta::deletion_timestamp(&new).is_some() && grace == 0 {
        let mut new = new;
        new["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        return Step::Mark(new);
    }
    mark_at(new, now, grace)
}

fn mark_at(mut new: Value, from: Timestamp, grace: i64) -> Step {
    if meta::deletion_timestamp(&new).is_none() && meta::generation(&new) > 0 {
        new["metadata"]["generation"] = (meta::generation(&new) + 1).into();
    }
    let at = from.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    new["metadata"]["deletionTimestamp"] = time::format_time(at).into();
    new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    Step::Mark(new)
}

/// A namespace goes when the namespace controller has emptied it and taken its finalizer off.
fn namespace_step(mut new: Value, now: Timestamp) -> Step {
    let kept = new.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !kept && meta::finalizers(&new).next().is_none() {
        return Step::Remove;
    }
    new["status"]["phase"] = "Terminating".into();
    if meta::deletion_timestamp(&new).is_some() {
        return Step::Mark(new);
    }
    new["metadata"]["deletionTimestamp"] = time::format_time(now).into();
    Step::Mark(new)
}

/// What happens to dependents where the deletion does not say: the object's finalizers come before its kind.
fn default_propagation(storage: &Storage, object: &Value) -> Option<Propagation> {
    let said = |finalizer| meta::has_finalizer(object, finalizer);
    let orphan = storage.facts.orphans_dependents && !said(meta::ORPHAN_FINALIZER) && !said(meta::FOREGROUND_FINALIZER);
    orphan.then_some(Propagation::Orphan)
}

/// The object's finalizers, with the one that the propagation policy asks for and without the other one.
fn finalizers(object: &Value, propagation: Option<Propagation>) -> Vec<&str> {
    let present = meta::finalizers(object);
    let Some(propagation) = propagation else { return present.collect() };
    let wanted = match propagation {
        Propagation::Orphan => Some(meta::ORPHAN_FINALIZER),
        Propagation::Foreground => Some(meta::FOREGROUND_FINALIZER),
        Propagation::Background => None,
    };
    let other =
        |one: &&str| ![meta::ORPHAN_FINALIZER, meta::FOREGROUND_FINALIZER].contains(one) || Some(*one) == wanted;
    let added = wanted.filter(|wanted| !meta::has_finalizer(object, wanted));
    present.filter(other).chain(added).collect()
}

fn with_finalizers(old: &Value, finalizers: Vec<&str>) -> Value {
    let mut new = old.clone();
    let Some(metadata) = meta::metadata_mut(&mut new) else { return new };
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
    new
}
