//! Sysctls of a pod: which ones a namespace holds, and which of those a pod may set unasked.

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// These concern nothing but the pod that sets them.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];

/// Names with dots, and their values.
pub(crate) fn of(pod: &Pod) -> impl Iterator<Item = (String, &str)> {
    let sysctls = pod::spec(pod).security_context.as_ref().map(|s| pod::list(&s.sysctls)).unwrap_or_default();
    sysctls.iter().map(|sysctl| (dotted(&sysctl.name), sysctl.value.as_str()))
}

/// The reason why the pod may not have one of its sysctls.
pub(crate) fn check(pod: &Pod) -> Result<(), String> {
    let spec = pod::spec(pod);
    for (name, _) in of(pod) {
        if spec.host_ipc == Some(true) && (name == "kernel.sem" || IPC.iter().any(|prefix| name.starts_with(prefix))) {
            return Err(format!("{name:?} not allowed with host ipc enabled"));
        }
        if pod::host_network(pod) && name.starts_with("net.") {
            return Err(format!("{name:?} not allowed with host net enabled"));
        }
        if !SAFE.contains(&name.as_str()) {
            return Err(format!("{name:?} not allowlisted"));
        }
    }
    Ok(())
}

/// Names may be written as paths, in which a dot is part of a name, such as an interface's.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, Sysctl};

    use super::*;

    #[test]
    fn which_are_allowed() {
        let no_host = PodSpec::default;
        for (name, spec, expected) in [
            ("kernel.shm_rmid_forced", no_host(), Ok(())),
            ("kernel/shm_rmid_forced", no_host(), Ok(())),
            ("net.ipv4.tcp_syncookies", no_host(), Ok(())),
            ("kernel.msgmax", no_host(), Err("\"kernel.msgmax\" not allowlisted")),
            ("net/ipv4/conf/eth0.1/forwarding", no_host(), Err("\"net.ipv4.conf.eth0/1.forwarding\" not allowlisted")),
            (
                "kernel.shm_rmid_forced",
                PodSpec { host_ipc: Some(true), ..no_host() },
                Err("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
            (
                "net.ipv4.tcp_syncookies",
                PodSpec { host_network: Some(true), ..no_host() },
                Err("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled"),
            ),
        ] {
            let sysctl = Sysctl { name: name.into(), value: "1".into() };
            let security = PodSecurityContext { sysctls: Some(vec![sysctl]), ..PodSecurityContext::default() };
            let pod = Pod { spec: Some(PodSpec { security_context: Some(security), ..spec }), ..Pod::default() };
            assert_eq!(check(&pod), expected.map_err(str::to_owned), "{name}");
        }
    }
}
