//! Objects of any kind through the API server: found by discovery, created, merged three ways, deleted.

use apimachinery::gvk::{self, Gvk};
use apimachinery::patch::three_way;
use apimachinery::schema::Schema;
use informer::rest::{self, DeleteOptions, Path, Propagation, Rest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What was applied last, for the next three-way merge.
const APPLIED: &str = "manifests.keelson.dev/last-applied";
/// The file that an object is from.
const FILE: &str = "manifests.keelson.dev/file";
/// How often a write is tried again that another was faster than.
const TRIES: usize = 5;

/// Names an object, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectId {
    pub api_version: String,
    pub kind: String,
    /// Empty for an object of the cluster.
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{separator}{} ({})", self.kind, self.namespace, self.name, self.api_version)
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Updated,
    Unchanged,
}

/// A client that knows which resource a kind is. Made anew for each pass, since custom resources come and go.
pub(super) struct Api {
    rest: Rest,
    /// By group and version: resource and whether it is namespaced, by kind.
    known: HashMap<String, HashMap<String, (String, bool)>>,
}

impl Api {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { rest: Rest::new(client), known: HashMap::new() }
    }

    /// Names the object, with the namespace that it gets where it says none.
    pub(super) async fn identify(&mut self, object: &Value) -> Result<ObjectId, String> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut id = ObjectId {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        };
        let (_, namespaced) = self.resource(&id.api_version, &id.kind).await?;
        if !namespaced {
            id.namespace.clear();
        } else if id.namespace.is_empty() {
            id.namespace = "default".to_owned();
        }
        Ok(id)
    }

    /// Creates the object, or merges what the file says now into what is there.
    pub(super) async fn apply(&mut self, id: &ObjectId, file: &str, object: &Value) -> Result<Outcome, String> {
        let wanted = annotated(object, id, file);
        for _ in 0..TRIES {
            let Some(current) = self.get(id).await? else {
                match self.rest.create(&self.collection(id)?, &wanted).await {
                    Ok(_) => return Ok(Outcome::Created),
                    Err(error) if rest::is_already_exists(&error) => continue,
                    Err(error) => return Err(rest::message(&error)),
                }
            };
            let last = current["metadata"]["annotations"][APPLIED].as_str();
            let last = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            let merged = three_way(&last, &current, &wanted, schema(id));
            if merged == current {
                return Ok(Outcome::Unchanged);
            }
            match self.rest.update(&self.object(id)?, &merged).await {
                Ok(now) if now["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"] => {
                    return Ok(Outcome::Unchanged);
                }
                Ok(_) => return Ok(Outcome::Updated),
                Err(error) if rest::is_conflict(&error) => {}
                Err(error) => return Err(rest::message(&error)),
            }
        }
        Err("others keep changing it".to_owned())
    }

    /// Deletes an object that is still this file's; whether it was there.
    pub(super) async fn prune(&mut self, id: &ObjectId, file: &str) -> Result<bool, String> {
        // A kind that is gone took its objects along.
        if self.resource(&id.api_version, &id.kind).await.is_err() {
            return Ok(false);
        }
        let Some(current) = self.get(id).await? else { return Ok(false) };
        if current["metadata"]["annotations"][FILE].as_str() != Some(file) {
            return Ok(false);
        }
        let uid = current["metadata"]["uid"].as_str().unwrap_or_default();
        let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of_uid(uid) };
        match self.rest.delete(&self.object(id)?, &options).await {
            Ok(_) => Ok(true),
            Err(error) if rest::is_not_found(&error) || rest::is_conflict(&error) => Ok(false),
            Err(error) => Err(rest::message(&error)),
        }
    }

    /// The object as it is.
    pub(super) async fn get(&mut self, id: &ObjectId) -> Result<Option<Value>, String> {
        self.resource(&id.api_version, &id.kind).await?;
        self.rest.get_opt(&self.object(id)?).await.map_err(|error| rest::message(&error))
    }

    /// Creates the object, or replaces the revision that it is of.
    pub(super) async fn write(&mut self, id: &ObjectId, object: &Value) -> Result<Value, String> {
        let written = if object["metadata"]["resourceVersion"].is_string() {
            self.rest.update(&self.object(id)?, object).await
        } else {
            self.rest.create(&self.collection(id)?, object).await
        };
        written.map_err(|error| rest::message(&error))
    }

    async fn resource(&mut self, api_version: &str, kind: &str) -> Result<(String, bool), String> {
        if !self.known.contains_key(api_version) {
            let list = match gvk::parse_api_version(api_version) {
                Some((group, version)) => self.rest.get_opt(&Path::root(group, version)).await,
                None => Ok(None),
            };
            let list = list.map_err(|error| rest::message(&error))?.unwrap_or_default();
            self.known.insert(api_version.to_owned(), resources(&list));
        }
        let found = self.known.get(api_version).and_then(|kinds| kinds.get(kind)).cloned();
        found.ok_or_else(|| format!("no kind {kind} in {api_version} is served"))
    }

    /// The object's collection; its kind has been looked up.
    fn collection(&self, id: &ObjectId) -> Result<Path, String> {
        let found = self.known.get(&id.api_version).and_then(|kinds| kinds.get(&id.kind));
        let unknown = || format!("no kind {} in {} is known", id.kind, id.api_version);
        let (resource, _) = found.ok_or_else(unknown)?;
        let (group, version) = gvk::parse_api_version(&id.api_version).ok_or_else(unknown)?;
        Ok(Path::collection(group, version, resource, &id.namespace))
    }

    fn object(&self, id: &ObjectId) -> Result<Path, String> {
        Ok(self.collection(id)?.child(&id.name))
    }
}

fn resources(list: &Value) -> HashMap<String, (String, bool)> {
    let all = list["resources"].as_array().into_iter().flatten();
    let whole = all.filter_map(|resource| {
        let name = resource["name"].as_str().filter(|name| !name.contains('/'))?;
        let kind = resource["kind"].as_str()?;
        Some((kind.to_owned(), (name.to_owned(), resource["namespaced"] == true)))
    });
    whole.collect()
}

fn schema(id: &ObjectId) -> Option<&'static Schema> {
    let (group, version) = gvk::parse_api_version(&id.api_version)?;
    Schema::of(&Gvk::new(group, version, id.kind.as_str()))
}

/// The object with its namespace, and annotated with its file and with itself.
fn annotated(object: &Value, id: &ObjectId, file: &str) -> Value {
    let mut wanted = object.clone();
    if !id.namespace.is_empty() {
        wanted["metadata"]["namespace"] = id.namespace.as_str().into();
    }
    if !wanted["metadata"]["annotations"].is_object() {
        wanted["metadata"]["annotations"] = json!({});
    }
    wanted["metadata"]["annotations"][FILE] = file.into();
    let applied = wanted.to_string();
    wanted["metadata"]["annotations"][APPLIED] = applied.into();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_discovery() {
        let list = json!({"resources": [
            {"name": "pods", "kind": "Pod", "namespaced": true}, {"name": "pods/log", "kind": "Pod", "namespaced": true},
            {"name": "nodes", "kind": "Node", "namespaced": false}]});
        let found = resources(&list);
        assert_eq!(found["Pod"], ("pods".to_owned(), true));
        assert_eq!(found["Node"], ("nodes".to_owned(), false));
    }

    #[test]
    fn an_object_carries_what_was_applied() {
        let id = ObjectId {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: "default".into(),
            name: "a".into(),
        };
        let wanted = annotated(&json!({"metadata": {"name": "a"}, "data": {"k": "v"}}), &id, "a.yaml");
        let annotations = &wanted["metadata"]["annotations"];
        assert_eq!(annotations[FILE], "a.yaml");
        let last: Value = serde_json::from_str(annotations[APPLIED].as_str().unwrap()).unwrap();
        assert_eq!(last["data"], json!({"k": "v"}));
        assert_eq!(last["metadata"]["namespace"], "default");
        assert!(last["metadata"]["annotations"][APPLIED].is_null(), "not itself again");
        assert_eq!(id.to_string(), "ConfigMap default/a (v1)");
    }
}
