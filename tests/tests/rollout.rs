//! A rolling update under traffic, and its way back.

use cluster_tests::Traffic;

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");

#[test]
fn a_rolling_update_fails_no_request() {
    let Some(cluster) = cluster_tests::cluster("a_rolling_update_fails_no_request") else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(WEB).unwrap();
    kubectl.apply(CLIENT).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    kubectl.wait("pod/client", "condition=Ready").unwrap();

    let traffic = Traffic::start(&kubectl, "client", "http://web/").unwrap();
    kubectl.run(&["set", "env", "deployment/web", "VERSION=2"]).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).unwrap();
    kubectl.run(&["rollout", "undo", "deployment/web"]).unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).unwrap();
    let (answered, failed) = traffic.stop().unwrap();
    assert!(answered > 0);
    assert_eq!(failed, 0, "of {answered}");

    let history = kubectl.run(&["rollout", "history", "deployment/web"]).unwrap();
    assert!(history.contains('3') && !history.contains("\n1 "), "undo makes revision 1 into 3:\n{history}");
}
