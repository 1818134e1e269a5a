//! The Kubernetes API server as a library: transport, authentication, authorisation, discovery and streams in front,
//! one generic registry behind.
//!
//! A request takes one path, whether it comes over TLS or from a component in this process:
//! TLS → [`request::RequestInfo`] → authenticate → authorise → route. See [`server`] for the pipeline.

mod admission;
pub mod auth;
pub mod authz;
mod bootstrap;
pub mod config;
pub mod pki;
pub mod registry;
pub mod request;
mod strategy;

pub use config::Config;
