//! The controllers: each makes one kind of promise true, over and over.
//!
//! One module a controller; [`framework`] has what they share. A controller is a function from a key to what is to be done,
//! the informers that trigger it, and a client with its own identity and rights. What to do is decided by pure functions
//! over projections, so that it can be tested by tables.

mod clusterrole;
mod deployment;
mod disruption;
mod endpoints;
mod expectations;
mod framework;
mod gc;
mod namespace;
mod node;
mod objects;
mod podgc;
mod replicas;
mod serviceaccount;

use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use framework::{Env, Informers};

/// What the controllers need to know beside the cluster's objects.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// Range of the pods' addresses; nodes get parts of it.
    pub cluster_cidr: (IpAddr, u8),
    /// Prefix length of a node's part.
    pub node_cidr_mask: u8,
    /// The CA that pods trust the API server by.
    pub root_ca_pem: String,
}

/// Gives a client with the identity of a controller's service account; `""` is the controllers' common one.
pub type ClientFor = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// Starts all controllers, until `shutdown`.
pub fn start(config: ControllersConfig, client_for: ClientFor, tasks: &TaskTracker, shutdown: CancellationToken) {
    let informers = Informers::start(&client_for(""), tasks, &shutdown);
    let env = Env { client_for, informers, tasks: tasks.clone(), shutdown };
    serviceaccount::start(&env, config.root_ca_pem);
    namespace::start(&env);
    replicas::start(&env);
    deployment::start(&env);
    endpoints::start(&env);
    node::start(&env, config.cluster_cidr, config.node_cidr_mask);
    podgc::start(&env);
    disruption::start(&env);
    clusterrole::start(&env);
    gc::start(&env);
}
