//! A Deployment of three and a Service: names, spreading, scaling, and nothing left when it is gone.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl};
use std::collections::BTreeSet;
use std::path::Path;

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");

fn deploy(kubectl: &Kubectl) {
    kubectl.apply(WEB).unwrap();
    kubectl.apply(CLIENT).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    kubectl.wait("pod/client", "condition=Ready").unwrap();
}

/// The host names that answer within some requests, each of which connects anew.
fn answers(kubectl: &Kubectl, url: &str, requests: u32) -> BTreeSet<String> {
    let text = kubectl.run(&["exec", "client", "--", "fetch", url, &requests.to_string()]).unwrap();
    text.lines().filter(|line| line.starts_with("web-")).map(str::to_owned).collect()
}

#[test]
fn three_replicas_answer_by_name_and_scale() {
    let Some(cluster) = cluster_tests::cluster("three_replicas_answer_by_name_and_scale") else { return };
    let kubectl = cluster.kubectl();
    deploy(&kubectl);

    for url in ["http://web/", "http://web.default/", "http://web.default.svc.cluster.local/"] {
        assert_eq!(answers(&kubectl, url, 60).len(), 3, "{url} is spread over all three");
    }
    let address = kubectl.run(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).unwrap();
    assert_eq!(answers(&kubectl, &format!("http://{address}/"), 60).len(), 3);

    kubectl.run(&["scale", "deployment/web", "--replicas=1"]).unwrap();
    kubectl.wait("deployment/web", "jsonpath={.status.replicas}=1").unwrap();
    kubectl.run(&["scale", "deployment/web", "--replicas=2"]).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    assert_eq!(answers(&kubectl, "http://web/", 40).len(), 2);
}

#[test]
fn node_ports_answer_on_the_node() {
    let Some(cluster) = cluster_tests::cluster("node_ports_answer_on_the_node") else { return };
    let kubectl = cluster.kubectl();
    deploy(&kubectl);
    kubectl.run(&["patch", "service", "web", "-p", r#"{"spec":{"type":"NodePort"}}"#]).unwrap();
    let port = kubectl.run(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]).unwrap();
    // The proxy learns of the port by a watch; until then the node refuses. Bounded by the number of tries.
    let ask = format!(
        "exec 3<>/dev/tcp/{}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep web- <&3",
        cluster.node_ip()
    );
    let script = format!("i=0; until ( {ask} ); do i=$((i + 1)); [ $i -lt 500 ] || exit 1; done");
    let output = cluster.host_command("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What of a pod can be seen on the machine.
fn traces(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let links = cluster.node().ip(&["-o", "link"]).unwrap();
    found.extend(links.lines().filter(|line| !line.contains(" lo:") && !line.contains(" eth0")).map(str::to_owned));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let data = cluster.data_dir().display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&data)).map(str::to_owned));
    for hierarchy in ["memory", "cpu", "pids", "unified", ""] {
        let root = Path::new("/sys/fs/cgroup").join(hierarchy).join(cluster.name()).join("kubepods");
        pod_groups(&root, &mut found);
    }
    let pods = cluster.data_dir().join("kubelet/pods");
    found.extend(
        std::fs::read_dir(pods).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()),
    );
    found
}

fn pod_groups(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().starts_with("pod") {
                found.push(entry.path().display().to_string());
            }
            pod_groups(&entry.path(), found);
        }
    }
}

#[test]
fn deletion_leaves_nothing() {
    let Some(cluster) = cluster_tests::cluster("deletion_leaves_nothing") else { return };
    let kubectl = cluster.kubectl();
    let before = traces(&cluster);
    deploy(&kubectl);
    assert!(traces(&cluster).len() > before.len(), "pods leave traces while they run");
    kubectl.run(&["delete", "deployment/web", "service/web", "pod/client", "--wait=true", "--timeout=90s"]).unwrap();
    // Gone from the API means gone from the machine.
    kubectl.run(&["wait", "pod", "--all", "--for=delete", "--timeout=90s"]).unwrap();
    assert_eq!(traces(&cluster), before);
}
