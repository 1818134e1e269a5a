//! Patches: JSON patch, JSON merge patch and strategic merge patch, applied to the newest state.

use apimachinery::decode::{self, FieldValidation, Media};
use apimachinery::patch;
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::body::{self, Expected};
use crate::request::Warnings;

/// The media types of patches.
const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// A patch, read.
pub(super) enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch of the type that the request names.
    pub(super) fn parse(content_type: &str, body: Bytes) -> Result<Self, Status> {
        let media = content_type.split(';').next().unwrap_or("").trim();
        match media {
            "application/json-patch+json" => Ok(Self::Json(body)),
            "application/merge-patch+json" => Ok(Self::Merge(object(&body)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(object(&body)?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(Status::unsupported_media_type(format!(
                    "server-side apply is not supported by this version of the server; use client-side apply, or one of: {TYPES}"
                )))
            }
            _ => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {TYPES}"
            ))),
        }
    }

    /// Applies the patch to an object of the kind `expected`, and checks the result.
    pub(super) fn apply(
        &self,
        current: &Value,
        expected: Expected<'_>,
        validation: FieldValidation,
        warnings: &Warnings,
    ) -> Result<Value, Status> {
        let mut patched = match self {
            Self::Json(bytes) => patch::json_patch(current, bytes)?,
            Self::Merge(value) => patch::merge_patch(current, value),
            Self::Strategic(value) => patch::strategic_merge(current, value, strategic_schema(expected)?)?,
        };
        body::check_kind(&mut patched, expected)?;
        if let Some(schema) = expected.schema {
            for warning in decode::check(schema, &mut patched, validation)? {
                warnings.push(warning);
            }
        }
        Ok(patched)
    }
}

fn strategic_schema<'a>(expected: Expected<'a>) -> Result<&'a Schema, Status> {
    expected.schema.ok_or_else(|| {
        Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json",
        )
    })
}

fn object(body: &[u8]) -> Result<Value, Status> {
    let value = decode::parse(body, Media::Json)?;
    if value.is_object() { Ok(value) } else { Err(Status::bad_request("the patch is not a JSON object")) }
}
