//! `serviceaccounts/token`: a signed token for an account, bound to an object's life.

use apimachinery::field::{FieldError, Path};
use apimachinery::resources::Subresource;
use apimachinery::status::Status;
use apimachinery::{meta, time};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::decode;
use crate::auth::tokens::{BoundObject, TokenRequest};
use crate::registry::options::WriteOptions;
use crate::registry::respond::Accepted;
use crate::registry::{Call, convert};
use crate::request::ResponseBody;
use crate::server::respond as answer;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

pub(super) async fn create(
    call: &Call<'_>,
    subresource: &Subresource,
    body: &[u8],
) -> Result<Response<ResponseBody>, Status> {
    let encoding = Accepted::plain(call.accept)?;
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let mut request = decode(call, subresource, options, body)?;
    call.check_name(&request)?;
    let account = object(call, "serviceaccounts", call.namespace, call.name).await?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds, call.name)?;
    let bound = match &request["spec"]["boundObjectRef"] {
        Value::Null => None,
        reference => Some(bound(call, reference).await?),
    };
    let node = match &bound {
        Some((BoundObject { kind, .. }, pod)) if kind == "Pod" => node_of(call, pod).await,
        _ => None,
    };
    let audiences = request["spec"]["audiences"].as_array().into_iter().flatten();
    let signed = call.services.tokens.sign(&TokenRequest {
        namespace: call.namespace.to_owned(),
        service_account: call.name.to_owned(),
        uid: meta::uid(&account).to_owned(),
        audiences: audiences.filter_map(Value::as_str).map(str::to_owned).collect(),
        expiration_seconds: seconds,
        bound: bound.map(|(bound, _)| bound),
        node,
    })?;
    request["metadata"] =
        json!({"name": call.name, "namespace": call.namespace, "creationTimestamp": time::now_rfc3339()});
    request["spec"]["expirationSeconds"] = seconds.into();
    request["spec"]["audiences"] = signed.audiences.into();
    request["status"] = json!({"token": signed.token, "expirationTimestamp": signed.expires});
    Ok(answer::object(StatusCode::CREATED, encoding, &request))
}

fn check_seconds(seconds: i64, name: &str) -> Result<(), Status> {
    let detail = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = Path::new("spec").child("expirationSeconds");
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        name,
        vec![FieldError::invalid(&path, seconds, detail)],
    ))
}

async fn object(call: &Call<'_>, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let cache = call.registry.cache("", resource).await?;
    let key = call.registry.key("", resource, namespace, name)?;
    let entry = cache.get(&key).ok_or_else(|| Status::not_found("", resource, name))?;
    convert::parse(&entry.bytes)
}

/// The object that the token is bound to; it must exist, and a pod must run as the account.
async fn bound(call: &Call<'_>, reference: &Value) -> Result<(BoundObject, Value), Status> {
    let text = |key: &str| reference[key].as_str().unwrap_or("");
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (resource, namespace) = match (text("apiVersion"), kind) {
        ("v1", "Pod") => ("pods", call.namespace),
        ("v1", "Secret") => ("secrets", call.namespace),
        ("v1", "Node") => ("nodes", ""),
        (version, kind) => {
            return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
        }
    };
    let object = object(call, resource, namespace, name).await?;
    if kind == "Pod" && object["spec"]["serviceAccountName"] != call.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            call.name
        )));
    }
    let present = meta::uid(&object);
    if !uid.is_empty() && uid != present {
        return Err(Status::conflict(
            "",
            resource,
            name,
            format_args!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    Ok((BoundObject { kind: kind.to_owned(), name: name.to_owned(), uid: present.to_owned() }, object))
}

/// Name and uid of the node that a pod is on.
async fn node_of(call: &Call<'_>, pod: &Value) -> Option<(String, String)> {
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let node = object(call, "nodes", "", name).await.ok();
    Some((name.to_owned(), node.map(|node| meta::uid(&node).to_owned()).unwrap_or_default()))
}
