//! The Kubernetes API server as a library: transport, authentication, authorisation, discovery and streams in front,
//! one generic registry behind.
//!
//! A request takes one path, whether it comes over TLS or from a component in this process:
//! TLS → [`request::RequestInfo`] → authenticate → authorise → route. See `server/pipeline.rs`.

mod accept;
mod admission;
pub mod auth;
pub mod authz;
mod bootstrap;
pub mod config;
mod discovery;
pub mod pki;
mod proxy;
pub mod registry;
pub mod request;
mod server;
mod strategy;

pub use config::Config;
pub use server::{ApiServer, Limits, StartError};
