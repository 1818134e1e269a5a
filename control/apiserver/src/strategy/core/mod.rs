//! The core group: pods and what they are made of, Services, Nodes, and the small kinds.

mod affinity;
mod container;
mod env;
pub(super) mod node;
pub(super) mod pod;
mod pod_defaults;
pub(crate) mod pod_resize;
mod pod_spec;
pub(crate) mod pod_update;
mod probe;
mod resources;
mod security;
pub(super) mod service;
pub(super) mod small;
mod volume;
pub(super) mod warnings;

pub(super) use pod_defaults::pod_spec as default_pod_spec;
pub(super) use pod_spec::template as validate_template;
pub(super) use resources::quantity as validate_quantity;
pub(super) use service::not_special;
