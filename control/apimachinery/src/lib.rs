//! Pure functions on Kubernetes objects: facts, schema, codecs, patches, selectors, names, quantities, tables, OpenAPI.
//!
//! An object is a [`serde_json::Value`]. Nothing here does I/O, spawns, or keeps state beyond lazily built, immutable tables.
//! Every recursive decoder and walker stops at [`MAX_DEPTH`].

pub mod apply;
pub mod decode;
pub mod disruption;
pub mod field;
pub mod gvk;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;

mod facts;
mod quote;

/// How deep objects, patches and schemas may nest.
pub const MAX_DEPTH: usize = 100;
