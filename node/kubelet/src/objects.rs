//! ConfigMaps and Secrets that pods here refer to: one watch of exactly each object, shared and dropped with its last user.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use base64::prelude::{BASE64_STANDARD, Engine};
use informer::{Informer, Meta, ObjectKey, Projection, projection};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What a pod takes from a ConfigMap.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ConfigMap {
    metadata: Meta,
    #[serde(deserialize_with = "informer::meta::null_is_default")]
    data: BTreeMap<String, String>,
    #[serde(deserialize_with = "informer::meta::null_is_default")]
    binary_data: BTreeMap<String, String>,
}

/// What a pod takes from a Secret.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Secret {
    metadata: Meta,
    #[serde(deserialize_with = "informer::meta::null_is_default")]
    data: BTreeMap<String, String>,
}

projection!(ConfigMap, "", "v1", "configmaps");

projection!(Secret, "", "v1", "secrets");

/// The keys and bytes of a ConfigMap or Secret.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// An object that has data.
pub(crate) trait HasData: Projection {
    /// Its entries, decoded.
    fn data(&self) -> Data;
}

fn decode(encoded: &BTreeMap<String, String>) -> impl Iterator<Item = (String, Vec<u8>)> {
    // The API server admits valid base64 only.
    encoded.iter().map(|(key, value)| (key.clone(), BASE64_STANDARD.decode(value).unwrap_or_default()))
}

impl ConfigMap {
    fn text(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes()))
    }
}

impl HasData for ConfigMap {
    fn data(&self) -> Data {
        self.text().chain(decode(&self.binary_data)).collect()
    }
}

impl HasData for Secret {
    fn data(&self) -> Data {
        decode(&self.data).collect()
    }
}

struct Watched<T> {
    informer: Informer<T>,
    users: Arc<Mutex<Vec<Weak<Notify>>>>,
    /// Ends the watch with the last handle.
    _guard: DropGuard,
}

/// A pod's hold on one object.
pub(crate) struct Handle<T>(Arc<Watched<T>>, ObjectKey);

impl<T: HasData> Handle<T> {
    /// The object once the API server has told of it; `None` where it does not exist.
    async fn object(&self) -> Option<Arc<T>> {
        self.0.informer.synced().await;
        self.0.informer.get(&self.1)
    }
}

struct Pool<T> {
    entries: Mutex<HashMap<ObjectKey, Weak<Watched<T>>>>,
}

impl<T: HasData> Pool<T> {
    fn new() -> Pool<T> {
        Pool { entries: Mutex::new(HashMap::new()) }
    }

    fn acquire(&self, source: &Source, key: ObjectKey, notify: &Arc<Notify>) -> Handle<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, watched| watched.strong_count() > 0);
        let watched = entries.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watched = Arc::new(source.watch::<T>(&key));
            entries.insert(key.clone(), Arc::downgrade(&watched));
            watched
        });
        drop(entries);
        let mut users = watched.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(notify));
        drop(users);
        Handle(watched, key)
    }
}

struct Source {
    client: kube::Client,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Source {
    fn watch<T: HasData>(&self, key: &ObjectKey) -> Watched<T> {
        let token = self.shutdown.child_token();
        let informer = Informer::<T>::builder(self.client.clone())
            .namespace(key.namespace.clone())
            .field_selector(format!("metadata.name={}", key.name))
            .start(&self.tasks, token.clone());
        let users: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let told = Arc::clone(&users);
        informer.on_event(move |_| {
            for user in told.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
                user.notify_one();
            }
        });
        Watched { informer, users, _guard: token.drop_guard() }
    }
}

/// All such objects of the node.
pub(crate) struct Objects {
    source: Source,
    config_maps: Pool<ConfigMap>,
    secrets: Pool<Secret>,
}

impl Objects {
    /// None yet.
    pub(crate) fn new(client: kube::Client, tasks: TaskTracker, shutdown: CancellationToken) -> Objects {
        Objects { source: Source { client, tasks, shutdown }, config_maps: Pool::new(), secrets: Pool::new() }
    }
}

/// What one pod refers to: handles held as long as the pod is, and a bell that rings when one changes.
pub(crate) struct PodObjects {
    objects: Option<Arc<Objects>>,
    namespace: String,
    changed: Arc<Notify>,
    config_maps: Mutex<HashMap<String, Arc<Handle<ConfigMap>>>>,
    secrets: Mutex<HashMap<String, Arc<Handle<Secret>>>>,
}

impl PodObjects {
    /// Of a pod in this namespace. Without `objects` (a static pod, a test) nothing is ever found.
    pub(crate) fn new(objects: Option<Arc<Objects>>, namespace: &str) -> PodObjects {
        PodObjects {
            objects,
            namespace: namespace.to_owned(),
            changed: Arc::default(),
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    /// Rings after any of the objects changed.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Entries of a ConfigMap.
    pub(crate) async fn config_map(&self, name: &str) -> Option<Data> {
        Some(self.config_map_object(name).await?.data())
    }

    /// Those entries of a ConfigMap that are text: variables are made of no others.
    pub(crate) async fn config_map_text(&self, name: &str) -> Option<Data> {
        Some(self.config_map_object(name).await?.text().collect())
    }

    async fn config_map_object(&self, name: &str) -> Option<Arc<ConfigMap>> {
        let objects = self.objects.as_ref()?;
        let handle = {
            let mut held = self.config_maps.lock().unwrap_or_else(PoisonError::into_inner);
            let key = ObjectKey::new(self.namespace.clone(), name);
            let acquire = || Arc::new(objects.config_maps.acquire(&objects.source, key, &self.changed));
            Arc::clone(held.entry(name.to_owned()).or_insert_with(acquire))
        };
        handle.object().await
    }

    /// Entries of a Secret.
    pub(crate) async fn secret(&self, name: &str) -> Option<Data> {
        let objects = self.objects.as_ref()?;
        let handle = {
            let mut held = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            let key = ObjectKey::new(self.namespace.clone(), name);
            let acquire = || Arc::new(objects.secrets.acquire(&objects.source, key, &self.changed));
            Arc::clone(held.entry(name.to_owned()).or_insert_with(acquire))
        };
        Some(handle.object().await?.data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_s_bytes_are_files_and_no_variables() {
        let text = r#"{"metadata":{},"data":{"a":"1"},"binaryData":{"b":"AAH/"}}"#;
        let map: ConfigMap = serde_json::from_str(text).unwrap();
        assert_eq!(map.data(), Data::from([("a".into(), b"1".to_vec()), ("b".into(), vec![0, 1, 255])]));
        assert_eq!(map.text().map(|(key, _)| key).collect::<Vec<_>>(), ["a"]);
    }
}
