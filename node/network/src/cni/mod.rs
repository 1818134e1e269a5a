//! The Container Network Interface: the plugin that the runtime executes, and the node's side that does the work.
//!
//! The plugin is this same program by another name. It passes the runtime's request to the node's socket and prints
//! what the node answers, so it needs no rights, no state and no time of its own.

mod install;
mod plugin;
mod protocol;
mod server;
mod turns;

pub use plugin::{is_plugin, plugin_main};

pub(crate) use install::{install, publish, uninstall};
pub(crate) use protocol::PortMapping;
pub(crate) use server::Server;

#[cfg(test)]
pub(crate) use protocol::{Command, Request, Response};
