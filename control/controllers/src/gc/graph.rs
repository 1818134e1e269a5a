//! Who owns whom. Synchronous: events go in, keys of objects to look at come out.
//!
//! There is an entry for every object of the cluster, so it is small: identities are numbers, resources are shared.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use apimachinery::resources::Resource;
use informer::meta::null_is_default;
use informer::{OwnerReference, source::Revisioned};
use serde::Deserialize;

/// A uid as a number; other texts are hashed into one.
pub(super) type Uid = u128;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is read of each object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Partial {
    pub(super) metadata: PartialMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PartialMeta {
    pub(super) name: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) uid: String,
    resource_version: String,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) owner_references: Vec<OwnerReference>,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) finalizers: Vec<String>,
}

impl Revisioned for Partial {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Index of its resource.
    pub(super) resource: u16,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    /// What an owner reference to it says besides its uid.
    identity: Identity,
    owners: Box<[Owner]>,
    pub(super) deleting: bool,
    /// Being deleted, and waits for its dependents.
    pub(super) foreground: bool,
    /// Being deleted, and its dependents are to stay.
    pub(super) orphaning: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    uid: Uid,
    /// What the reference calls it.
    identity: Identity,
    blocks: bool,
}

/// Group, kind and name of an object, hashed.
type Identity = u64;

fn identity(group: &str, kind: &str, name: &str) -> Identity {
    let mut hasher = DefaultHasher::new();
    (group, kind, name).hash(&mut hasher);
    hasher.finish()
}

impl From<&OwnerReference> for Owner {
    fn from(reference: &OwnerReference) -> Self {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        Self {
            uid: parse_uid(&reference.uid),
            identity: identity(group, &reference.kind, &reference.name),
            blocks: reference.block_owner_deletion == Some(true),
        }
    }
}

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Task {
    /// Whether this object still has a reason to be.
    Check(Uid),
    /// This object goes and leaves its dependents behind.
    Orphan(Uid),
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    entries: HashMap<Uid, Entry>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

pub(super) fn parse_uid(text: &str) -> Uid {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    u128::from_str_radix(&digits, 16).unwrap_or_else(|_| {
        // FNV-1a.
        let step =
            |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, step)
    })
}

impl Graph {
    /// An object of the resource with this number is new or changed. `settled` says that all resources are known, so that an
    /// unknown owner is worth a look.
    pub(super) fn upsert(&mut self, number: u16, resource: &Resource, object: Partial, settled: bool) -> Vec<Task> {
        let meta = object.metadata;
        let uid = parse_uid(&meta.uid);
        let owners: Box<[Owner]> = meta.owner_references.iter().map(Owner::from).collect();
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().any(|known| known == finalizer);
        let entry = Entry {
            resource: number,
            identity: identity(&resource.group, &resource.kind, &meta.name),
            namespace: meta.namespace,
            name: meta.name,
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
            owners,
        };
        let before = self.entries.insert(uid, entry.clone());
        let old_owners = before.as_ref().map(|before| before.owners.as_ref()).unwrap_or_default();
        let mut tasks = Vec::new();
        for owner in old_owners.iter().filter(|old| !entry.owners.iter().any(|new| new.uid == old.uid)) {
            self.unlink(owner.uid, uid);
        }
        for owner in &entry.owners {
            self.dependents.entry(owner.uid).or_default().insert(uid);
        }
        let changed = *old_owners != *entry.owners;
        if changed && settled {
            if self.is_suspect(&entry) {
                tasks.push(Task::Check(uid));
            }
            // An owner that waits for dependents may have waited for this one.
            tasks.extend(self.waiting(old_owners));
        }
        let newly = |is: fn(&Entry) -> bool| is(&entry) && before.as_ref().is_none_or(|before| !is(before));
        if newly(|entry| entry.orphaning) {
            tasks.push(Task::Orphan(uid));
        }
        if newly(|entry| entry.foreground) {
            tasks.push(Task::Check(uid));
            tasks.extend(self.dependents_of(uid).map(|(dependent, _)| Task::Check(dependent)));
        }
        tasks
    }

    /// An object is gone.
    pub(super) fn delete(&mut self, uid: &str) -> Vec<Task> {
        let uid = parse_uid(uid);
        let Some(entry) = self.entries.remove(&uid) else { return Vec::new() };
        for owner in &entry.owners {
            self.unlink(owner.uid, uid);
        }
        let mut tasks: Vec<Task> = self.dependents_of(uid).map(|(dependent, _)| Task::Check(dependent)).collect();
        tasks.extend(self.waiting(&entry.owners));
        tasks
    }

    /// All resources are known now: what is to be looked at of what came before.
    pub(super) fn settle(&self) -> Vec<Task> {
        let suspects = self.entries.iter().filter(|(_, entry)| self.is_suspect(entry));
        suspects.map(|(uid, _)| Task::Check(*uid)).collect()
    }

    /// Whether an owner of this object is not known, is another than the reference says, is waiting for its dependents, or is
    /// in another namespace, where it can own nothing of this one.
    fn is_suspect(&self, entry: &Entry) -> bool {
        let strange = |namespace: &str| !namespace.is_empty() && *namespace != *entry.namespace;
        let suspect = |reference: &Owner| {
            self.entries.get(&reference.uid).is_none_or(|owner| {
                owner.foreground || owner.identity != reference.identity || strange(&owner.namespace)
            })
        };
        entry.owners.iter().any(suspect)
    }

    pub(super) fn get(&self, uid: Uid) -> Option<&Entry> {
        self.entries.get(&uid)
    }

    /// An object's dependents, and whether each of them blocks its foreground deletion.
    pub(super) fn dependents_of(&self, uid: Uid) -> impl Iterator<Item = (Uid, bool)> {
        let blocks = move |dependent: &Uid| {
            self.entries
                .get(dependent)
                .is_some_and(|entry| entry.owners.iter().any(|owner| owner.uid == uid && owner.blocks))
        };
        self.dependents.get(&uid).into_iter().flatten().map(move |dependent| (*dependent, blocks(dependent)))
    }

    /// The uids of a resource's objects, for finding out which have vanished.
    pub(super) fn of_resource(&self, resource: u16) -> impl Iterator<Item = Uid> {
        self.entries.iter().filter(move |(_, entry)| entry.resource == resource).map(|(uid, _)| *uid)
    }

    pub(super) fn delete_uid(&mut self, uid: Uid) -> Vec<Task> {
        // Numbers print as they parse.
        self.delete(&format!("{uid:032x}"))
    }

    fn waiting(&self, owners: &[Owner]) -> Vec<Task> {
        let waits = |owner: &&Owner| self.entries.get(&owner.uid).is_some_and(|entry| entry.foreground);
        owners.iter().filter(waits).map(|owner| Task::Check(owner.uid)).collect()
    }

    fn unlink(&mut self, owner: Uid, dependent: Uid) {
        if let Some(dependents) = self.dependents.get_mut(&owner) {
            dependents.remove(&dependent);
            if dependents.is_empty() {
                self.dependents.remove(&owner);
            }
        }
    }
}

/// How an owner reference stands, by a fresh look at the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// It is gone, or another object has its name.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What becomes of an object whose owners stand so.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It has an owner left: only these references (by index) go.
    Release(Vec<usize>),
    /// All owners are gone. `foreground`: an owner waits for this object and what depends on it.
    Delete {
        foreground: bool,
    },
}

pub(super) fn judge(owners: &[OwnerState], has_dependents: bool) -> Verdict {
    let of = |state| owners.iter().filter(move |owner| **owner == state).count();
    let not_solid = || (0..owners.len()).filter(|at| owners[*at] != OwnerState::Solid).collect::<Vec<_>>();
    match (of(OwnerState::Solid), of(OwnerState::Waiting)) {
        _ if owners.is_empty() => Verdict::Keep,
        (1.., _) if not_solid().is_empty() => Verdict::Keep,
        (1.., _) => Verdict::Release(not_solid()),
        (0, waiting) => Verdict::Delete { foreground: waiting > 0 && has_dependents },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::resources;
    use serde_json::{Value, json};

    fn object(uid: &str, owners: &[(&str, bool)], deleting: Option<&str>) -> Partial {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(uid, blocks)| json!({"apiVersion": "v1", "kind": "ConfigMap", "uid": uid, "name": uid, "blockOwnerDeletion": blocks}))
            .collect();
        let mut value = json!({"metadata": {"name": uid, "uid": uid, "ownerReferences": owners}});
        if let Some(finalizer) = deleting {
            value["metadata"]["deletionTimestamp"] = json!("now");
            value["metadata"]["finalizers"] = json!([finalizer]);
        }
        serde_json::from_value(value).unwrap()
    }

    fn upsert(graph: &mut Graph, object: Partial, settled: bool) -> Vec<Task> {
        graph.upsert(3, resources::find_kind("", "v1", "ConfigMap").unwrap(), object, settled)
    }

    fn check(uid: &str) -> Task {
        Task::Check(parse_uid(uid))
    }

    #[test]
    fn the_deletion_of_an_owner_concerns_its_dependents() {
        let mut graph = Graph::default();
        assert_eq!(upsert(&mut graph, object("a", &[], None), true), []);
        assert_eq!(upsert(&mut graph, object("b", &[("a", true)], None), true), []);
        assert_eq!(upsert(&mut graph, object("c", &[("zz", false)], None), true), [check("c")], "unknown owner");
        assert_eq!(graph.delete("a"), [check("b")]);
        assert_eq!(graph.delete("a"), []);
        assert_eq!(graph.delete("b"), []);
    }

    #[test]
    fn before_all_is_known_nothing_is_suspect() {
        let mut graph = Graph::default();
        assert_eq!(upsert(&mut graph, object("b", &[("a", true)], None), false), []);
        assert_eq!(graph.settle(), [check("b")]);
        upsert(&mut graph, object("a", &[], None), false);
        assert_eq!(graph.settle(), []);
    }

    #[test]
    fn owners_elsewhere_or_of_another_name_are_suspect() {
        let inside = |namespace: &str, object: Partial| Partial {
            metadata: PartialMeta { namespace: namespace.into(), ..object.metadata },
        };
        let mut graph = Graph::default();
        upsert(&mut graph, inside("x", object("a", &[], None)), false);
        upsert(&mut graph, object("cluster", &[], None), false);
        upsert(&mut graph, inside("y", object("b", &[("a", true)], None)), false);
        upsert(&mut graph, inside("x", object("c", &[("a", true), ("cluster", true)], None)), false);
        assert_eq!(graph.settle(), [check("b")]);
        assert_eq!(upsert(&mut graph, inside("y", object("d", &[("a", true)], None)), true), [check("d")]);
        assert_eq!(upsert(&mut graph, inside("x", object("e", &[("a", true)], None)), true), []);
        let other: [fn(&mut OwnerReference); 3] = [
            |owner| owner.name = "b".into(),
            |owner| owner.kind = "Secret".into(),
            |owner| owner.api_version = "apps/v1".into(),
        ];
        for other in other {
            let mut misnamed = inside("x", object("f", &[("a", true)], None));
            other(&mut misnamed.metadata.owner_references[0]);
            let mut early = Graph::default();
            upsert(&mut early, inside("x", object("a", &[], None)), false);
            upsert(&mut early, misnamed.clone(), false);
            assert_eq!(early.settle(), [check("f")], "{misnamed:?}");
            assert_eq!(upsert(&mut graph, misnamed, true), [check("f")]);
            graph.delete("f");
        }
    }

    #[test]
    fn foreground_deletion_waits_for_those_that_block() {
        let mut graph = Graph::default();
        upsert(&mut graph, object("a", &[], None), true);
        upsert(&mut graph, object("b", &[("a", true)], None), true);
        assert_eq!(upsert(&mut graph, object("a", &[], Some(FOREGROUND)), true), [check("a"), check("b")]);
        assert_eq!(upsert(&mut graph, object("a", &[], Some(FOREGROUND)), true), [], "told once");
        assert_eq!(graph.dependents_of(parse_uid("a")).collect::<Vec<_>>(), [(parse_uid("b"), true)]);
        assert_eq!(graph.delete("b"), [check("a")]);
        assert_eq!(upsert(&mut graph, object("d", &[("a", false)], None), true), [check("d")], "owner on its way out");
        assert_eq!(upsert(&mut graph, object("d", &[], None), true), [check("a")], "released");
    }

    #[test]
    fn orphaning_is_told() {
        let mut graph = Graph::default();
        assert_eq!(upsert(&mut graph, object("a", &[], Some(ORPHAN)), true), [Task::Orphan(parse_uid("a"))]);
    }

    #[test]
    fn verdicts() {
        use OwnerState::{Dangling, Solid, Waiting};
        let cases: [(&[OwnerState], bool, Verdict); 8] = [
            (&[], true, Verdict::Keep),
            (&[Solid], true, Verdict::Keep),
            (&[Solid, Dangling], false, Verdict::Release(vec![1])),
            (&[Waiting, Solid], false, Verdict::Release(vec![0])),
            (&[Dangling], true, Verdict::Delete { foreground: false }),
            (&[Dangling, Waiting], true, Verdict::Delete { foreground: true }),
            (&[Waiting], false, Verdict::Delete { foreground: false }),
            (&[Dangling, Dangling], false, Verdict::Delete { foreground: false }),
        ];
        for (owners, dependents, want) in cases {
            assert_eq!(judge(owners, dependents), want, "{owners:?}");
        }
    }

    #[test]
    fn uids() {
        assert_eq!(parse_uid("00000000-0000-0000-0000-0000000000ff"), 255);
        assert_ne!(parse_uid("not a uid"), parse_uid("another"));
        let mut graph = Graph::default();
        upsert(&mut graph, object("00000000-0000-0000-0000-0000000000ff", &[], None), true);
        assert_eq!(graph.of_resource(3).collect::<Vec<_>>(), [255]);
        graph.delete_uid(255);
        assert!(graph.get(255).is_none());
    }
}
