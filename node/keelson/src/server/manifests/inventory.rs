//! Which objects the manifests have given: a ConfigMap in the cluster, backed up and restored with what it names.

use super::api::{Api, ObjectId};
use informer::recorder::ObjectRef;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "keelson-manifests";
/// The ConfigMap's one key.
const OBJECTS: &str = "objects";

/// Objects with their files.
#[derive(Debug)]
pub(super) struct Inventory {
    pub objects: BTreeMap<ObjectId, String>,
    /// The ConfigMap as it is; null where there is none.
    saved: Value,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    id: ObjectId,
    file: String,
}

fn config_map() -> ObjectId {
    ObjectId {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: NAME.to_owned(),
    }
}

/// What Events about manifests are about.
pub(super) fn object_ref() -> ObjectRef {
    let ObjectId { api_version, kind, namespace, name } = config_map();
    ObjectRef { api_version, kind, namespace, name, ..ObjectRef::default() }
}

impl Inventory {
    /// Reads it back. One that cannot be understood is refused: what it names would never be pruned.
    pub(super) async fn load(api: &mut Api) -> Result<Self, String> {
        let saved = api.get(&config_map()).await?.unwrap_or_default();
        let text = saved["data"][OBJECTS].as_str().unwrap_or("[]");
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|error| {
            format!("ConfigMap {NAMESPACE}/{NAME}: key {OBJECTS} is not what keelson wrote: {error}")
        })?;
        Ok(Self { objects: entries.into_iter().map(|entry| (entry.id, entry.file)).collect(), saved })
    }

    /// Writes it, where it has changed.
    pub(super) async fn save(&mut self, api: &mut Api) -> Result<(), String> {
        let entries: Vec<Entry> =
            self.objects.iter().map(|(id, file)| Entry { id: id.clone(), file: file.clone() }).collect();
        let text = serde_json::to_string(&entries).map_err(|error| error.to_string())?;
        if self.saved["data"][OBJECTS] == text {
            return Ok(());
        }
        let id = config_map();
        let mut wanted = self.saved.clone();
        if wanted.is_null() {
            wanted = json!({"apiVersion": id.api_version, "kind": id.kind, "metadata": {"name": NAME, "namespace": NAMESPACE}});
        }
        wanted["data"] = json!({OBJECTS: text});
        self.saved = api.write(&id, &wanted).await?;
        Ok(())
    }
}
