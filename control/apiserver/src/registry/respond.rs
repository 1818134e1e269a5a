//! Answers: objects and lists as they are, as Table or PartialObjectMetadata, in JSON or protobuf, whichever the client accepts.

use apimachinery::field::{FieldError, Path};
use apimachinery::protobuf;
use apimachinery::resources::Resource;
use apimachinery::status::Status;
use apimachinery::table::{self, Column};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::convert::{self, render};
use super::resource::{Served, Storage};
use crate::accept::{self, Clause, Encoding};
use crate::request::{Query, ResponseBody};
use crate::server::respond::{self as answer, unwritable};

/// The form of objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` Table, with what its rows carry.
    Table(RowObject),
    /// Metadata alone.
    Metadata,
}

/// What a table's row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata.
    Metadata,
    /// All.
    Object,
}

/// What a client gets of what it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
}

impl Accepted {
    /// The form and encoding that the `Accept` header likes best of those that are served. Tables are in JSON alone, and of objects
    /// without a schema (`!has_protobuf`) protobuf can hold the metadata only.
    pub(super) fn negotiate(accept: &str, query: &Query, has_protobuf: bool) -> Result<Self, Status> {
        if accept.trim().is_empty() {
            return Ok(Self { form: Form::Object, encoding: Encoding::Json });
        }
        let include = query.get("includeObject").unwrap_or_default();
        let rows = match include {
            "None" => RowObject::None,
            "Object" => RowObject::Object,
            _ => RowObject::Metadata,
        };
        let clauses = accept::clauses(accept);
        let accepted = clauses.iter().find_map(|clause| Self::of_clause(clause, rows, has_protobuf));
        let accepted = accepted.ok_or_else(|| not_acceptable(has_protobuf))?;
        if matches!(accepted.form, Form::Table(_)) && !matches!(include, "" | "None" | "Object" | "Metadata") {
            let detail = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid(&Path::new("includeObject"), include, detail);
            return Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")));
        }
        Ok(accepted)
    }

    /// The encoding for answers that have no other form; refuses those who do not take objects as they are.
    pub(crate) fn plain(accept: &str) -> Result<Encoding, Status> {
        if accept.trim().is_empty() {
            return Ok(Encoding::Json);
        }
        let plain = |clause: &Clause<'_>| {
            let accepted = Self::of_clause(clause, RowObject::None, true)?;
            (accepted.form == Form::Object).then_some(accepted.encoding)
        };
        accept::clauses(accept).iter().find_map(plain).ok_or_else(|| not_acceptable(true))
    }

    fn of_clause(clause: &Clause<'_>, rows: RowObject, has_protobuf: bool) -> Option<Self> {
        let encoding = clause.encoding()?;
        let form = match clause.target() {
            ("", ..) => Form::Object,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Form::Table(rows),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => Form::Metadata,
            _ => return None,
        };
        let possible = match (encoding, form) {
            (Encoding::Json, _) | (Encoding::Protobuf, Form::Metadata) => true,
            (Encoding::Protobuf, Form::Object) => has_protobuf,
            (Encoding::Protobuf, Form::Table(_)) => false,
        };
        (possible && clause.streams()).then_some(Self { form, encoding })
    }
}

fn not_acceptable(has_protobuf: bool) -> Status {
    let types = if has_protobuf { [Encoding::Json, Encoding::Protobuf].as_slice() } else { &[Encoding::Json] };
    let types: Vec<&str> = types.iter().map(|encoding| encoding.media_type()).collect();
    Status::not_acceptable(format!("only the following media types are accepted: {}", types.join(", ")))
}

/// An answer of an object's bytes.
fn encoded(code: StatusCode, encoding: Encoding, bytes: Bytes) -> Response<ResponseBody> {
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    typed(code, encoding, body)
}

pub(super) fn typed(code: StatusCode, encoding: Encoding, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    response
}

/// One stored object (with its `resourceVersion`) in the version and form asked for.
pub(super) fn object(
    code: StatusCode,
    served: &Served,
    storage: &Storage,
    accepted: Accepted,
    bytes: &Bytes,
) -> Result<Response<ResponseBody>, Status> {
    let rendered = render(served, storage, bytes)?;
    let Accepted { form, encoding } = accepted;
    match (form, encoding) {
        (Form::Object, Encoding::Json) => Ok(encoded(code, encoding, rendered.into_owned())),
        (Form::Object | Form::Metadata, Encoding::Protobuf) => {
            let bytes = kind(form, &served.api_version, served.kind())?.object(&rendered);
            Ok(encoded(code, encoding, bytes.map_err(|error| unwritable(&error))?.into()))
        }
        (Form::Metadata, Encoding::Json) => Ok(answer::json(code, &partial(&convert::parse(&rendered)?))),
        (Form::Table(rows), _) => {
            let object = convert::parse(&rendered)?;
            let cells = table::row(served.resource, &object, Timestamp::now());
            Ok(table_of_one(code, table::columns(served.resource), &cells, &object, rows))
        }
    }
}

/// The kind of an object in some form on the protobuf wire.
pub(super) fn kind<'a>(form: Form, api_version: &'a str, kind: &'a str) -> Result<protobuf::Kind<'a>, Status> {
    let found = match form {
        Form::Object => protobuf::Kind::of(api_version, kind),
        Form::Metadata => protobuf::Kind::of("meta.k8s.io/v1", "PartialObjectMetadata"),
        Form::Table(_) => None,
    };
    // Negotiation has made sure of it.
    found.ok_or_else(|| Status::internal(format!("{kind} in {api_version} has no protobuf form")))
}

/// The Scale of an object in the form asked for.
pub(super) fn scale(accepted: Accepted, scale: &Value) -> Response<ResponseBody> {
    match accepted.form {
        Form::Object => answer::object(StatusCode::OK, accepted.encoding, scale),
        Form::Metadata => answer::object(StatusCode::OK, accepted.encoding, &partial(scale)),
        Form::Table(rows) => {
            let cells = table::scale_row(scale, Timestamp::now());
            table_of_one(StatusCode::OK, table::SCALE_COLUMNS, &cells, scale, rows)
        }
    }
}

fn table_of_one(
    code: StatusCode,
    columns: &[Column],
    cells: &[Value],
    object: &Value,
    rows: RowObject,
) -> Response<ResponseBody> {
    let mut table = table_head(columns);
    table["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    table["rows"] = json!([with_object(cells, object, rows)]);
    answer::json(code, &table)
}

/// `metadata` alone.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A Table without rows; without columns where they are known already.
pub(super) fn table_head(columns: &[Column]) -> Value {
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.ty, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect();
    let definitions = if columns.is_empty() { Value::Null } else { Value::Array(definitions) };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": definitions, "rows": []})
}

/// An object's row.
pub(super) fn row(resource: &Resource, object: &Value, rows: RowObject, now: Timestamp) -> Value {
    with_object(&table::row(resource, object, now), object, rows)
}

fn with_object(cells: &[Value], object: &Value, rows: RowObject) -> Value {
    match rows {
        RowObject::None => json!({"cells": cells}),
        RowObject::Metadata => json!({"cells": cells, "object": partial(object)}),
        RowObject::Object => json!({"cells": cells, "object": object}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated() {
        const PROTOBUF: &str = protobuf::MEDIA_TYPE;
        let table = Form::Table(RowObject::Metadata);
        let of = |form, encoding| Some(Accepted { form, encoding });
        let (json, wire) = (|form| of(form, Encoding::Json), |form| of(form, Encoding::Protobuf));
        let metadata = "as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let cases = [
            (String::new(), json(Form::Object)),
            ("*/*".into(), json(Form::Object)),
            (format!("{PROTOBUF}, application/json"), wire(Form::Object)),
            (format!("{PROTOBUF};q=0.5, application/json"), json(Form::Object)),
            (format!("application/json;q=0.5, {PROTOBUF}"), wire(Form::Object)),
            (format!("{PROTOBUF},*/*"), wire(Form::Object)),
            (format!("{PROTOBUF};stream=watch"), wire(Form::Object)),
            (format!("{PROTOBUF};stream=other"), None),
            (PROTOBUF.into(), wire(Form::Object)),
            (format!("{PROTOBUF};{metadata}, application/json"), wire(Form::Metadata)),
            (format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io"), None),
            (
                format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io, application/json;as=Table;v=v1;g=meta.k8s.io"),
                json(table),
            ),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json".into(), json(table)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io, application/json;q=0.9".into(), json(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io;q=0.1, application/json;q=0.9".into(), json(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1".into(), json(Form::Metadata)),
            ("text/html".into(), None),
        ];
        for (accept, expected) in cases {
            assert_eq!(Accepted::negotiate(&accept, &Query::default(), true).ok(), expected, "{accept}");
        }
        for (accept, expected) in [
            (format!("{PROTOBUF}, application/json"), json(Form::Object)),
            (PROTOBUF.into(), None),
            (format!("{PROTOBUF};{metadata}"), wire(Form::Metadata)),
        ] {
            assert_eq!(Accepted::negotiate(&accept, &Query::default(), false).ok(), expected, "{accept}");
        }
        assert_eq!(Accepted::plain(&format!("{PROTOBUF};{metadata}, {PROTOBUF};q=0.1")).ok(), Some(Encoding::Protobuf));
        assert_eq!(Encoding::liked(&format!("{PROTOBUF};{metadata}, application/json")), Encoding::Json);
    }
}
