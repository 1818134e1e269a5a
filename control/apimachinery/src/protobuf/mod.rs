//! `application/vnd.kubernetes.protobuf`, between the wire and JSON: driven by the schema alone.
//!
//! An object on the wire is the magic `k8s\0` and a `runtime.Unknown`: apiVersion and kind, and the object's message. Messages are
//! proto2. Go's encoder always writes fields that are no pointers: [`decode`] drops zeros that say nothing, as Go's JSON does.
//! [`Kind`] writes what JSON has, fields by number; a field that is absent there is absent on the wire, which every decoder takes for
//! zero (or nil).

mod decode;
mod encode;
mod wire;

#[cfg(test)]
mod tests;

use crate::gvk::{Gvk, parse_api_version};
use crate::schema::Schema;

pub use decode::decode;
pub use encode::{EncodeError, Kind, TAIL, list_head, list_item, list_item_len, watch_event};
pub use wire::Malformed;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every object on the wire begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The fields of `runtime.Unknown` and its `TypeMeta`.
mod unknown {
    pub(super) const TYPE_META: u32 = 1;
    pub(super) const RAW: u32 = 2;
    pub(super) const CONTENT_ENCODING: u32 = 3;
    pub(super) const CONTENT_TYPE: u32 = 4;
    pub(super) const API_VERSION: u32 = 1;
    pub(super) const KIND: u32 = 2;
}

/// The type of a kind that has a form on the wire. Some are served in every version of every group, or are answers alone.
pub fn schema(api_version: &str, kind: &str) -> Option<&'static Schema> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let (group, version) = parse_api_version(api_version)?;
    let schema = match kind {
        "DeleteOptions" | "WatchEvent" => Schema::named(&format!("{META}.{kind}")),
        "PartialObjectMetadata" | "PartialObjectMetadataList" if group == "meta.k8s.io" => {
            Schema::named(&format!("{META}.{kind}"))
        }
        _ => Schema::of(&Gvk::new(group, version, kind)),
    }?;
    (!schema.numbers.is_empty()).then_some(schema)
}

/// The types of apiextensions that are one of two things in JSON, and have a field for each on the wire.
struct Alternatives {
    /// The field of a schema.
    schema: u32,
    /// The field of the other thing.
    other: u32,
    kind: Other,
    /// `JSONSchemaProps`.
    props: &'static Schema,
}

#[derive(Clone, Copy)]
enum Other {
    /// A list of schemas.
    Schemas,
    /// Whether anything is allowed.
    Allows,
    /// A list of names.
    Texts,
}

impl Alternatives {
    fn of(ty: &str) -> Option<Self> {
        const PACKAGE: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let (schema, other, kind) = match ty.strip_prefix(PACKAGE)? {
            "OrArray" => (1, 2, Other::Schemas),
            "OrBool" => (2, 1, Other::Allows),
            "OrStringArray" => (1, 2, Other::Texts),
            _ => return None,
        };
        Some(Self { schema, other, kind, props: Schema::named(PACKAGE)? })
    }
}
