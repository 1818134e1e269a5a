//! Volumes of every kind, and logs.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl, Lines};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn volumes_and_logs() {
    let Some(cluster) = cluster_tests::cluster("volumes_and_logs") else { return };
    let kubectl = cluster.kubectl();
    let host = cluster.data_dir().join("host");
    std::fs::create_dir(&host).unwrap();
    let manifest = include_str!("manifests/node_volumes.yaml").replace("HOST", &host.display().to_string());
    kubectl.apply(&manifest).unwrap();
    contents(&cluster, &kubectl);
    updates(&kubectl);
    modes_and_owners(&kubectl);
    refusals(&kubectl);
    logs(&kubectl);
    rotation(&cluster, &kubectl);
}

fn sh(kubectl: &Kubectl, pod: &str, script: &str) -> String {
    kubectl.run(&["exec", pod, "--", "sh", "-c", script]).unwrap()
}

fn contents(cluster: &Cluster, kubectl: &Kubectl) {
    kubectl.wait("pod/all", "condition=Ready").unwrap();
    for (script, expected) in [
        ("cat /whole/one /whole/two /etc/one", "121"),
        ("ls /some; /some/bin/run; md5sum </some/raw", "bin\nraw\nran\nb95f67f61ebb03619622d798f45fc2d3  -\n"),
        ("ls /none", ""),
        ("cat /secret/key /mixed/key", "s3crets3cret"),
        ("cat /info/cpu; echo; cat /info/note; echo; cat /info/labels", "500\nfirst\napp=\"volumes\""),
        ("cat /mixed/name /mixed/config/one; ls /mixed", "all1config\nkey\nname\ntoken\n"),
        // One volume, mounted four times.
        ("echo x >/sub/x; cat /disk/deep/dir/x /read/deep/dir/x; ls /disk", "x\nx\ndeep\nof-me\n"),
        (
            "touch /read/x 2>/dev/null || echo read-only; touch /whole/x 2>/dev/null || echo read-only",
            "read-only\nread-only\n",
        ),
        ("dd if=/dev/zero of=/memory/big bs=1k count=2000 2>/dev/null; stat -c %s /memory/big", "1048576\n"),
        ("echo to host >/made/x; echo to file >/file; test -c /device && echo device", "device\n"),
        ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"),
        ("head -n 1 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "-----BEGIN CERTIFICATE-----\n"),
    ] {
        assert_eq!(sh(kubectl, "all", script), expected, "{script}");
    }
    let host = cluster.data_dir().join("host");
    assert_eq!(std::fs::read_to_string(host.join("made/x")).unwrap(), "to host\n");
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "to file\n");
    // A token of its own for an audience of its own, bound to the pod.
    let token = sh(kubectl, "all", "cat /mixed/token");
    let review = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["vault"]}});
    let answer = kubectl.run_with(&["create", "-f", "-", "-o", "json"], &review.to_string()).unwrap();
    let answer: serde_json::Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{}", answer.stderr));
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"][0], "all");
}

/// What a volume shows changes with what it is of; the pod itself waits for it.
fn updates(kubectl: &Kubectl) {
    let waiting = |test: &str| {
        let script = format!("until {test}; do :; done; echo arrived");
        let mut child = kubectl.spawn(&["exec", "all", "--", "sh", "-c", &script]).unwrap();
        let lines = Lines::of(child.inner().stdout.take().unwrap());
        (child, lines)
    };
    for (args, test) in [
        (vec!["label", "pod", "all", "extra=yes"], "grep -q extra=.yes /info/labels"),
        (vec!["annotate", "--overwrite", "pod", "all", "note=second"], "grep -q second /info/note"),
        (vec!["patch", "secret", "keys", "-p", r#"{"stringData":{"key":"new","more":"x"}}"#], "test -e /mixed/more"),
        (vec!["patch", "configmap", "files", "-p", r#"{"data":{"two":null,"one":"9"}}"#], "! test -e /whole/two"),
        (vec!["create", "configmap", "nowhere", "--from-literal=now=here"], "test -e /none/now"),
    ] {
        let (_child, lines) = waiting(test);
        kubectl.run(&args).unwrap();
        lines.wait_for("arrived", LIMIT).unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
    }
    assert_eq!(sh(kubectl, "all", "cat /secret/key /whole/one"), "new9");
    assert_eq!(sh(kubectl, "all", "cat /etc/one"), "1", "a part of a volume stays as it was");
}

fn modes_and_owners(kubectl: &Kubectl) {
    let script = "stat -L -c '%a %u:%g' /whole/one /some/bin/run /secret/key; stat -c '%a %g' /disk /memory /made";
    // fsGroup gets everything that is the pod's own, and nothing of the host.
    let expected = "640 0:3000\n755 0:3000\n440 0:3000\n2777 3000\n2777 3000\n755 0\n";
    assert_eq!(sh(kubectl, "all", script), expected);
    kubectl.wait("pod/user", "condition=Ready").unwrap();
    assert_eq!(sh(kubectl, "user", "touch /sub/x && stat -c %u:%g /sub/x; cat /secret/key"), "1000:3000\nnew");
}

fn event(kubectl: &Kubectl, pod: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let line = ["get", "events", "--field-selector", &selector, "-w", "-o", "jsonpath={.message}{\"\\n\"}"];
    let mut watch = kubectl.spawn(&line).unwrap();
    Lines::of(watch.inner().stdout.take().unwrap()).wait_for("", LIMIT).unwrap()
}

fn refusals(kubectl: &Kubectl) {
    let message = event(kubectl, "wrong-type", "FailedMount");
    let expected =
        "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: /proc/version is not a directory";
    assert_eq!(message, expected);
    let message = event(kubectl, "late", "FailedMount");
    assert_eq!(message, "MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found");
    kubectl.run(&["create", "configmap", "late", "--from-literal=now=here"]).unwrap();
    kubectl.wait("pod/late", "condition=Ready").unwrap();
    // A link in a volume leads nowhere outside of it.
    let message = event(kubectl, "escape", "Failed");
    assert!(
        message.starts_with("Error: failed to prepare subPath for volumeMount \"v\" of container \"main\""),
        "{message}"
    );
}

fn logs(kubectl: &Kubectl) {
    let mut follow = kubectl.spawn(&["logs", "-f", "logs", "-c", "a"]).unwrap();
    Lines::of(follow.inner().stdout.take().unwrap()).wait_for("later", LIMIT).unwrap();
    let log = |args: &[&str]| {
        let all: Vec<&str> = ["logs", "logs"].iter().chain(args).copied().collect();
        kubectl.run_with(&all, "").unwrap()
    };
    let first = log(&[]);
    assert!(first.stdout.starts_with("1\n2\n"), "{}", first.stdout);
    assert!(first.stderr.contains("Defaulted container \"a\" out of: a, b"), "{}", first.stderr);
    assert_eq!(log(&["-c", "a", "--tail=2"]).stdout, "wrong\nlater\n");
    assert_eq!(log(&["-c", "a", "--tail=0"]).stdout, "");
    assert_eq!(log(&["-c", "a", "--limit-bytes=3"]).stdout, "1\n2");
    assert!(log(&["--all-containers", "--prefix"]).stdout.contains("[pod/logs/b] from b\n"));
    // Lines say when they were written: the one two seconds later alone is younger than the others' last.
    let stamped = log(&["-c", "a", "--timestamps"]).stdout;
    let line = stamped.lines().find(|line| line.ends_with(" later")).unwrap();
    let time = line.split(' ').next().unwrap();
    assert_eq!(log(&["-c", "a", &format!("--since-time={time}")]).stdout, "later\n");
    assert_eq!(log(&["-c", "a", "--since=1h", "--tail=1"]).stdout, "later\n");
    for (args, expected) in [
        (&["-c", "a", "--previous"][..], "previous terminated container \"a\" in pod \"logs\" not found"),
        (&["-c", "c"], "container c is not valid for pod logs"),
    ] {
        let output = log(args);
        assert_ne!(output.code, 0);
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
    let raw = kubectl.run_with(&["get", "--raw", "/api/v1/namespaces/default/pods/logs/log"], "").unwrap();
    assert!(
        raw.stderr.contains("a container name must be specified for pod logs, choose one of: [a b]"),
        "{}",
        raw.stderr
    );
    let waiting = kubectl.run_with(&["logs", "wrong-type"], "").unwrap();
    let expected = "container \"main\" in pod \"wrong-type\" is waiting to start: ContainerCreating";
    assert!(waiting.stderr.contains(expected), "{}", waiting.stderr);
}

/// A log of more than 10 MiB gives way to a new one; who follows it notices nothing.
fn rotation(cluster: &Cluster, kubectl: &Kubectl) {
    let mut follow = kubectl.spawn(&["logs", "-f", "--tail=0", "-v=6", "chatty"]).unwrap();
    let lines = Lines::of(follow.inner().stdout.take().unwrap());
    // It follows from here on; what was written before it connected is not its to show.
    let asked = Lines::of(follow.inner().stderr.take().unwrap());
    asked.wait_for("/log?", LIMIT).unwrap();
    let uid = kubectl.run(&["get", "pod", "chatty", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let dir = format!("logs/pods/default_chatty_{uid}/main");
    cluster.wait_entries(&dir, |names| names.len() == 2 && names.iter().any(|name| name == "0.log")).unwrap();
    sh(kubectl, "chatty", "echo after the rotation >/proc/1/fd/1");
    lines.wait_for("after the rotation", LIMIT).unwrap();
    assert_eq!(kubectl.run(&["logs", "chatty"]).unwrap(), "after the rotation\n");
}
