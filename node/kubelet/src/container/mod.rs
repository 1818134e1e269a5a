//! From a pod's spec to what CRI is asked for: sandbox, container, security, mounts, resources.

mod dns;
mod mounts;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod sysctls;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cri::containerd::Registries;
use cri::v1::{
    ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    Mount, Signal,
};
use k8s_openapi::api::core::v1::{Container, Pod};

pub(crate) use dns::HostResolver;
pub(crate) use mounts::{Prepared, prepare as prepare_mounts};

use crate::env::{Env, expand};
use crate::pod::{self, PodId};
use crate::qos::{self, QosClass};
use crate::{cgroup, labels, resources};

/// What of the node's settings containers depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) node_name: String,
    pub(crate) cluster_domain: String,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) resolver: HostResolver,
    pub(crate) registries: Registries,
    pub(crate) logs_dir: PathBuf,
    pub(crate) pods_dir: PathBuf,
    pub(crate) seccomp_dir: PathBuf,
    pub(crate) cgroup_root: String,
    pub(crate) memory_capacity: i64,
    /// Processes and threads that one pod may have; zero for no limit.
    pub(crate) pod_pids: i64,
    /// The kernel can kill all of a container where it would kill one process of it for want of memory.
    pub(crate) kill_group: bool,
}

impl Settings {
    /// The cgroup of a pod.
    pub(crate) fn cgroup_parent(&self, class: QosClass, uid: &str) -> String {
        let root = self.cgroup_root.trim_matches('/');
        let root = if root.is_empty() { String::new() } else { format!("/{root}") };
        match class {
            QosClass::Guaranteed => format!("{root}/kubepods/pod{uid}"),
            QosClass::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
            QosClass::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Settings {
        Settings {
            node_name: "node1".into(),
            cluster_domain: "cluster.local".into(),
            logs_dir: "/data/logs/pods".into(),
            pods_dir: "/data/kubelet/pods".into(),
            memory_capacity: 1 << 32,
            ..Settings::default()
        }
    }
}

/// What a container's configuration is made from.
pub(crate) struct Request<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    /// How many runs of it there were before.
    pub(crate) restart_count: u32,
    pub(crate) image: &'a Image,
    pub(crate) env: &'a Env,
    pub(crate) mounts: Vec<Mount>,
    /// Host file of the termination message.
    pub(crate) termination_file: String,
    /// The container whose processes it sees.
    pub(crate) target: Option<String>,
}

/// Builds the container's configuration.
pub(crate) fn config(request: Request<'_>, settings: &Settings) -> ContainerConfig {
    let Request { pod, container, restart_count, env, .. } = request;
    let lookup = |name: &str| env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded = |list: &Option<Vec<String>>| pod::list(list).iter().map(|text| expand(text, lookup)).collect();
    let image = container.image.clone().unwrap_or_default();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: restart_count }),
        image: Some(ImageSpec { image: request.image.id.clone(), user_specified_image: image, ..ImageSpec::default() }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(k, v)| KeyValue { key: k.clone(), value: v.clone().into_bytes() }).collect(),
        mounts: request.mounts,
        labels: container_labels(pod, container),
        annotations: annotations(pod, container, restart_count, request.termination_file),
        log_path: format!("{}/{restart_count}.log", container.name),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(linux_resources(pod, container, settings)),
            security_context: Some(security::context(pod, container, request.image, request.target, settings)),
        }),
        stop_signal: stop_signal(container).into(),
        ..ContainerConfig::default()
    }
}

fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let id = PodId::of(pod);
    BTreeMap::from([
        (labels::POD_NAME.into(), id.name),
        (labels::POD_NAMESPACE.into(), id.namespace),
        (labels::POD_UID.into(), id.uid),
        (labels::CONTAINER_NAME.into(), container.name.clone()),
    ])
}

fn annotations(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
    termination_file: String,
) -> BTreeMap<String, String> {
    let path = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let grace = pod::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    BTreeMap::from([
        (labels::HASH.into(), pod::container_hash(container)),
        (labels::RESTART_COUNT.into(), restart_count.to_string()),
        (labels::TERMINATION_PATH.into(), path),
        (labels::TERMINATION_POLICY.into(), policy),
        (labels::TERMINATION_FILE.into(), termination_file),
        (labels::POD_GRACE.into(), grace.to_string()),
    ])
}

/// Requests and limits in the kernel's terms.
pub(crate) fn linux_resources(pod: &Pod, container: &Container, settings: &Settings) -> LinuxContainerResources {
    let cpu_limit = resources::limit(container, "cpu").filter(|v| *v > 0);
    let cpu_request = resources::request(container, "cpu").unwrap_or(0);
    LinuxContainerResources {
        cpu_period: if cpu_limit.is_some() { cgroup::CPU_PERIOD } else { 0 },
        cpu_quota: cpu_limit.map_or(0, cgroup::quota),
        cpu_shares: cgroup::shares(cpu_request) as i64,
        memory_limit_in_bytes: resources::limit(container, "memory").unwrap_or(0),
        oom_score_adj: qos::oom_score_adj(pod, container, settings.memory_capacity),
        // As upstream: half a container is nothing that anybody could restart.
        unified: settings.kill_group.then(|| ("memory.oom.group".to_owned(), "1".to_owned())).into_iter().collect(),
        ..LinuxContainerResources::default()
    }
}

fn stop_signal(container: &Container) -> Signal {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(Signal::from_str_name).unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Lifecycle, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    #[test]
    fn a_container_with_everything() {
        let limits =
            BTreeMap::from([("cpu".into(), Quantity("500m".into())), ("memory".into(), Quantity("64Mi".into()))]);
        let container = Container {
            name: "c".into(),
            image: Some("web:1".into()),
            args: Some(vec!["--name=$(NAME)".into(), "$(NONE)".into()]),
            resources: Some(ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() }),
            lifecycle: Some(Lifecycle { stop_signal: Some("SIGUSR1".into()), ..Lifecycle::default() }),
            ..Container::default()
        };
        let env = vec![("NAME".to_owned(), "x".to_owned())];
        let request = Request {
            pod: &Pod::default(),
            container: &container,
            restart_count: 4,
            image: &Image { id: "sha256:1".into(), ..Image::default() },
            env: &env,
            mounts: vec![],
            termination_file: "/f".into(),
            target: None,
        };
        let config = config(request, &Settings { kill_group: true, ..Settings::for_tests() });
        assert_eq!(config.args, ["--name=x", "$(NONE)"]);
        assert_eq!(config.log_path, "c/4.log");
        assert_eq!(config.annotations[labels::RESTART_COUNT], "4");
        assert_eq!(config.stop_signal(), Signal::Sigusr1);
        let linux = config.linux.unwrap().resources.unwrap();
        assert_eq!((linux.cpu_quota, linux.cpu_shares, linux.memory_limit_in_bytes), (50_000, 512, 64 << 20));
        assert_eq!(linux.unified["memory.oom.group"], "1");
    }
}
