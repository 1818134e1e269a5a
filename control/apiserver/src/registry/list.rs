//! Lists: the chunks of a body are made as the connection takes them, from entries that nobody copies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apimachinery::protobuf::{self, Kind};
use apimachinery::resources::Resource;
use apimachinery::status::Status;
use apimachinery::table;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Entry;

use super::convert;
use super::resource::Storage;
use super::respond::{self, Accepted, Form, partial, row, table_head, typed};
use crate::accept::Encoding;
use crate::request::{BoxError, ResponseBody};
use crate::server::respond::unwritable;

/// The size of a list's chunks: small ones cost more to send than to make.
const CHUNK: usize = 64 * 1024;
/// A list in protobuf begins with its size, so that its items are encoded before it begins. So much of them is kept until it is sent;
/// the rest is encoded once more then.
const KEPT: usize = 4 << 20;

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
pub(super) async fn list(
    served: &'static Resource,
    api_version: &str,
    storage: &Arc<Storage>,
    accepted: Accepted,
    meta: &ListMeta,
    entries: Vec<Arc<Entry>>,
) -> Result<Response<ResponseBody>, Status> {
    let (kind, version) = match accepted.form {
        Form::Object => (&*served.list_kind, api_version),
        Form::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
        Form::Table(_) => ("Table", "meta.k8s.io/v1"),
    };
    let item = Item {
        resource: served,
        api_version: api_version.to_owned(),
        storage: storage.clone(),
        form: accepted.form,
        now: Timestamp::now(),
    };
    let list_meta = meta.to_value();
    if accepted.encoding == Encoding::Protobuf {
        let list = Kind::of(version, kind);
        let list = list.ok_or_else(|| Status::internal(format!("{kind} in {version} has no protobuf form")))?;
        return in_protobuf(list, &list_meta, item, entries).await;
    }
    let head = match accepted.form {
        Form::Table(_) => {
            let columns = table_head(table::columns(served))["columnDefinitions"].take();
            format!(
                r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{list_meta},"columnDefinitions":{columns},"rows":["#
            )
        }
        _ => format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{list_meta},"items":["#),
    };
    let size = item.as_stored().then(|| {
        let items: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        head.len() + items + entries.len().saturating_sub(1) + TAIL.len()
    });
    let body = ListBody { head: Some(head.into()), entries: entries.into_iter(), item, size, first: true, done: false };
    Ok(typed(StatusCode::OK, Encoding::Json, body.boxed_unsync()))
}

/// How an item is written.
struct Item {
    resource: &'static Resource,
    api_version: String,
    storage: Arc<Storage>,
    form: Form,
    now: Timestamp,
}

impl Item {
    /// Whether an item's JSON is what is stored.
    fn as_stored(&self) -> bool {
        self.form == Form::Object && self.storage.api_version == self.api_version
    }

    /// The stored object in the version asked for.
    fn object(&self, entry: &Entry) -> Result<Value, Status> {
        let mut object = convert::parse(&entry.bytes)?;
        if self.api_version != self.storage.api_version {
            if let Some(convert) = self.storage.convert {
                convert(&mut object, &self.api_version);
            }
            object["apiVersion"] = self.api_version.as_str().into();
        }
        Ok(object)
    }

    fn write(&self, entry: &Entry, out: &mut BytesMut) -> Result<(), BoxError> {
        if self.as_stored() {
            out.put_slice(&entry.bytes);
            return Ok(());
        }
        let object = self.object(entry)?;
        let value = match self.form {
            Form::Object => object,
            Form::Metadata => partial(&object),
            Form::Table(rows) => row(self.resource, &object, rows, self.now),
        };
        Ok(serde_json::to_writer(out.writer(), &value)?)
    }

    /// Appends the bare protobuf message.
    fn message(&self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), Status> {
        let kind = respond::kind(self.form, &self.api_version, &self.resource.kind)?;
        let written = match self.storage.convert {
            Some(_) if self.api_version != self.storage.api_version => kind.message_of(&self.object(entry)?, out),
            // Field for field the same, and the message does not hold its version.
            _ => kind.message(&entry.bytes, out),
        };
        written.map_err(|error| unwritable(&error))
    }
}

const TAIL: &[u8] = b"]}";

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

/// The sizes of all items come first, so that the list can begin.
async fn in_protobuf(
    list: Kind<'_>,
    metadata: &Value,
    item: Item,
    entries: Vec<Arc<Entry>>,
) -> Result<Response<ResponseBody>, Status> {
    let mut items = Vec::with_capacity(entries.len());
    let (mut total, mut kept, mut turn) = (0, 0, 0);
    for entry in entries {
        let mut message = Vec::with_capacity(entry.bytes.len());
        item.message(&entry, &mut message)?;
        let size = message.len();
        total += protobuf::list_item_len(size);
        turn += size;
        items.push(if kept < KEPT {
            kept += size;
            message.shrink_to_fit();
            Encoded::Kept(message)
        } else {
            Encoded::Again(entry)
        });
        if turn > CHUNK {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    let head = protobuf::list_head(list, metadata, total).map_err(|error| unwritable(&error))?;
    let size = head.len() + total + protobuf::TAIL.len();
    let body = ProtobufBody { head: Some(head), items: items.into_iter(), item, size };
    Ok(typed(StatusCode::OK, Encoding::Protobuf, body.boxed_unsync()))
}

/// An item whose size is known.
enum Encoded {
    Kept(Vec<u8>),
    Again(Arc<Entry>),
}

/// A list's body in protobuf.
struct ProtobufBody {
    head: Option<Vec<u8>>,
    items: std::vec::IntoIter<Encoded>,
    item: Item,
    /// Bytes still to come.
    size: usize,
}

impl Body for ProtobufBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.size == 0 {
            return Poll::Ready(None);
        }
        let mut out = Vec::with_capacity(this.size.min(CHUNK + CHUNK / 4));
        if let Some(head) = this.head.take() {
            out.extend_from_slice(&head);
        }
        while out.len() < CHUNK {
            match this.items.next() {
                Some(Encoded::Kept(message)) => protobuf::list_item(&message, &mut out),
                Some(Encoded::Again(entry)) => {
                    let mut message = Vec::with_capacity(entry.bytes.len());
                    if let Err(status) = this.item.message(&entry, &mut message) {
                        this.size = 0;
                        return Poll::Ready(Some(Err(status.into())));
                    }
                    protobuf::list_item(&message, &mut out);
                }
                None => {
                    out.extend_from_slice(protobuf::TAIL);
                    break;
                }
            }
        }
        this.size = this.size.saturating_sub(out.len());
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.size == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size as u64)
    }
}
