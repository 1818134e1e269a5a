//! What a kubelet is told when it starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cri::containerd::Registries;
use k8s_openapi::api::core::v1::Taint;
use rustls::server::ResolvesServerCert;

/// The settings of one node.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Address the node is known by.
    pub node_ip: IpAddr,
    /// Directory under which everything is kept.
    pub data_dir: PathBuf,
    /// cgroup below which `kubepods` stands; empty or `/` for the top.
    pub cgroup_root: String,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Labels the Node gets at registration.
    pub node_labels: BTreeMap<String, String>,
    /// Taints the Node gets at registration.
    pub node_taints: Vec<Taint>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster's names.
    pub cluster_domain: String,
    /// Credentials of registries, for images whose pods bring none.
    pub registries: Registries,
    /// The resolver configuration that pods with the node's DNS get.
    pub resolv_conf: PathBuf,
    /// Where the kubelet's API listens.
    pub api_address: IpAddr,
    /// Port of the kubelet's API.
    pub api_port: u16,
    /// The serving certificate, whichever it is at the time.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// PEM of the CA whose client certificates authenticate.
    pub client_ca: String,
    /// Version the node reports, e.g. `v1.36.0+keelson-0.1.0`.
    pub version: String,
}

impl KubeletConfig {
    /// Directory of what the kubelet keeps per pod.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("kubelet/pods")
    }

    /// Directory of all pod logs.
    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.data_dir.join("logs/pods")
    }
}
