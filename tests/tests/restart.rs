//! keelson dies and comes back: nothing that runs may notice.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl, Lines, Traffic};
use std::time::Duration;

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");

/// In the order of applying: what is waited for in the end comes last.
const MANIFEST: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}}]}"#;

/// Files in DATA_DIR/manifests are applied and pruned, whatever else happens to their objects.
fn manifests(cluster: &Cluster, kubectl: &Kubectl) {
    let write = |name: &str, text: &str| {
        // As an editor does: under another name first.
        let path = cluster.data_dir().join("manifests").join(name);
        std::fs::write(path.with_extension("tmp"), text).unwrap();
        std::fs::rename(path.with_extension("tmp"), path).unwrap();
    };
    let mut watch = kubectl.spawn(&["get", "configmaps", "--watch", "-o", "jsonpath={.data}{\"\\n\"}"]).unwrap();
    let lines = Lines::of(watch.inner().stdout.take().unwrap());
    let limit = Duration::from_secs(60);
    write("broken.yaml", "kind: [");
    write("objects.json", MANIFEST);
    lines.wait_for(r#"{"a":"1","b":"2"}"#, limit).unwrap();
    let port = "jsonpath={.spec.ports[0].nodePort}";
    let before = kubectl.run(&["get", "service", "two", "-o", port]).unwrap();
    kubectl.run(&["patch", "configmap", "one", "-p", r#"{"data":{"theirs":"x"}}"#]).unwrap();
    write(
        "objects.json",
        &MANIFEST.replace(r#", "b": "2""#, "").replace(r#"{"port": 80}"#, r#"{"port": 80, "name": "web"}"#),
    );
    lines.wait_for(r#"{"a":"1","theirs":"x"}"#, limit).unwrap();
    assert_eq!(kubectl.run(&["get", "service", "two", "-o", port]).unwrap(), before, "what the server chose stays");
    // A file that cannot be read gives nothing and takes nothing away.
    write("objects.json", "{");
    write("more.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: three}\ndata: {c: \"3\"}\n");
    lines.wait_for(r#"{"c":"3"}"#, limit).unwrap();
    kubectl.run(&["get", "configmap/one", "service/two"]).unwrap();
    let reason = ["get", "events", "--watch", "--namespace=kube-system", "--field-selector=reason=FailedManifest"];
    let mut watch = kubectl.spawn(&reason).unwrap();
    Lines::of(watch.inner().stdout.take().unwrap()).wait_for("broken.yaml: document 1: ", limit).unwrap();
}

#[test]
fn a_killed_server_disturbs_nothing() {
    let Some(mut cluster) = cluster_tests::cluster("a_killed_server_disturbs_nothing") else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(WEB).unwrap();
    kubectl.apply(CLIENT).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    kubectl.wait("pod/client", "condition=Ready").unwrap();
    let started = |pods: &serde_json::Value| -> Vec<String> {
        let items = pods["items"].as_array().unwrap();
        items
            .iter()
            .map(|pod| pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].to_string())
            .collect()
    };
    manifests(&cluster, &kubectl);
    let before = started(&kubectl.json(&["get", "pods"]).unwrap());

    // Its output must not hang on the API server that is killed: it runs on in the pod, and is asked for its result later.
    let begin = "echo >/tmp/go; (fetch --while /tmp/go http://web/ >/tmp/log; mv /tmp/log /tmp/count) </dev/null >/dev/null 2>&1 &";
    kubectl.run(&["exec", "client", "--", "sh", "-c", begin]).unwrap();

    for round in 0..3 {
        if round == 1 {
            cluster.stop_server().unwrap();
            // What goes while nobody looks is noticed at the start.
            std::fs::remove_file(cluster.data_dir().join("manifests/objects.json")).unwrap();
        } else {
            cluster.kill_server().unwrap();
        }
        cluster.start_server().unwrap();
        cluster.wait_ready().unwrap();
    }
    kubectl.run(&["wait", "--for=delete", "configmap/one", "service/two", "--timeout=60s"]).unwrap();
    kubectl.run(&["get", "configmap/three"]).unwrap();
    let end = "rm /tmp/go; while [ ! -e /tmp/count ]; do :; done; cat /tmp/count";
    let log = kubectl.run(&["exec", "client", "--", "sh", "-c", end]).unwrap();
    let summary = log.lines().last().unwrap();
    assert!(summary.starts_with("ok ") && !summary.starts_with("ok 0 "), "{log}");
    assert!(summary.ends_with(" failed 0"), "each request is a look-up and a connect:\n{log}");

    let pods = kubectl.json(&["get", "pods"]).unwrap();
    assert_eq!(started(&pods), before, "no container was restarted");
    for pod in pods["items"].as_array().unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    // And it still works: a new pod is scheduled, run and reached.
    kubectl.run(&["scale", "deployment/web", "--replicas=4"]).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    let traffic = Traffic::start(&kubectl, "client", "http://web/").unwrap();
    assert_eq!(traffic.stop().unwrap().1, 0);
}
