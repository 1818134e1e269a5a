//! Nodes: whether they live, what that means for their pods, and the range of addresses each gets.

mod cidr;
mod eviction;
mod health;
mod zones;

use std::net::IpAddr;

use crate::framework::Env;

/// Upstream's name for all three.
const CONTROLLER: &str = "node-controller";

/// Starts the controllers.
pub(crate) fn start(env: &Env, cluster_cidr: (IpAddr, u8), node_mask: u8) {
    cidr::start(env, cluster_cidr, node_mask);
    health::start(env);
    eviction::start(env);
}
