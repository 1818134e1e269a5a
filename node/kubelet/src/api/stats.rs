//! Usage of the node and its pods, as CRI and /proc tell it.

use std::collections::BTreeMap;

use cri::v1::{ContainerStats, PodSandboxStats};
use cri::{CriError, Runtime};
use jiff::Timestamp;
use serde_json::{Value, json};

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// `/runningpods`: what runs, by the runtime's word alone.
pub(super) async fn running_pods(runtime: &Runtime) -> Result<Value, CriError> {
    let containers = runtime.list_containers(None).await?;
    let sandboxes = runtime.list_pod_sandboxes(None).await?;
    let items: Vec<Value> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.state() == cri::v1::PodSandboxState::SandboxReady)
        .map(|sandbox| {
            let meta = sandbox.metadata.clone().unwrap_or_default();
            let own = containers.iter().filter(|container| container.pod_sandbox_id == sandbox.id);
            let running = own.filter(|container| container.state() == cri::v1::ContainerState::ContainerRunning);
            let containers: Vec<Value> = running
                .map(|container| {
                    let name = container.metadata.as_ref().map(|meta| meta.name.as_str()).unwrap_or_default();
                    json!({"name": name, "image": container.image_ref, "resources": {}})
                })
                .collect();
            json!({
                "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid, "creationTimestamp": null},
                "spec": {"containers": containers}, "status": {},
            })
        })
        .collect();
    Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// `/stats/summary`.
pub(super) async fn summary(node_name: &str, runtime: &Runtime) -> Result<Value, CriError> {
    let containers = runtime.list_container_stats(None).await?;
    let sandboxes = match runtime.list_pod_sandbox_stats(None).await {
        Ok(sandboxes) => sandboxes,
        // Network figures are all that is lost with a runtime that has none.
        Err(error) if error.is_unimplemented() => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(json!({"node": node(node_name), "pods": pods(&containers, &sandboxes)}))
}

fn pods(containers: &[ContainerStats], sandboxes: &[PodSandboxStats]) -> Vec<Value> {
    let mut pods: BTreeMap<[String; 3], Vec<Value>> = BTreeMap::new();
    for stats in containers {
        let Some(attributes) = &stats.attributes else { continue };
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let key = [label(POD_NAMESPACE), label(POD_NAME), label(POD_UID)];
        pods.entry(key).or_default().push(container(&label(CONTAINER_NAME), stats));
    }
    let pod = |([namespace, name, uid], containers): ([String; 3], Vec<Value>)| {
        let sandbox = sandboxes.iter().find(|sandbox| {
            let meta = sandbox.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
            meta.is_some_and(|meta| meta.uid == uid)
        });
        let mut value = json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "containers": containers});
        let linux = sandbox.and_then(|sandbox| sandbox.linux.as_ref());
        if let Some(network) = linux.and_then(|linux| linux.network.as_ref()) {
            let interface = network.default_interface.clone().unwrap_or_default();
            let number = |value: Option<cri::v1::UInt64Value>| value.map_or(0, |value| value.value);
            value["network"] = json!({
                "time": time(network.timestamp), "name": interface.name,
                "rxBytes": number(interface.rx_bytes), "rxErrors": number(interface.rx_errors),
                "txBytes": number(interface.tx_bytes), "txErrors": number(interface.tx_errors),
            });
        }
        for figure in ["cpu", "memory"] {
            value[figure] = sum(&value["containers"], figure);
        }
        value
    };
    pods.into_iter().map(pod).collect()
}

fn container(name: &str, stats: &ContainerStats) -> Value {
    let number = |value: &Option<cri::v1::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let mut value = json!({"name": name});
    if let Some(cpu) = &stats.cpu {
        value["cpu"] = json!({
            "time": time(cpu.timestamp), "usageCoreNanoSeconds": number(&cpu.usage_core_nano_seconds),
            "usageNanoCores": number(&cpu.usage_nano_cores),
        });
    }
    if let Some(memory) = &stats.memory {
        value["memory"] = json!({"time": time(memory.timestamp), "workingSetBytes": number(&memory.working_set_bytes)});
    }
    if let Some(layer) = &stats.writable_layer {
        value["rootfs"] = json!({
            "time": time(layer.timestamp), "usedBytes": number(&layer.used_bytes),
            "inodesUsed": number(&layer.inodes_used),
        });
    }
    value
}

/// A pod's figure: the sum of its containers', at the time of the last.
fn sum(containers: &Value, figure: &str) -> Value {
    let mut out = serde_json::Map::new();
    for container in containers.as_array().into_iter().flatten() {
        for (key, value) in container[figure].as_object().into_iter().flatten() {
            match (value.as_u64(), out.get(key).and_then(Value::as_u64)) {
                (Some(new), Some(old)) => out.insert(key.clone(), json!(old + new)),
                _ => out.insert(key.clone(), value.clone()),
            };
        }
    }
    Value::Object(out)
}

fn node(name: &str) -> Value {
    let now = Timestamp::now().to_string();
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut value = json!({"nodeName": name});
    if let Some(busy) = cpu_nanoseconds(&stat) {
        value["cpu"] = json!({"time": now, "usageCoreNanoSeconds": busy});
    }
    if let (Some(total), Some(available)) = (kibibytes(&memory, "MemTotal:"), kibibytes(&memory, "MemAvailable:")) {
        let used = total.saturating_sub(available);
        value["memory"] =
            json!({"time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used});
    }
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse().ok());
    if let Some(boot) = boot.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        value["startTime"] = json!(boot.to_string());
    }
    value
}

/// Time of all processors but idle and waiting for devices. /proc counts in hundredths of a second.
fn cpu_nanoseconds(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, ticks)| ticks).sum();
    Some(busy * 10_000_000)
}

fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(cpu_nanoseconds("cpu  1 2 3 100 50 4 5 6 7 8\ncpu0 1"), Some(210_000_000));
        assert_eq!(cpu_nanoseconds(""), None);
        assert_eq!(kibibytes("MemTotal:   12 kB\nMemAvailable: 3 kB\n", "MemAvailable:"), Some(3072));
    }

    #[test]
    fn containers_sum_up_to_pods() {
        let stats = |pod: &str, name: &str, bytes| {
            let labels = [(POD_NAME, pod), (POD_NAMESPACE, "ns"), (POD_UID, pod), (CONTAINER_NAME, name)];
            ContainerStats {
                attributes: Some(cri::v1::ContainerAttributes {
                    labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                    ..Default::default()
                }),
                memory: Some(cri::v1::MemoryUsage {
                    working_set_bytes: Some(cri::v1::UInt64Value { value: bytes }),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let pods = pods(&[stats("a", "x", 1), stats("b", "x", 2), stats("a", "y", 4)], &[]);
        assert_eq!(pods.len(), 2);
        assert_eq!(pods[0]["memory"]["workingSetBytes"], 5);
        assert_eq!(pods[0]["containers"][1]["name"], "y");
        assert_eq!(pods[1]["podRef"]["name"], "b");
    }
}
