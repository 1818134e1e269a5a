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

    // The loop must not hang on the API server that is killed, so it runs in the pod, and is asked for its result later.
    let script = "ok=0; failed=0; echo >/tmp/go; while [ -e /tmp/go ]; do if wget -q -T 3 -O /dev/null http://web/; \
                  then ok=$((ok+1)); else failed=$((failed+1)); fi; echo \"$ok $failed\" >/tmp/count.new; \
                  mv /tmp/count.new /tmp/count; done";
    kubectl.run(&["exec", "client", "--", "sh", "-c", &format!("({script}) >/dev/null 2>&1 </dev/null &")]).unwrap();

    for round in 0..3 {
        if round == 1 {
            cluster.stop_server().unwrap();
        } else {
            cluster.kill_server().unwrap();
        }
        cluster.start_server().unwrap();
        cluster.wait_ready().unwrap();
    }
    kubectl.run(&["exec", "client", "--", "rm", "/tmp/go"]).unwrap();
    let count = kubectl.run(&["exec", "client", "--", "cat", "/tmp/count"]).unwrap();
    let (answered, failed) = count.trim().split_once(' ').unwrap();
    assert!(answered.parse::<u32>().unwrap() > 0);
    assert_eq!(failed, "0", "of {answered} requests, each with a look-up and a connect");

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
