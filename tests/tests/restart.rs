//! keelson dies and comes back: nothing that runs may notice.

use cluster_tests::Traffic;

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");

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
    let before = started(&kubectl.json(&["get", "pods"]).unwrap());

    // Its output must not hang on the API server that is killed: it runs on in the pod, and is asked for its result later.
    let begin = "echo >/tmp/go; (fetch --while /tmp/go http://web/ >/tmp/log; mv /tmp/log /tmp/count) </dev/null >/dev/null 2>&1 &";
    kubectl.run(&["exec", "client", "--", "sh", "-c", begin]).unwrap();

    for round in 0..3 {
        if round == 1 {
            cluster.stop_server().unwrap();
        } else {
            cluster.kill_server().unwrap();
        }
        cluster.start_server().unwrap();
        cluster.wait_ready().unwrap();
    }
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
