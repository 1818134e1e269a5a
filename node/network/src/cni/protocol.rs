//! What the plugin and the node say to each other: one JSON object each way.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Codes of CNI errors, by the specification; from 100 on they are the plugin's own.
pub(crate) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NETWORK: u32 = 100;
}

/// A CNI command that the node carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Command {
    Add,
    Del,
    Check,
}

/// What the plugin asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`.
    pub(crate) container: String,
    /// `CNI_NETNS`; a path, empty for a namespace that is gone.
    pub(crate) netns: String,
    /// `CNI_IFNAME`.
    pub(crate) interface: String,
    /// `namespace/name` out of `CNI_ARGS`, for people.
    pub(crate) pod: String,
    /// The runtime's `portMappings`.
    #[serde(default)]
    pub(crate) ports: Vec<PortMapping>,
}

/// A port of the node that leads to the pod, as the runtime tells it by the capability `portMappings`. (Go reads names in
/// any case, and containerd writes them as Go's fields.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    #[serde(alias = "HostPort")]
    pub(crate) host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub(crate) container_port: u16,
    #[serde(alias = "Protocol")]
    pub(crate) protocol: String,
    /// Absent or empty for every address of the node.
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    pub(crate) host_ip: String,
}

/// What a container got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    pub(crate) host_interface: String,
    pub(crate) host_mac: String,
    pub(crate) mac: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: Option<u32>,
}

/// A failed command, as CNI wants it told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}: {details}")]
pub(crate) struct CniError {
    pub(crate) code: u32,
    #[serde(rename = "msg")]
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: u32, message: &str, details: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_owned(), details: format!("{details}") }
    }
}

/// What the node answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Response {
    Attached(Attachment),
    Done,
    Failed(CniError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_mappings_as_runtimes_write_them() {
        let expected =
            PortMapping { host_port: 53, container_port: 5353, protocol: "udp".into(), host_ip: "127.0.0.1".into() };
        for text in [
            r#"{"HostPort": 53, "ContainerPort": 5353, "Protocol": "udp", "HostIP": "127.0.0.1"}"#,
            r#"{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"}"#,
        ] {
            assert_eq!(serde_json::from_str::<PortMapping>(text).unwrap(), expected, "{text}");
        }
    }
}
