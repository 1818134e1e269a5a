//! Request bodies into objects of the kind that the URL names.

use apimachinery::decode::{self, FieldValidation, Media};
use apimachinery::gvk::parse_api_version;
use apimachinery::protobuf;
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use serde_json::Value;

use crate::request::Warnings;

/// The format that a `Content-Type` names. Protobuf is for kinds whose fields are known.
pub(crate) fn media(content_type: &str, schema: Option<&Schema>) -> Result<Media, Status> {
    match content_type.split(';').next().unwrap_or("").trim() {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Media::Yaml),
        protobuf::MEDIA_TYPE if schema.is_some() => Ok(Media::Protobuf),
        _ => {
            let mut accepted = "application/json, application/yaml".to_owned();
            if schema.is_some() {
                accepted = format!("{accepted}, {}", protobuf::MEDIA_TYPE);
            }
            Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            )))
        }
    }
}

/// What a body must be.
#[derive(Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) api_version: &'a str,
    pub(super) kind: &'a str,
    pub(super) schema: Option<&'a Schema>,
}

/// Decodes an object, fills in `apiVersion` and `kind` where they are left out, and refuses other kinds.
pub(super) fn decode(
    body: &[u8],
    content_type: &str,
    expected: Expected<'_>,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, Status> {
    let media = media(content_type, expected.schema)?;
    if body.is_empty() {
        return Err(Status::bad_request(format!("{} body must not be empty", expected.kind)));
    }
    let decoded = decode::decode(body, media, expected.schema, validation)?;
    for warning in decoded.warnings {
        warnings.push(warning);
    }
    let mut object = decoded.object;
    check_kind(&mut object, expected)?;
    Ok(object)
}

/// Fills in or checks `apiVersion` and `kind`.
pub(super) fn check_kind(object: &mut Value, expected: Expected<'_>) -> Result<(), Status> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Status::bad_request(format!("the body is no object of kind {}", expected.kind)));
    };
    let version = fields.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    let kind = fields.get("kind").and_then(Value::as_str).unwrap_or("");
    if !kind.is_empty() && kind != expected.kind {
        let short = |version: &str| parse_api_version(version).map_or("", |(_, version)| version).to_owned();
        let version = short(if version.is_empty() { expected.api_version } else { version });
        return Err(Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {expected}: converting ({version}.{kind}) to ({expected_version}.{expected}): unknown conversion",
            expected = expected.kind,
            expected_version = short(expected.api_version),
        )));
    }
    if !version.is_empty() && version != expected.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            expected.api_version
        )));
    }
    let (no_version, no_kind) = (version.is_empty(), kind.is_empty());
    if no_version {
        fields.insert("apiVersion".to_owned(), expected.api_version.into());
    }
    if no_kind {
        fields.insert("kind".to_owned(), expected.kind.into());
    }
    if !fields.get("metadata").is_some_and(Value::is_object) {
        fields.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
    }
    Ok(())
}
