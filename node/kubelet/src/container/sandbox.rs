//! The sandbox of a pod as CRI wants it, and the files every container of it shares.

use std::collections::BTreeMap;

use cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::Pod;

use super::{Settings, dns, security, sysctls};
use crate::labels;
use crate::pod::{self, PodId};
use crate::qos::QosClass;

/// Host name and, where the pod has a subdomain, its domain.
pub(crate) fn hostname(pod: &Pod, settings: &Settings) -> (String, String) {
    let spec = pod::spec(pod);
    if pod::host_network(pod) {
        return (settings.node_name.clone(), String::new());
    }
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty());
    let mut name = name.or(pod.metadata.name.as_deref()).unwrap_or_default().to_owned();
    // The kernel takes 64 characters; a pod's name may be longer.
    name.truncate(63);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = match spec.subdomain.as_deref().filter(|sub| !sub.is_empty()) {
        Some(sub) => format!("{sub}.{namespace}.svc.{}", settings.cluster_domain),
        None => String::new(),
    };
    (name, domain)
}

/// The managed hosts file.
pub(crate) fn hosts_file(pod: &Pod, ips: &[String], settings: &Settings) -> String {
    use std::fmt::Write;
    let (hostname, domain) = hostname(pod, settings);
    let mut text = String::from("# Kubernetes-managed hosts file.\n");
    text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n");
    text.push_str("fe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    for ip in ips {
        // Writing to a String cannot fail.
        let _ = match domain.as_str() {
            "" => writeln!(text, "{ip}\t{hostname}"),
            domain => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
        };
    }
    text + &host_aliases(pod)
}

/// The entries of spec.hostAliases.
pub(crate) fn host_aliases(pod: &Pod) -> String {
    let aliases = pod::list(&pod::spec(pod).host_aliases);
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, pod::list(&alias.hostnames).join("\t")));
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

/// Namespaces of the pod's containers.
pub(crate) fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = pod::spec(pod);
    let node_or_pod = |host: Option<bool>| if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: node_or_pod(spec.host_network).into(),
        pid: pid.into(),
        ipc: node_or_pod(spec.host_ipc).into(),
        ..NamespaceOption::default()
    }
}

/// Builds the sandbox's configuration.
pub(crate) fn config(pod: &Pod, attempt: u32, settings: &Settings) -> PodSandboxConfig {
    let id = PodId::of(pod);
    let (mut hostname, domain) = hostname(pod, settings);
    if pod::host_network(pod) {
        // The node's own: there is no namespace in which to set one.
        hostname.clear();
    }
    if pod::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        hostname = format!("{hostname}.{domain}");
    }
    let mut sandbox_labels: BTreeMap<String, String> = pod.metadata.labels.clone().unwrap_or_default();
    sandbox_labels.insert(labels::POD_NAME.into(), id.name.clone());
    sandbox_labels.insert(labels::POD_NAMESPACE.into(), id.namespace.clone());
    sandbox_labels.insert(labels::POD_UID.into(), id.uid.clone());
    PodSandboxConfig {
        hostname,
        log_directory: settings.logs_dir.join(id.log_dir()).display().to_string(),
        dns_config: Some(dns::config(pod, &settings.resolver, &settings.cluster_dns, &settings.cluster_domain)),
        port_mappings: port_mappings(pod),
        labels: sandbox_labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(linux(pod, &id, settings)),
        metadata: Some(PodSandboxMetadata { name: id.name, uid: id.uid, namespace: id.namespace, attempt }),
        windows: None,
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    if pod::host_network(pod) {
        return Vec::new();
    }
    let ports = pod::all_containers(pod).flat_map(|c| pod::list(&c.ports));
    ports
        .filter(|port| port.host_port.is_some_and(|p| p > 0))
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn linux(pod: &Pod, id: &PodId, settings: &Settings) -> LinuxPodSandboxConfig {
    let spec = pod::spec(pod);
    let of_pod = spec.security_context.as_ref();
    let privileged = pod::all_containers(pod).any(security::privileged);
    let context = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: of_pod.and_then(|s| s.run_as_user).map(security::int64),
        run_as_group: of_pod.filter(|s| s.run_as_user.is_some()).and_then(|s| s.run_as_group).map(security::int64),
        supplemental_groups: security::supplemental_groups(pod),
        privileged,
        seccomp: Some(security::seccomp(pod, None, privileged, settings)),
        ..LinuxSandboxSecurityContext::default()
    };
    LinuxPodSandboxConfig {
        cgroup_parent: settings.cgroup_parent(QosClass::of(pod), &id.uid),
        security_context: Some(context),
        sysctls: sysctls::of(pod).map(|(name, value)| (name, value.to_owned())).collect(),
        ..LinuxPodSandboxConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

    use super::*;

    fn pod(spec: PodSpec) -> Pod {
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.uid = Some("u1".into());
        pod
    }

    #[test]
    fn names() {
        let settings = Settings::for_tests();
        let spec = |hostname: &str, subdomain: &str| PodSpec {
            hostname: Some(hostname.into()),
            subdomain: Some(subdomain.into()),
            ..PodSpec::default()
        };
        for (spec, expected) in [
            (spec("", ""), ("web", "")),
            (spec("h", "sub"), ("h", "sub.ns.svc.cluster.local")),
            (PodSpec { host_network: Some(true), ..spec("h", "s") }, ("node1", "")),
        ] {
            let (name, domain) = hostname(&pod(spec), &settings);
            assert_eq!((name.as_str(), domain.as_str()), expected);
        }
    }

    #[test]
    fn sandbox_of_a_plain_pod() {
        let alias = HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let pod = pod(PodSpec { host_aliases: Some(vec![alias]), subdomain: Some("s".into()), ..PodSpec::default() });
        let settings = Settings::for_tests();
        let config = config(&pod, 3, &settings);
        assert_eq!(config.metadata.as_ref().unwrap().attempt, 3);
        assert_eq!(config.log_directory, "/data/logs/pods/ns_web_u1");
        assert_eq!(config.labels[labels::POD_UID], "u1");
        let linux = config.linux.unwrap();
        assert!(linux.cgroup_parent.ends_with("kubepods/besteffort/podu1"), "{}", linux.cgroup_parent);
        let namespaces = linux.security_context.unwrap().namespace_options.unwrap();
        assert_eq!(namespaces.pid(), NamespaceMode::Container);
        let hosts = hosts_file(&pod, &["10.0.0.9".into()], &settings);
        assert!(hosts.contains("10.0.0.9\tweb.s.ns.svc.cluster.local\tweb\n"), "{hosts}");
        assert!(hosts.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{hosts}");
    }
}
