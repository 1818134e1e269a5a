//! The scheduler: gives every pod a node.
//!
//! [`queue`] says which pod is next, [`cache`] knows the nodes and what is placed on them, [`cycle`] chooses a node for a pod
//! by the [`plugins`], all of them synchronous and without I/O. `run` connects them to the cluster by informers and writes
//! bindings, conditions and Events.

pub mod cache;
pub mod cycle;
pub mod framework;
pub mod objects;
pub mod plugins;
pub mod queue;
pub mod resources;
mod run;

pub use run::Scheduler;
