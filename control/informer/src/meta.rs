//! The metadata every projection holds, and the key it is known by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// The fields of one resource that a component needs, read straight from an object's bytes.
pub trait Projection: DeserializeOwned + Send + Sync + 'static {
    /// API group, empty for the core group.
    const GROUP: &'static str;
    /// API version, e.g. `v1`.
    const VERSION: &'static str;
    /// Plural resource name, e.g. `pods`.
    const RESOURCE: &'static str;

    /// The object's metadata.
    fn meta(&self) -> &Meta;

    /// The object's key.
    fn key(&self) -> ObjectKey {
        self.meta().key()
    }
}

/// Makes a struct with a field `metadata` the projection of a resource: `projection!(Pod, "", "v1", "pods");`.
#[macro_export]
macro_rules! projection {
    ($kind:ty, $group:literal, $version:literal, $resource:literal) => {
        impl $crate::Projection for $kind {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const RESOURCE: &'static str = $resource;

            fn meta(&self) -> &$crate::Meta {
                &self.metadata
            }
        }
    };
}

/// `metadata` without managedFields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// The identity that survives no re-creation.
    pub uid: String,
    /// Revision of this state, as an opaque string.
    pub resource_version: String,
    /// Rises with the desired state.
    pub generation: i64,
    /// Labels.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, without kubectl's last-applied copy of the whole object.
    #[serde(deserialize_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    #[serde(deserialize_with = "null_is_default")]
    pub owner_references: Vec<OwnerReference>,
    /// When deletion was asked for (RFC 3339).
    pub deletion_timestamp: Option<String>,
    /// Grace given at deletion.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Finalizers.
    #[serde(deserialize_with = "null_is_default")]
    pub finalizers: Vec<String>,
    /// When it was created (RFC 3339).
    pub creation_timestamp: Option<String>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Uid of the owner.
    pub uid: String,
    /// Whether the owner is the managing controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

// === impl ObjectKey ===

impl ObjectKey {
    /// Key of a namespaced object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl FromStr for ObjectKey {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::cluster(text),
        })
    }
}

// === impl Meta ===

impl Meta {
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone(), self.name.clone())
    }

    /// The owner that manages this object, if any.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// For fields that other writers may leave as an explicit null.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all: BTreeMap<String, String> = null_is_default(deserializer)?;
    all.remove("kubectl.kubernetes.io/last-applied-configuration");
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_print_and_parse() {
        for (text, namespace, name) in [("a/b", "a", "b"), ("node", "", "node")] {
            let key: ObjectKey = text.parse().unwrap();
            assert_eq!(key, ObjectKey::new(namespace, name));
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn nulls_and_last_applied_are_dropped() {
        let meta: Meta = serde_json::from_str(
            r#"{"name":"x","labels":null,"ownerReferences":null,"finalizers":null,"managedFields":[{"a":1}],
                "annotations":{"a":"b","kubectl.kubernetes.io/last-applied-configuration":"{}"}}"#,
        )
        .unwrap();
        assert_eq!(meta.annotations.len(), 1);
        assert!(meta.labels.is_empty() && meta.finalizers.is_empty() && meta.controller().is_none());
    }
}
