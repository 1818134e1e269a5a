//! Writes the default roles and bindings at start, all at once so that they share the store's commits.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::stream::{FuturesUnordered, StreamExt};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::{Default, defaults, reconcile};
use crate::auth::authenticate::InProcess;
use crate::auth::{MASTERS, User};
use crate::server::{Inner, body};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Brings the default objects of the cluster's scope, or those in namespaces, up to date.
pub(crate) async fn ensure(inner: &Arc<Inner>, namespaced: bool) -> Result<(), (String, Status)> {
    let user = Arc::new(User::new("system:apiserver", &[MASTERS]));
    let mut writes = FuturesUnordered::new();
    for default in defaults().into_iter().filter(|default| default.namespace.is_empty() != namespaced) {
        let found = inner.existing(GROUP, default.kind.resource(), &default.namespace, &default.name);
        let request = match found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
            None => Some((Method::POST, collection(&default), default.object)),
            Some(found) => {
                let path = format!("{}/{}", collection(&default), default.name);
                reconcile(&found, &default).map(|merged| (Method::PUT, path, merged))
            }
        };
        if let Some((method, path, object)) = request {
            writes.push(write(inner.clone(), user.clone(), method, path, object));
        }
    }
    while let Some(done) = writes.next().await {
        done?;
    }
    Ok(())
}

fn collection(default: &Default) -> String {
    let base = format!("/apis/{GROUP}/v1");
    let resource = default.kind.resource();
    if default.namespace.is_empty() {
        format!("{base}/{resource}")
    } else {
        format!("{base}/namespaces/{}/{resource}", default.namespace)
    }
}

async fn write(
    inner: Arc<Inner>,
    user: Arc<User>,
    method: Method,
    path: String,
    object: Value,
) -> Result<(), (String, Status)> {
    let action = format!("write the default object at {path}");
    let mut request = Request::new(body::boxed(Full::new(bytes::Bytes::from(object.to_string()))));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| (action.clone(), Status::internal(error)))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.extensions_mut().insert(InProcess(user));
    let response = inner.handle(request).await;
    if response.status().is_success() || response.status() == http::StatusCode::CONFLICT {
        return Ok(());
    }
    let code = response.status();
    let answer = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status = serde_json::from_slice::<Value>(&answer).ok().and_then(|value| Status::from_value(&value));
    Err((action, status.unwrap_or_else(|| Status::internal(format!("answered with {code}")))))
}
