//! Answers: objects, lists and Statuses as JSON, Table or PartialObjectMetadata, whichever the client accepts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apimachinery::field::{FieldError, Path};
use apimachinery::resources::Resource;
use apimachinery::status::Status;
use apimachinery::table::{self, Column};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Entry;

use super::convert::{self, render};
use super::resource::{Served, Storage};
use crate::accept::{self, Clause};
use crate::request::{BoxError, Query, ResponseBody};

/// The size of a list's chunks: small ones cost more to send than to make.
const CHUNK: usize = 64 * 1024;

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

impl Form {
    /// The form that the `Accept` header likes best of those that are served.
    pub(super) fn negotiate(accept: &str, query: &Query) -> Result<Self, Status> {
        if accept.trim().is_empty() {
            return Ok(Self::Object);
        }
        let include = query.get("includeObject").unwrap_or_default();
        let rows = match include {
            "None" => RowObject::None,
            "Object" => RowObject::Object,
            _ => RowObject::Metadata,
        };
        let clauses = accept::clauses(accept);
        let form = clauses.iter().find_map(|clause| Self::of_clause(clause, rows)).ok_or_else(not_acceptable)?;
        if matches!(form, Self::Table(_)) && !matches!(include, "" | "None" | "Object" | "Metadata") {
            let detail = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid(&Path::new("includeObject"), include, detail);
            return Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")));
        }
        Ok(form)
    }

    /// Refuses those who do not take objects as they are; for answers that have no other form.
    pub(crate) fn objects_only(accept: &str) -> Result<(), Status> {
        let plain = |clause: &Clause<'_>| Self::of_clause(clause, RowObject::None) == Some(Self::Object);
        match accept.trim().is_empty() || accept::clauses(accept).iter().any(plain) {
            true => Ok(()),
            false => Err(not_acceptable()),
        }
    }

    fn of_clause(clause: &Clause<'_>, rows: RowObject) -> Option<Self> {
        if !clause.takes_json() {
            return None;
        }
        match clause.target() {
            ("", ..) => Some(Self::Object),
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Some(Self::Table(rows)),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => {
                Some(Self::Metadata)
            }
            _ => None,
        }
    }
}

fn not_acceptable() -> Status {
    Status::not_acceptable("only the following media types are accepted: application/json")
}

/// An answer of JSON bytes.
pub(super) fn json_bytes(code: StatusCode, bytes: Bytes) -> Response<ResponseBody> {
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    typed(code, body)
}

fn typed(code: StatusCode, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer of a JSON value.
pub(super) fn json_value(code: StatusCode, value: &Value) -> Response<ResponseBody> {
    json_bytes(code, value.to_string().into())
}

/// An answer that streams.
pub(super) fn stream(body: ResponseBody) -> Response<ResponseBody> {
    typed(StatusCode::OK, body)
}

/// One stored object (with its `resourceVersion`) in the version and form asked for.
pub(super) fn object(
    code: StatusCode,
    served: &Served,
    storage: &Storage,
    form: Form,
    bytes: &Bytes,
) -> Result<Response<ResponseBody>, Status> {
    let rendered = render(served, storage, bytes)?;
    match form {
        Form::Object => Ok(json_bytes(code, rendered.into_owned())),
        Form::Metadata => Ok(json_value(code, &partial(&convert::parse(&rendered)?))),
        Form::Table(rows) => {
            let object = convert::parse(&rendered)?;
            let cells = table::row(served.resource, &object, Timestamp::now());
            Ok(table_of_one(code, table::columns(served.resource), &cells, &object, rows))
        }
    }
}

/// The Scale of an object in the form asked for.
pub(super) fn scale(form: Form, scale: &Value) -> Response<ResponseBody> {
    match form {
        Form::Object => json_value(StatusCode::OK, scale),
        Form::Metadata => json_value(StatusCode::OK, &partial(scale)),
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
    json_value(code, &table)
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

/// What a list says beside its items.
#[derive(Debug, Default)]
pub(super) struct ListMeta {
    pub(super) revision: u64,
    pub(super) continuation: String,
    pub(super) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.continuation.is_empty() {
            meta["continue"] = self.continuation.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A list in the version and form asked for.
pub(super) fn list(
    served: &'static Resource,
    api_version: &str,
    storage: &Arc<Storage>,
    form: Form,
    meta: &ListMeta,
    entries: Vec<Arc<Entry>>,
) -> Response<ResponseBody> {
    let (kind, version) = match form {
        Form::Object => (&*served.list_kind, api_version),
        Form::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
        Form::Table(_) => ("Table", "meta.k8s.io/v1"),
    };
    let list_meta = meta.to_value();
    let head = match form {
        Form::Table(_) => {
            let columns = table_head(table::columns(served))["columnDefinitions"].take();
            format!(
                r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{list_meta},"columnDefinitions":{columns},"rows":["#
            )
        }
        _ => format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{list_meta},"items":["#),
    };
    let item = match form {
        Form::Object if storage.api_version == api_version => Item::Bytes,
        form => Item::Made {
            resource: served,
            api_version: api_version.to_owned(),
            storage: storage.clone(),
            form,
            now: Timestamp::now(),
        },
    };
    let size = match item {
        Item::Bytes => {
            let items: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
            Some(head.len() + items + entries.len().saturating_sub(1) + TAIL.len())
        }
        Item::Made { .. } => None,
    };
    let body = ListBody { head: Some(head.into()), entries: entries.into_iter(), item, size, first: true, done: false };
    typed(StatusCode::OK, body.boxed_unsync())
}

const TAIL: &[u8] = b"]}";

/// How an item is written.
enum Item {
    /// As it is stored.
    Bytes,
    /// In another version or form.
    Made { resource: &'static Resource, api_version: String, storage: Arc<Storage>, form: Form, now: Timestamp },
}

/// A list's body: chunks copied from the entries' bytes as the connection takes them.
struct ListBody {
    head: Option<Bytes>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    item: Item,
    /// Bytes still to come, where known.
    size: Option<usize>,
    first: bool,
    done: bool,
}

impl Item {
    fn write(&self, entry: &Entry, out: &mut BytesMut) -> Result<(), BoxError> {
        match self {
            Item::Bytes => out.put_slice(&entry.bytes),
            Item::Made { resource, api_version, storage, form, now } => {
                let mut object = convert::parse(&entry.bytes)?;
                if *api_version != storage.api_version {
                    if let Some(convert) = storage.convert {
                        convert(&mut object, api_version);
                    }
                    object["apiVersion"] = api_version.as_str().into();
                }
                let value = match form {
                    Form::Object => object,
                    Form::Metadata => partial(&object),
                    Form::Table(rows) => row(resource, &object, *rows, *now),
                };
                serde_json::to_writer(out.writer(), &value)?;
            }
        }
        Ok(())
    }
}

impl Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let mut out = BytesMut::with_capacity(this.size.map_or(CHUNK * 2, |size| size.min(CHUNK + CHUNK / 4)));
        if let Some(head) = this.head.take() {
            out.put_slice(&head);
        }
        while out.len() < CHUNK {
            let Some(entry) = this.entries.next() else {
                out.put_slice(TAIL);
                this.done = true;
                break;
            };
            if !std::mem::replace(&mut this.first, false) {
                out.put_u8(b',');
            }
            if let Err(error) = this.item.write(&entry, &mut out) {
                this.done = true;
                return Poll::Ready(Some(Err(error)));
            }
        }
        this.size = this.size.map(|size| size.saturating_sub(out.len()));
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.size.map_or_else(SizeHint::default, |size| SizeHint::with_exact(size as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated() {
        let table = Form::Table(RowObject::Metadata);
        for (accept, form) in [
            ("", Some(Form::Object)),
            ("*/*", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf, application/json", Some(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(table)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io, application/json;q=0.9", Some(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io;q=0.1, application/json;q=0.9", Some(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(Form::negotiate(accept, &Query::default()).ok(), form, "{accept}");
        }
    }
}
