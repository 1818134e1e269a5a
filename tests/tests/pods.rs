//! Pods one by one: crashes, volumes, the API from inside.

use std::time::Duration;

#[test]
fn a_crashing_pod_backs_off() {
    let Some(cluster) = cluster_tests::cluster("a_crashing_pod_backs_off") else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(include_str!("manifests/crash.yaml")).unwrap();
    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    kubectl.wait("pod/crash", waiting).unwrap();
    let pod = kubectl.json(&["get", "pod", "crash"]).unwrap();
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["restartCount"].as_u64().unwrap() >= 1, "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert_eq!(status["lastState"]["terminated"]["message"], "went wrong\n", "{status}");
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off ") && message.contains("restarting failed container=main"), "{message}");
    let previous = kubectl.run(&["logs", "crash", "--previous"]).unwrap();
    assert_eq!(previous, "about to fail\n");
    kubectl.run(&["delete", "pod", "crash", "--timeout=60s"]).unwrap();
}

#[test]
fn a_config_map_s_update_reaches_its_volume() {
    let Some(cluster) = cluster_tests::cluster("a_config_map_s_update_reaches_its_volume") else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(include_str!("manifests/volumes.yaml")).unwrap();
    kubectl.wait("pod/volumes", "condition=Ready").unwrap();
    let read = |path: &str| kubectl.run(&["exec", "volumes", "--", "cat", path]).unwrap();
    assert_eq!(read("/config/greeting"), "hello");
    assert_eq!(read("/secret/password"), "s3cret");
    assert_eq!(read("/info/labels"), "app=\"volumes\"");
    assert_eq!(
        kubectl.run(&["exec", "volumes", "--", "sh", "-c", "echo $GREETING $POD_IP"]).unwrap().split(' ').next(),
        Some("hello")
    );

    // The pod says when its file changes; nobody polls from outside.
    let mut child = kubectl
        .spawn(&[
            "exec",
            "volumes",
            "--",
            "sh",
            "-c",
            "while ! grep -q changed /config/greeting; do :; done; echo arrived",
        ])
        .unwrap();
    kubectl.run(&["patch", "configmap", "greeting", "-p", r#"{"data":{"greeting":"changed"}}"#]).unwrap();
    let lines = cluster_tests::Lines::of(child.inner().stdout.take().unwrap());
    lines.wait_for("arrived", Duration::from_secs(60)).unwrap();
    assert_eq!(read("/config/greeting"), "changed");
}

#[test]
fn the_api_answers_inside_a_pod() {
    let Some(cluster) = cluster_tests::cluster("the_api_answers_inside_a_pod") else { return };
    let kubectl = cluster.kubectl();
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join("kubectl"))
        .find(|path| path.is_file())
        .unwrap()
        .canonicalize()
        .unwrap()
        .with_file_name("kubectl.1.33");
    // client-go's in-cluster configuration: the token, the CA and KUBERNETES_SERVICE_HOST, nothing else.
    let manifest = include_str!("manifests/api.yaml").replace("KUBECTL", &program.display().to_string());
    kubectl.apply(&manifest).unwrap();
    kubectl.wait("pod/api", "condition=Ready").unwrap();
    let inside = |args: &[&str]| {
        let all: Vec<&str> = ["exec", "api", "--", "/kubectl"].iter().chain(args).copied().collect();
        kubectl.run_with(&all, "").unwrap()
    };
    let names = inside(&["get", "pods", "-o", "name"]);
    assert_eq!((names.code, names.stdout.as_str()), (0, "pod/api\n"), "{}", names.stderr);
    let forbidden = inside(&["get", "secrets"]);
    assert_ne!(forbidden.code, 0);
    let expected = "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    assert!(forbidden.stderr.contains(expected), "{}", forbidden.stderr);
}
