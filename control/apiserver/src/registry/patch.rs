//! Patches: JSON patch, JSON merge patch and strategic merge patch, applied to the newest state.

use apimachinery::decode::{self, FieldValidation, Media};
use apimachinery::field::{FieldError, Path};
use apimachinery::patch;
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;

use super::body::{self, Expected};
use crate::request::Warnings;

/// The media types of patches.
const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// A media type without its parameters.
pub(super) fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or("").trim()
}

/// A patch, read.
pub(super) struct Patch {
    form: Form,
    /// What is wrong with its text, by strict rules.
    complaints: Vec<String>,
}

enum Form {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch of the type that the request names.
    pub(super) fn parse(content_type: &str, body: Bytes) -> Result<Self, Status> {
        let media = media(content_type);
        let decoded = match media {
            "application/json-patch+json"
            | "application/merge-patch+json"
            | "application/strategic-merge-patch+json" => {
                decode::decode(&body, Media::Json, None, FieldValidation::Warn)?
            }
            _ => {
                return Err(Status::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: {TYPES}"
                )));
            }
        };
        let mut complaints = decoded.warnings;
        let form = match media {
            "application/json-patch+json" => {
                complaints.iter_mut().for_each(|complaint| complaint.insert_str(0, "json patch "));
                Form::Json(body)
            }
            _ if !decoded.object.is_object() => return Err(Status::bad_request("the patch is not a JSON object")),
            "application/merge-patch+json" => Form::Merge(decoded.object),
            _ => Form::Strategic(decoded.object),
        };
        Ok(Self { form, complaints })
    }

    /// Applies the patch to an object of the kind `expected`, and checks the result.
    pub(super) fn apply(
        &self,
        current: &Value,
        expected: Expected<'_>,
        validation: FieldValidation,
        warnings: &Warnings,
    ) -> Result<Value, Status> {
        let mut patched = match &self.form {
            Form::Json(bytes) => patch::json_patch(current, bytes)?,
            Form::Merge(value) => patch::merge_patch(current, value),
            Form::Strategic(value) => patch::strategic_merge(current, value, strategic_schema(expected)?)?,
        };
        body::check_kind(&mut patched, expected)?;
        let mut complaints = self.complaints.clone();
        if let Some(schema) = expected.schema {
            let text = |patched: &Value| match &self.form {
                Form::Strategic(patch) => patch.to_string(),
                _ => patched.to_string(),
            };
            match decode::problems(schema, &mut patched) {
                Ok(unknown) => complaints.extend(unknown),
                Err(why) => return Err(invalid(text(&patched), why)),
            }
            if validation == FieldValidation::Strict && !complaints.is_empty() {
                return Err(invalid(text(&patched), format!("strict decoding error: {}", complaints.join(", "))));
            }
        }
        if validation == FieldValidation::Warn {
            complaints.into_iter().for_each(|complaint| warnings.push(complaint));
        }
        Ok(patched)
    }
}

/// 422, which names no object.
fn invalid(patch: String, why: String) -> Status {
    Status::invalid("", "", "", vec![FieldError::invalid(&Path::new("patch"), patch, why)])
}

fn strategic_schema<'a>(expected: Expected<'a>) -> Result<&'a Schema, Status> {
    expected.schema.ok_or_else(|| {
        Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json",
        )
    })
}
