//! Request bodies into objects: JSON and YAML, checked against a schema as Go's decoding into typed structs would.

mod check;
mod parse;
mod trail;

use std::collections::HashMap;

use serde_json::Value;

use crate::protobuf;
use crate::schema::Schema;
use crate::status::{Result, Status};

pub use check::{check, problems};
pub use parse::parse;

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// The request fails and names them all.
    Strict,
    /// They are dropped, with a warning each.
    #[default]
    Warn,
    /// They are dropped.
    Ignore,
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object.
    pub object: Value,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// How many unknown and duplicate fields an answer names.
const MAX_COMPLAINTS: usize = 100;

/// Decodes a body and checks it. Without a schema, only duplicate fields are complained about.
pub fn decode(body: &[u8], media: Media, schema: Option<&Schema>, validation: FieldValidation) -> Result<Decoded> {
    let (mut object, duplicates) = match media {
        Media::Protobuf => (from_protobuf(body, schema)?, Vec::new()),
        text => parse::parse_noting_duplicates(body, text)?,
    };
    let mut complaints = match schema.filter(|schema| media != Media::Protobuf || is_of(&object, schema)) {
        Some(schema) => check::walk(schema, &mut object)?,
        None => Vec::new(),
    };
    let unknown = complaints.len();
    for duplicate in duplicates {
        // What is inside an unknown field is not looked at.
        if !complaints[..unknown].iter().any(|complaint| complaint.covers(&duplicate.path)) {
            complaints.push(duplicate);
        }
    }
    if complaints.len() > 1 && validation != FieldValidation::Ignore {
        sort_as_written(&mut complaints, unknown, body, media);
    }
    let warnings = settle(schema, &object, validation, &complaints)?;
    Ok(Decoded { object, warnings })
}

/// Reads protobuf, whose envelope says of which kind it is; without that it is the schema's.
fn from_protobuf(body: &[u8], schema: Option<&Schema>) -> Result<Value> {
    protobuf::decode(body, schema).map_err(|error| {
        let kind = schema.map_or("object", Schema::short_name);
        Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
    })
}

/// Whether an object says that it is of the schema's type, or says nothing. What is of another kind is complained of by those who
/// wanted this one.
fn is_of(object: &Value, schema: &Schema) -> bool {
    let text = |name| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    (api_version.is_empty() && kind.is_empty())
        || protobuf::schema(api_version, kind).is_some_and(|found| std::ptr::eq(found, schema))
}

/// Puts complaints in the order of the body: an unknown field where it is first, a duplicate where it comes again.
fn sort_as_written(complaints: &mut [Complaint], unknown: usize, body: &[u8], media: Media) {
    let fields = parse::fields_in_order(body, media);
    let mut places: HashMap<&str, (usize, usize)> = HashMap::with_capacity(fields.len());
    for (index, path) in fields.iter().enumerate() {
        let place = places.entry(path).or_insert((index, index));
        place.1 = index;
    }
    let mut placed: Vec<(usize, Complaint)> = Vec::with_capacity(complaints.len());
    for (index, complaint) in complaints.iter_mut().enumerate() {
        let (first, last) = places.get(complaint.path.as_str()).copied().unwrap_or_default();
        placed.push((if index < unknown { first } else { last }, std::mem::take(complaint)));
    }
    placed.sort_by_key(|(place, _)| *place);
    for (complaint, (_, sorted)) in complaints.iter_mut().zip(placed) {
        *complaint = sorted;
    }
}

/// An unknown or duplicate field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Complaint {
    path: String,
    text: String,
}

impl Complaint {
    fn unknown(path: String) -> Self {
        Self { text: format!("unknown field \"{path}\""), path }
    }

    /// Whether the path is this field or one inside it.
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// Turns complaints into the error or the warnings that the client asked for.
fn settle(
    schema: Option<&Schema>,
    object: &Value,
    validation: FieldValidation,
    complaints: &[Complaint],
) -> Result<Vec<String>> {
    let texts = complaints.iter().map(|complaint| complaint.text.clone()).take(MAX_COMPLAINTS);
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts.collect()),
        FieldValidation::Strict if complaints.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => {
            let all: Vec<String> = texts.collect();
            Err(cannot_be_handled(schema, object, &format!("strict decoding error: {}", all.join(", "))))
        }
    }
}

/// `Pod in version "v1" cannot be handled as a Pod: …`.
fn cannot_be_handled(schema: Option<&Schema>, object: &Value, why: &str) -> Status {
    let text = |key| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = text("kind").or(schema.map(Schema::short_name)).unwrap_or("object");
    let version = text("apiVersion").map(|api_version| api_version.rsplit('/').next().unwrap_or_default());
    let version = version.or(schema.map(Schema::version)).unwrap_or_default();
    Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

#[cfg(test)]
mod tests;
