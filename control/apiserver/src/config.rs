//! What the API server is told at its start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The settings of one API server. Everything else is derived from these.
#[derive(Debug, Clone)]
pub struct Config {
    /// DATA_DIR: `pki/` and `kubeconfig` are written below it.
    pub data_dir: PathBuf,
    /// Where the administrators' kubeconfig is to be, too.
    pub kubeconfig_copy: Option<PathBuf>,
    /// How long certificates are valid; they are renewed when a quarter of it is left.
    pub certificate_life: Duration,
    /// The address to listen on.
    pub bind_address: IpAddr,
    /// The port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// The address published in the `kubernetes` Service's endpoints.
    pub advertise_address: IpAddr,
    /// The name of the node this server runs on.
    pub node_name: String,
    /// More names and addresses for the serving certificate (`--tls-san`).
    pub tls_sans: Vec<String>,
    /// The range of cluster IPs, as `10.96.0.0/16`.
    pub service_cidr: String,
    /// The first and last node port.
    pub service_node_port_range: (u16, u16),
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// The address of the cluster's DNS Service; `None` where cluster DNS is somebody else's, and the Service, too.
    pub cluster_dns: Option<IpAddr>,
    /// The program's own version, appended to the Kubernetes version in `/version`.
    pub version: String,
}

impl Config {
    /// The issuer of service-account tokens and their default audience.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.cluster_domain)
    }
}
