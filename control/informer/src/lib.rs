//! What a component knows of the cluster: indexed projections fed by watches, and the tools to act on changes.
//!
//! - [`Informer`] holds a projection of every object of one resource: a struct of the few fields its user needs.
//! - [`index::Index`] is its synchronous core: apply an event, read a snapshot. No I/O.
//! - [`kinds`] has the projections that several components share.
//! - [`source`] is the only code that talks to the API server: watch, resume, start again.
//! - [`queue`] turns changes into reconciliations: deduplicated keys, back-off, bounded parallelism.
//! - [`recorder`] writes Events about objects.
//! - [`rest`] sends the writes.

mod frame;
pub mod index;
mod informer;
pub mod kinds;
pub mod meta;
pub mod queue;
pub mod recorder;
pub mod rest;
pub mod source;

pub use index::Event;
pub use informer::{Builder, Informer};
pub use meta::{Meta, ObjectKey, OwnerReference, Projection};
