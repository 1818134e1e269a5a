//! resolv.conf of a pod: the cluster's resolver, the node's, or none, with dnsConfig on top.

use std::net::IpAddr;

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What the node's resolver configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostResolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl HostResolver {
    /// Reads a resolv.conf. As in the C library, the last `search` and `options` count.
    pub(crate) fn parse(text: &str) -> HostResolver {
        let mut host = HostResolver::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => host.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    host.searches =
                        words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
                }
                Some("options") => host.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        host
    }
}

/// Builds the configuration of one pod.
pub(crate) fn config(pod: &Pod, host: &HostResolver, cluster_dns: &[IpAddr], domain: &str) -> DnsConfig {
    let spec = pod::spec(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let from_cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !pod::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut dns = if spec.dns_policy.as_deref() == Some("None") {
        DnsConfig::default()
    } else if from_cluster && !cluster_dns.is_empty() {
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(host.searches.iter().cloned());
        DnsConfig {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        let HostResolver { servers, searches, options } = host.clone();
        DnsConfig { servers, searches, options }
    };
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(pod::list(&own.nameservers).iter().cloned());
        dns.searches.extend(pod::list(&own.searches).iter().cloned());
        for option in pod::list(&own.options) {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|old| old.split(':').next() != Some(name));
            let value = option.value.as_deref().filter(|v| !v.is_empty());
            dns.options.push(value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    limit(&mut dns);
    dns
}

fn limit(dns: &mut DnsConfig) {
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(MAX_NAMESERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    while dns.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        dns.searches.pop();
    }
}

fn dedup(items: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    items.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};

    use super::*;

    fn shown(policy: &str, host_network: bool, own: Option<PodDNSConfig>) -> String {
        let spec = PodSpec {
            dns_policy: Some(policy.into()),
            host_network: Some(host_network),
            dns_config: own,
            ..PodSpec::default()
        };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.namespace = Some("ns".into());
        let host = HostResolver::parse("# x\nnameserver 1.1.1.1\nsearch corp.example. b\noptions ndots:2 rotate\n");
        let dns = config(&pod, &host, &["10.96.0.10".parse().unwrap()], "cluster.local");
        format!("{} | {} | {}", dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" "))
    }

    #[test]
    fn policies() {
        let cluster = "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example b | ndots:5";
        let host = "1.1.1.1 | corp.example b | ndots:2 rotate";
        let own = || PodDNSConfig {
            nameservers: Some(vec!["9.9.9.9".into()]),
            searches: Some(vec!["my.dom".into()]),
            options: Some(vec![PodDNSConfigOption { name: Some("ndots".into()), value: Some("3".into()) }]),
        };
        for (policy, host_network, own, expected) in [
            ("ClusterFirst", false, None, cluster),
            ("ClusterFirst", true, None, host),
            ("ClusterFirstWithHostNet", true, None, cluster),
            ("Default", false, None, host),
            ("None", false, Some(own()), "9.9.9.9 | my.dom | ndots:3"),
            ("Default", false, Some(own()), "1.1.1.1 9.9.9.9 | corp.example b my.dom | rotate ndots:3"),
        ] {
            assert_eq!(shown(policy, host_network, own), expected, "{policy} {host_network}");
        }
    }
}
