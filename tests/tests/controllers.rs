//! The controllers' promises, kept in a real cluster.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails; its scenarios are functions")]

use cluster_tests::{Cluster, Kubectl};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WORK: &str = include_str!("manifests/controllers.yaml");

/// kubectl in the namespace of the test.
struct Work(Kubectl);

impl Work {
    fn run(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["-n", "work"].iter().chain(args).copied().collect();
        self.0.run(&all).unwrap()
    }

    fn apply(&self, manifest: &str) {
        let applied = self.0.run_with(&["-n", "work", "apply", "-f", "-"], manifest).unwrap();
        assert_eq!(applied.code, 0, "{applied:?}");
    }

    fn field(&self, object: &str, path: &str) -> String {
        self.run(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    fn wait(&self, object: &str, condition: &str) {
        self.run(&["wait", object, &format!("--for={condition}"), "--timeout=60s"]);
    }

    /// The rollout ends well.
    fn rolled_out(&self) {
        self.run(&["rollout", "status", "deployment/main", "--timeout=90s"]);
    }

    fn progressing(&self, reason: &str) {
        let path = "{.status.conditions[?(@.type==\"Progressing\")].reason}";
        self.wait("deployment/main", &format!("jsonpath={path}={reason}"));
    }
}

#[test]
fn controllers_keep_their_promises() {
    let Some(cluster) = cluster_tests::cluster("controllers_keep_their_promises") else { return };
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "namespace", "work"]).unwrap();
    let work = Work(kubectl.clone());
    // The stray is known to all before there is a set that it could be surplus to.
    let (stray, _) = WORK.split_once("\n---\n").unwrap();
    work.apply(stray);
    work.wait("pod/stray", "condition=Ready");
    work.apply(WORK);
    adoption(&work);
    rollouts(&work);
    endpoints(&work);
    deletion(&work);
    accounts(&work);
    aggregation(&kubectl);
    namespaces(&kubectl);
    kubectl.run(&["delete", "namespace", "work", "--timeout=90s"]).unwrap();
    idle(&cluster);
    lost_node(&kubectl);
}

/// A ReplicaSet takes what matches and lets go what no longer does.
fn adoption(work: &Work) {
    work.wait("replicaset/plain", "jsonpath={.status.readyReplicas}=2");
    assert_eq!(work.field("pod/stray", "{.metadata.ownerReferences[0].name}"), "plain");
    assert_eq!(work.run(&["get", "pods", "-l", "app=plain", "-o", "name"]).lines().count(), 2, "one is the stray");
    work.run(&["label", "pod", "stray", "app=free", "--overwrite"]);
    let others = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True";
    work.run(&["wait", "pod", "-l", "app=plain", &format!("--for={others}"), "--timeout=60s"]);
    work.wait("replicaset/plain", "jsonpath={.status.readyReplicas}=2");
    assert_eq!(work.field("pod/stray", "{.metadata.ownerReferences}"), "");
}

/// Recreate, history, a rollout that is stuck, rollback, pause.
fn rollouts(work: &Work) {
    work.rolled_out();
    for value in ["2", "3", "4"] {
        work.run(&["set", "env", "deployment/main", &format!("VALUE={value}")]);
        work.rolled_out();
    }
    // revisionHistoryLimit 1: the present set and one before it.
    let history = work.run(&["rollout", "history", "deployment/main"]);
    assert!(history.contains("\n3 ") && history.contains("\n4 ") && !history.contains("\n2 "), "{history}");

    work.run(&["patch", "deployment", "main", "-p", r#"{"spec":{"progressDeadlineSeconds":3}}"#]);
    work.run(&["set", "image", "deployment/main", "web=keelson.invalid/none:1"]);
    work.progressing("ProgressDeadlineExceeded");
    let stuck = work.0.run_with(&["-n", "work", "rollout", "status", "deployment/main"], "").unwrap();
    assert!(stuck.stderr.contains("exceeded its progress deadline"), "{stuck:?}");
    work.run(&["patch", "deployment", "main", "-p", r#"{"spec":{"progressDeadlineSeconds":60}}"#]);
    work.run(&["rollout", "undo", "deployment/main"]);
    // Until the first pod of the old revision is there, the condition still tells of the one that was stuck.
    work.progressing("NewReplicaSetAvailable");
    work.rolled_out();
    assert_eq!(work.field("deployment/main", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "6");

    work.run(&["rollout", "pause", "deployment/main"]);
    work.run(&["set", "env", "deployment/main", "VALUE=paused"]);
    work.progressing("DeploymentPaused");
    work.run(&["scale", "deployment/main", "--replicas=3"]);
    work.wait("deployment/main", "jsonpath={.status.readyReplicas}=3");
    assert_eq!(work.field("deployment/main", "{.status.updatedReplicas}"), "");
    work.run(&["rollout", "resume", "deployment/main"]);
    work.rolled_out();
    assert_eq!(work.field("deployment/main", "{.status.updatedReplicas}"), "3");
}

/// Slices and Endpoints say the same; a Service without a selector has what its Endpoints say.
fn endpoints(work: &Work) {
    let sorted = |text: String| {
        let mut addresses: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        addresses.sort();
        addresses
    };
    let pods = sorted(work.run(&["get", "pods", "-l", "app=main", "-o", "jsonpath={.items[*].status.podIP}"]));
    assert_eq!(pods.len(), 3);
    work.wait("endpoints/main", "jsonpath={.subsets[0].addresses[2].ip}");
    assert_eq!(sorted(work.field("endpoints/main", "{.subsets[*].addresses[*].ip}")), pods);
    let of_main = ["get", "endpointslices", "-l", "kubernetes.io/service-name=main"];
    let slices = |path: &str| work.run(&[&of_main[..], &["-o", &format!("jsonpath={path}")]].concat());
    assert_eq!(sorted(slices("{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}")), pods);
    assert_eq!(slices("{.items[0].ports[0].name} {.items[0].ports[0].port}"), "http 8080");
}

/// Orphan, background and foreground.
fn deletion(work: &Work) {
    let sets = || work.run(&["get", "replicasets", "-l", "app=main", "-o", "name"]);
    work.run(&["delete", "deployment", "main", "--cascade=orphan"]);
    assert!(!sets().is_empty(), "orphans stay");
    assert!(!work.run(&["get", "rs", "-l", "app=main", "-o", "yaml"]).contains("kind: Deployment"));
    work.apply(WORK);
    work.rolled_out();
    work.run(&["delete", "deployment", "main", "--cascade=foreground", "--timeout=60s"]);
    assert_eq!(sets(), "", "gone before their owner");
    work.run(&["delete", "replicaset", "plain", "--cascade=background"]);
    work.run(&["wait", "pod", "-l", "app=plain", "--for=delete", "--timeout=60s"]);
}

/// What every namespace has comes back.
fn accounts(work: &Work) {
    for object in ["serviceaccount/default", "configmap/kube-root-ca.crt"] {
        let before = work.field(object, "{.metadata.uid}");
        work.run(&["delete", object]);
        let (kind, name) = object.split_once('/').unwrap();
        let selector = format!("--field-selector=metadata.name={name}");
        let uid = "jsonpath={.metadata.uid}{\"\\n\"}";
        let mut watch = work.0.spawn(&["-n", "work", "get", kind, &selector, "-w", "-o", uid]).unwrap();
        let lines = cluster_tests::Lines::of(watch.inner().stdout.take().unwrap());
        let after = lines.wait_for("-", Duration::from_secs(30)).unwrap();
        assert_ne!(after, before, "{object}");
    }
    assert!(work.field("configmap/kube-root-ca.crt", "{.data.ca\\.crt}").contains("BEGIN CERTIFICATE"));
}

/// A labelled role's rules appear in `view`, and so in `edit` and `admin`.
fn aggregation(kubectl: &Kubectl) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}],
    });
    kubectl.apply(&role.to_string()).unwrap();
    let rule = "jsonpath={.rules[?(@.apiGroups[0]==\"example.com\")].resources[0]}";
    kubectl.wait("clusterrole/admin", &format!("{rule}=things")).unwrap();
    kubectl.run(&["delete", "clusterrole", "more"]).unwrap();
}

/// A namespace says what holds it, takes nothing new, and goes when that is gone.
fn namespaces(kubectl: &Kubectl) {
    kubectl.run(&["create", "namespace", "held"]).unwrap();
    kubectl.run(&["create", "configmap", "held", "-n", "held"]).unwrap();
    let finalizers = |list: &Value| json!({"metadata": {"finalizers": list}}).to_string();
    let patch = |list| {
        let patch = finalizers(&list);
        kubectl.run(&["patch", "configmap", "held", "-n", "held", "--type=merge", "-p", &patch]).unwrap()
    };
    patch(json!(["example.com/hold"]));
    kubectl.run(&["delete", "namespace", "held", "--wait=false"]).unwrap();
    let condition = "jsonpath={.status.conditions[?(@.type==\"NamespaceFinalizersRemaining\")].status}=True";
    kubectl.wait("namespace/held", condition).unwrap();
    let refused = kubectl.run_with(&["create", "configmap", "new", "-n", "held"], "").unwrap();
    let message = "is forbidden: unable to create new content in namespace held because it is being terminated";
    assert!(refused.stderr.contains(message), "{refused:?}");
    patch(Value::Null);
    kubectl.wait("namespace/held", "delete").unwrap();
}

/// Nobody writes but for Leases while nothing happens, and the process rests.
fn idle(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let revision = || {
        let list = kubectl.run(&["get", "--raw", "/api/v1/namespaces?limit=1"]).unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let mut watch = kubectl.spawn(&["get", "leases", "-n", "kube-node-lease", "-w", "-o", "name"]).unwrap();
    watch.inner().stdin.take();
    let lines = cluster_tests::Lines::of(watch.inner().stdout.take().unwrap());
    lines.wait_for("lease", Duration::from_secs(30)).unwrap();
    // From one renewal to the second after it: about twenty seconds.
    lines.wait_for("lease", Duration::from_secs(30)).unwrap();
    let (before, cpu, began) = (revision(), cpu_ticks(cluster), Instant::now());
    for _ in 0..2 {
        lines.wait_for("lease", Duration::from_secs(30)).unwrap();
    }
    let (written, spent) = (revision() - before, cpu_ticks(cluster) - cpu);
    assert!(written <= 4, "{written} writes in {:?}, of which the node's lease are 2 or 3", began.elapsed());
    let share = f64::from(u32::try_from(spent).unwrap()) / 100.0 / began.elapsed().as_secs_f64();
    assert!(share < 0.05, "{:.1} % of a processor while idle", share * 100.0);
}

/// The server's processor time in hundredths of a second.
fn cpu_ticks(cluster: &Cluster) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.server_pid().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A node of which nothing is heard is marked and tainted: here one that never was more than an object.
fn lost_node(kubectl: &Kubectl) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ghost"}});
    kubectl.apply(&node.to_string()).unwrap();
    kubectl.wait("node/ghost", "jsonpath={.spec.podCIDR}").unwrap();
    let taint = "jsonpath={.spec.taints[?(@.effect==\"NoExecute\")].key}=node.kubernetes.io/unreachable";
    kubectl.wait("node/ghost", taint).unwrap();
    let ready = kubectl.json(&["get", "node", "ghost"]).unwrap();
    let conditions = ready["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("NodeStatusNeverUpdated")));
    kubectl.run(&["delete", "node", "ghost"]).unwrap();
}
