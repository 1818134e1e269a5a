//! A Deployment of three and a Service: names, spreading, scaling, and nothing left when it is gone.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::Kubectl;
use std::collections::BTreeSet;

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

#[test]
fn deletion_leaves_nothing() {
    let Some(cluster) = cluster_tests::cluster("deletion_leaves_nothing") else { return };
    let kubectl = cluster.kubectl();
    let before = cluster.traces();
    deploy(&kubectl);
    assert!(cluster.traces().len() > before.len(), "pods leave traces while they run");
    kubectl.run(&["delete", "deployment/web", "service/web", "pod/client", "--wait=true", "--timeout=90s"]).unwrap();
    // Gone from the API means gone from the machine.
    kubectl.run(&["wait", "pod", "--all", "--for=delete", "--timeout=90s"]).unwrap();
    assert_eq!(cluster.traces(), before);
}
