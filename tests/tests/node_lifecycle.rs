//! How pods end, and what they live through: restarts of the server, and a power failure.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl, Lines};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn pods_end_and_come_back() {
    let Some(mut cluster) = cluster_tests::cluster("pods_end_and_come_back") else { return };
    let kubectl = cluster.kubectl();
    let before = cluster.traces();
    kubectl.apply(include_str!("manifests/node_lifecycle.yaml")).unwrap();
    kubectl.apply(include_str!("manifests/web.yaml")).unwrap();
    kubectl.apply(include_str!("manifests/client.yaml")).unwrap();
    for pod in ["polite", "stubborn", "patient", "forced", "doomed", "vanished", "once", "client", "probed", "orphaned"]
    {
        kubectl.wait(&format!("pod/{pod}"), "condition=Ready").unwrap();
    }
    kubectl.wait("pod/done", "jsonpath={.status.phase}=Succeeded").unwrap();
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    graceful_ends(&kubectl);
    impatience(&cluster, &kubectl);
    a_dying_runtime(&cluster, &kubectl);
    a_hung_runtime(&cluster, &kubectl);
    a_restart_of_the_server(&mut cluster, &kubectl);
    a_power_failure(&mut cluster, &kubectl);
    kubectl
        .run(&["delete", "deployment,service,pod", "-l", "component!=apiserver", "--wait=true", "--timeout=90s"])
        .unwrap();
    kubectl.run(&["wait", "pod", "--all", "--for=delete", "--timeout=90s"]).unwrap();
    // containerd may still be removing what it has told the end of.
    cluster.wait_entries("containerd/state/io.containerd.runtime.v2.task/k8s.io", <[String]>::is_empty).unwrap();
    assert_eq!(cluster.traces(), before);
}

fn container(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.json(&["get", "pod", pod]).unwrap()["status"]["containerStatuses"][0].clone()
}

/// The process id of the cluster's containerd.
fn containerd(cluster: &Cluster) -> i32 {
    let note = std::fs::read_to_string(cluster.data_dir().join("containerd/containerd.pid")).unwrap();
    note.lines().next().unwrap().parse().unwrap()
}

fn uid(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).unwrap()
}

/// The hook before the signal, the signal, and no more than that where the container goes by itself.
fn graceful_ends(kubectl: &Kubectl) {
    let mut follow = kubectl.spawn(&["logs", "-f", "polite"]).unwrap();
    let lines = Lines::of(follow.inner().stdout.take().unwrap());
    lines.wait_for("postStart", LIMIT).unwrap();
    let begun = Instant::now();
    kubectl.run(&["delete", "pod", "polite", "--wait=false"]).unwrap();
    lines.wait_for("preStop", LIMIT).unwrap();
    lines.wait_for("terminated", LIMIT).unwrap();
    kubectl.run(&["wait", "pod/polite", "--for=delete", "--timeout=60s"]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "it waited for the grace period: {:?}", begun.elapsed());

    // SIGTERM ignored: SIGKILL when the grace period is over, and not before.
    let begun = Instant::now();
    kubectl.run(&["delete", "pod", "stubborn", "--timeout=60s"]).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

fn impatience(cluster: &Cluster, kubectl: &Kubectl) {
    // A second deletion with less grace shortens the first.
    let begun = Instant::now();
    kubectl.run(&["delete", "pod", "patient", "--wait=false"]).unwrap();
    kubectl.run(&["delete", "pod", "patient", "--grace-period=1", "--timeout=60s"]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());

    // Forced: the object goes at once, the container as soon as the node hears of it.
    let uid = uid(kubectl, "forced");
    let processes = cluster.processes(&uid);
    assert!(!processes.is_empty());
    kubectl.run(&["delete", "pod", "forced", "--grace-period=0", "--force"]).unwrap();
    for pid in processes {
        cluster_tests::wait_ended(pid, LIMIT).unwrap();
    }
    cluster.wait_removed(&format!("logs/pods/default_forced_{uid}")).unwrap();
}

fn a_dying_runtime(cluster: &Cluster, kubectl: &Kubectl) {
    let kill = |pid: i32| kill(Pid::from_raw(pid), Signal::SIGKILL);
    // Without containerd no probe can be tried, which says nothing of the container.
    let since = |pod: &str| {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}";
        kubectl.run(&["get", "pod", pod, "-o", path]).unwrap()
    };
    let (before, ready_since) = (container(kubectl, "probed"), since("probed"));
    kill(containerd(cluster)).unwrap();
    let image = "--image=keelson.dev/busybox:1";
    kubectl.run(&["run", "after", image, "--restart=Never", "--command", "--", "sh", "-c", "echo it is back"]).unwrap();
    kubectl.wait("pod/after", "jsonpath={.status.phase}=Succeeded").unwrap();
    assert_eq!(container(kubectl, "probed"), before);
    assert_eq!(since("probed"), ready_since);

    // With its shim gone, nobody knows how the container ended; it does end, and another takes its place.
    let processes = cluster.processes(&uid(kubectl, "orphaned"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", processes.first().unwrap())).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    kill(shim.trim().parse().unwrap()).unwrap();
    kubectl.wait("pod/orphaned", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    kubectl.wait("pod/orphaned", "condition=Ready").unwrap();
    for pid in processes {
        cluster_tests::wait_ended(pid, LIMIT).unwrap();
    }
}

/// A runtime that does not answer is told, and forgotten once it answers again.
fn a_hung_runtime(cluster: &Cluster, kubectl: &Kubectl) {
    let before = container(kubectl, "probed");
    let runtime = Pid::from_raw(containerd(cluster));
    kill(runtime, Signal::SIGSTOP).unwrap();
    let name = format!("node/{}", cluster.name());
    let told = kubectl.wait(&name, "condition=Ready=False");
    let node = kubectl.json(&["get", &name]);
    kill(runtime, Signal::SIGCONT).unwrap();
    told.unwrap();
    let node = node.unwrap();
    let ready = node["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["reason"], "KubeletNotReady", "{ready}");
    assert!(ready["message"].as_str().unwrap().starts_with("container runtime is down: "), "{ready}");
    assert!(node["status"]["images"].is_array(), "what was known stays: {node}");
    kubectl.wait(&name, "condition=Ready").unwrap();
    kubectl.wait("pod/probed", "condition=Ready").unwrap();
    assert_eq!(container(kubectl, "probed"), before);

    // Given up by others, as after a pause of the whole machine, it says at once that it lives.
    let unknown = r#"{"status":{"conditions":[{"type":"Ready","status":"Unknown"}]}}"#;
    kubectl.run(&["patch", &name, "--subresource=status", "-p", unknown]).unwrap();
    kubectl.wait(&name, "condition=Ready").unwrap();
}

fn a_restart_of_the_server(cluster: &mut Cluster, kubectl: &Kubectl) {
    let (once, client) = (container(kubectl, "once"), container(kubectl, "client"));
    assert_eq!(once["restartCount"], 1, "{once}");
    let end = &once["lastState"]["terminated"];
    assert_eq!((&end["exitCode"], &end["message"]), (&3.into(), &"last\n".into()), "{end}");
    let vanished = uid(kubectl, "vanished");
    // One is marked, one is gone from the API before the node can act; it does when it is back.
    kubectl.run(&["delete", "pod", "doomed", "--wait=false"]).unwrap();
    kubectl.run(&["delete", "pod", "vanished", "--grace-period=0", "--force"]).unwrap();
    cluster.kill_server().unwrap();
    cluster.start_server().unwrap();
    cluster.wait_ready().unwrap();
    kubectl.run(&["wait", "pod/doomed", "--for=delete", "--timeout=60s"]).unwrap();
    cluster.wait_removed(&format!("logs/pods/default_vanished_{vanished}")).unwrap();
    assert!(cluster.processes(&vanished).is_empty());
    let again = container(kubectl, "once");
    for field in ["containerID", "restartCount", "lastState", "state", "ready"] {
        assert_eq!(again[field], once[field], "{field}");
    }
    assert_eq!(container(kubectl, "client")["containerID"], client["containerID"]);
    assert_eq!(kubectl.run(&["logs", "once", "--previous"]).unwrap(), "first words\n");
    assert_eq!(kubectl.run(&["logs", "done"]).unwrap(), "finished\n");
    assert_eq!(kubectl.run(&["get", "pod", "done", "-o", "jsonpath={.status.phase}"]).unwrap(), "Succeeded");
}

fn a_power_failure(cluster: &mut Cluster, kubectl: &Kubectl) {
    let (once, client) = (container(kubectl, "once"), container(kubectl, "client"));
    cluster.power_off().unwrap();
    assert!(cluster.processes("/").is_empty());
    cluster.start_server().unwrap();
    cluster.wait_ready().unwrap();
    for (pod, old) in [("once", once), ("client", client)] {
        let count = old["restartCount"].as_i64().unwrap() + 1;
        kubectl
            .wait(&format!("pod/{pod}"), &format!("jsonpath={{.status.containerStatuses[0].restartCount}}={count}"))
            .unwrap();
        kubectl.wait(&format!("pod/{pod}"), "condition=Ready").unwrap();
        let new = container(kubectl, pod);
        assert_eq!(new["lastState"]["terminated"]["containerID"], old["containerID"], "{new}");
    }
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    let answers = kubectl.run(&["exec", "client", "--", "fetch", "http://web/", "20"]).unwrap();
    assert!(answers.lines().all(|line| line.starts_with("web-")), "{answers}");
    assert_eq!(kubectl.run(&["get", "pod", "done", "-o", "jsonpath={.status.phase}"]).unwrap(), "Succeeded");
}
