//! Subresources that are more than a part of their object: one small module each.

mod binding;
mod eviction;
mod parts;
mod scale;
mod token;

use apimachinery::gvk::api_version;
use apimachinery::resources::Subresource;
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Call;
use super::body::{self, Expected};
use super::options::WriteOptions;
use crate::accept::Encoding;
use crate::request::{ResponseBody, Verb};
use crate::server::respond as answer;

pub(super) use binding::legacy as legacy_binding;

/// Answers a request to a subresource other than `status`.
pub(super) async fn handle(
    call: &Call<'_>,
    subresource: &'static Subresource,
    body: Bytes,
) -> Result<Response<ResponseBody>, Status> {
    match (call.served.group(), call.served.name(), &*subresource.name) {
        (_, _, "scale") => scale::handle(call, subresource, body).await,
        ("", "pods", "binding") => binding::create(call, subresource, &body).await,
        ("", "pods", "eviction") => eviction::create(call, subresource, &body).await,
        ("", "serviceaccounts", "token") => token::create(call, subresource, &body).await,
        (group, resource, name) => {
            let part = parts::of(group, resource, name).ok_or_else(Status::page_not_found)?;
            match call.verb {
                Verb::Get => super::read::get(call).await,
                Verb::Update => call.update(part, body).await,
                Verb::Patch => call.patch(part, body).await,
                _ => Err(call.unsupported()),
            }
        }
    }
}

/// Decodes the body of a subresource that has a kind of its own.
fn decode(call: &Call<'_>, subresource: &Subresource, options: WriteOptions, bytes: &[u8]) -> Result<Value, Status> {
    let version = api_version(&subresource.group, &subresource.version);
    let expected = Expected { api_version: &version, kind: &subresource.kind, schema: schema(subresource) };
    body::decode(bytes, call.content_type, expected, options.validation, call.warnings)
}

fn schema(subresource: &Subresource) -> Option<&'static Schema> {
    Schema::of(&apimachinery::gvk::Gvk::new(&*subresource.group, &*subresource.version, &*subresource.kind))
}

/// The answer of actions that leave nothing to show.
fn success(call: &Call<'_>) -> Response<ResponseBody> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    answer::object(StatusCode::CREATED, Encoding::liked(call.accept), &status)
}
