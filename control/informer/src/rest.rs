//! Writes, and the few reads that must not be a moment old: objects as JSON values over a `kube::Client`.
//!
//! kube's typed `Api` would need a complete struct for every kind; controllers change a few fields of objects whose other
//! fields they must not lose.

use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::source::error_chain;

/// Requests on objects.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
}

/// Where an object or a collection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

/// How the dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// The object stays until they are deleted.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a deletion asks for.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Only this object, not one re-created under its name.
    pub uid: Option<String>,
    /// Only this state.
    pub resource_version: Option<String>,
    /// Grace instead of the object's own.
    pub grace_period_seconds: Option<i64>,
    /// Instead of the kind's default.
    pub propagation: Option<Propagation>,
}

/// A failed request.
pub type Result<T> = std::result::Result<T, kube::Error>;

// === impl Path ===

impl Path {
    /// A group's version, which lists its resources; `group` is empty for the core's.
    pub fn root(group: &str, version: &str) -> Self {
        Self(if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") })
    }

    /// A collection; `namespace` is empty for cluster-scoped resources and for all namespaces.
    pub fn collection(group: &str, version: &str, resource: &str, namespace: &str) -> Self {
        let root = Self::root(group, version);
        let root = if namespace.is_empty() { root } else { root.child("namespaces").child(namespace) };
        root.child(resource)
    }

    /// An object.
    pub fn object(group: &str, version: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self::collection(group, version, resource, namespace).child(name)
    }

    /// The object `name` of a collection, or the subresource `name` of an object.
    #[must_use]
    pub fn child(mut self, name: &str) -> Self {
        self.0.push('/');
        self.0.push_str(name);
        self
    }

    /// With a query string.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(query);
        self
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Rest ===

impl Rest {
    /// Requests through `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The client underneath.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Reads an object or a collection.
    pub async fn get(&self, path: &Path) -> Result<Value> {
        self.send(Method::GET, path, "application/json", None).await
    }

    /// Reads metadata only.
    pub async fn get_metadata(&self, path: &Path) -> Result<Value> {
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        let request = Request::get(path.as_str()).header(header::ACCEPT, accept).body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    /// Reads an object that may not exist.
    pub async fn get_opt(&self, path: &Path) -> Result<Option<Value>> {
        absent_is_none(self.get(path).await)
    }

    /// Creates an object in a collection, or posts to a subresource.
    pub async fn create(&self, path: &Path, object: &Value) -> Result<Value> {
        self.send(Method::POST, path, "application/json", Some(object)).await
    }

    /// Replaces an object.
    pub async fn update(&self, path: &Path, object: &Value) -> Result<Value> {
        self.send(Method::PUT, path, "application/json", Some(object)).await
    }

    /// Changes an object by a JSON merge patch.
    pub async fn merge(&self, path: &Path, patch: &Value) -> Result<Value> {
        self.send(Method::PATCH, path, "application/merge-patch+json", Some(patch)).await
    }

    /// Changes an object by a strategic merge patch.
    pub async fn strategic_merge(&self, path: &Path, patch: &Value) -> Result<Value> {
        self.send(Method::PATCH, path, "application/strategic-merge-patch+json", Some(patch)).await
    }

    /// Deletes an object or, without a name in the path, a collection.
    pub async fn delete(&self, path: &Path, options: &DeleteOptions) -> Result<Value> {
        self.send(Method::DELETE, path, "application/json", Some(&options.to_value())).await
    }

    async fn send(&self, method: Method, path: &Path, content_type: &str, body: Option<&Value>) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content_type)
            .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }
}

// === impl DeleteOptions ===

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if let Some(uid) = &self.uid {
            value["preconditions"]["uid"] = Value::from(uid.as_str());
        }
        if let Some(revision) = &self.resource_version {
            value["preconditions"]["resourceVersion"] = Value::from(revision.as_str());
        }
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = Value::from(seconds);
        }
        if let Some(propagation) = self.propagation {
            value["propagationPolicy"] = Value::from(format!("{propagation:?}"));
        }
        value
    }
}

/// Not found is no failure.
pub fn absent_is_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// HTTP status code and reason of a refusal.
pub fn refusal(error: &kube::Error) -> Option<(u16, &str)> {
    match error {
        kube::Error::Api(status) => Some((status.code, &status.reason)),
        _ => None,
    }
}

/// What went wrong, in the server's own words if it answered.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        _ => error_chain(error),
    }
}

/// Whether the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(refusal(error), Some((404, _)))
}

/// Whether someone else changed the object first, or a precondition failed.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(refusal(error), Some((409, reason)) if reason != "AlreadyExists")
}

/// Whether the name is taken.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(refusal(error), Some((409, "AlreadyExists")))
}

/// Whether the namespace is on its way out: nothing can be created in it.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            status
                .details
                .iter()
                .flat_map(|details| &details.causes)
                .any(|cause| cause.reason == "NamespaceTerminating")
                || status.message.contains("because it is being terminated")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!((Path::root("", "v1").as_str(), Path::root("apps", "v1").as_str()), ("/api/v1", "/apis/apps/v1"));
        let pods = Path::collection("", "v1", "pods", "a");
        assert_eq!(pods.clone().child("b").child("binding").as_str(), "/api/v1/namespaces/a/pods/b/binding");
        assert_eq!(pods.query("limit=1").query("watch=true").as_str(), "/api/v1/namespaces/a/pods?limit=1&watch=true");
        assert_eq!(Path::object("apps", "v1", "deployments", "", "x").as_str(), "/apis/apps/v1/deployments/x");
    }

    #[test]
    fn delete_options() {
        let options = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::of_uid("u") };
        let want = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "u"}, "propagationPolicy": "Orphan"});
        assert_eq!(options.to_value(), want);
    }
}
