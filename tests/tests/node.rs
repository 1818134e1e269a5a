//! What a node does with a pod's spec: a pod for each sentence, all at once on one cluster.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

#[test]
fn pods_run_as_their_specs_say() {
    let Some(cluster) = cluster_tests::cluster("pods_run_as_their_specs_say") else { return };
    let kubectl = cluster.kubectl();
    let host = cluster.data_dir().join("host");
    let manifest = include_str!("manifests/node.yaml").replace("THIS-NODE", cluster.name());
    let manifest = manifest.replace("THIS-DIR", &host.display().to_string());
    kubectl.apply(&manifest.replace("THIS-ADDRESS", cluster.node_ip())).unwrap();
    order_of_init_containers(&kubectl);
    order_of_containers(&kubectl, &host);
    restart_policies(&kubectl);
    probes(&kubectl);
    environment(&cluster, &kubectl);
    security(&kubectl);
    names(&cluster, &kubectl);
    resources(&cluster, &kubectl);
    refusals(&kubectl);
    debugging(&kubectl);
    generations(&kubectl);
    chosen_by_label(&cluster, &kubectl);
    the_node_itself(&cluster, &kubectl);
}

fn sh(kubectl: &Kubectl, pod: &str, script: &str) -> String {
    kubectl.run(&["exec", pod, "-c", "main", "--", "sh", "-c", script]).unwrap()
}

fn field(kubectl: &Kubectl, what: &str, path: &str) -> String {
    kubectl.run(&["get", what, "-o", &format!("jsonpath={{{path}}}")]).unwrap()
}

/// The message of a pod's event, which may be written later than the status that it explains.
fn wait_for_event(kubectl: &Kubectl, pod: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let path = "jsonpath={.items[0].message}";
    let mut watch = kubectl
        .spawn(&["get", "events", "--field-selector", &selector, "-w", "-o", "jsonpath={.message}{\"\\n\"}"])
        .unwrap();
    let lines = cluster_tests::Lines::of(watch.inner().stdout.take().unwrap());
    lines.wait_for("", std::time::Duration::from_secs(60)).unwrap_or_else(|error| panic!("{pod} {reason}: {error:#}"));
    kubectl.run(&["get", "events", "--field-selector", &selector, "-o", path]).unwrap()
}

fn order_of_init_containers(kubectl: &Kubectl) {
    kubectl.wait("pod/inits", "condition=Ready").unwrap();
    assert_eq!(sh(kubectl, "inits", "cat /v/order"), "first\nsidecar\nsecond\nmain\n");
    let status = kubectl.json(&["get", "pod", "inits"]).unwrap();
    let init = status["status"]["initContainerStatuses"].as_array().unwrap();
    assert_eq!(init[0]["state"]["terminated"]["reason"], "Completed");
    assert!(init[1]["state"]["running"].is_object() && init[1]["ready"] == true, "{}", init[1]);
}

fn order_of_containers(kubectl: &Kubectl, host: &Path) {
    kubectl.wait("pod/in-turn", "condition=Ready").unwrap();
    assert_eq!(kubectl.run(&["logs", "in-turn", "-c", "main"]).unwrap(), "up\n");

    kubectl.wait("pod/anew", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    kubectl.wait("pod/anew", "condition=Ready").unwrap();
    assert_eq!(sh(kubectl, "anew", "cat /v/order"), "first\nmain\nfirst\nmain\n");
    let status = &kubectl.json(&["get", "pod", "anew"]).unwrap()["status"];
    let conditions = status["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "AllContainersRestarting" && c["status"] == "False"), "{status}");
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1, "{status}");
    assert_eq!(status["containerStatuses"][1]["lastState"]["terminated"]["exitCode"], 42, "{status}");

    kubectl.wait("pod/helped", "condition=Ready").unwrap();
    kubectl.run(&["delete", "pod", "helped", "--timeout=60s"]).unwrap();
    assert_eq!(std::fs::read_to_string(host.join("ends")).unwrap(), "sidecar is told\nmain ends\nsidecar ends\n");
}

fn restart_policies(kubectl: &Kubectl) {
    for (pod, phase) in [
        ("never-ok", "Succeeded"),
        ("never-bad", "Failed"),
        ("on-failure", "Succeeded"),
        ("init-bad", "Failed"),
        ("no-program", "Failed"),
        ("deadline", "Failed"),
    ] {
        kubectl.wait(&format!("pod/{pod}"), &format!("jsonpath={{.status.phase}}={phase}")).unwrap();
    }
    let terminated = |pod: &str, of: &str| -> Value {
        let pod = kubectl.json(&["get", "pod", pod]).unwrap();
        pod["status"][of][0]["state"]["terminated"].clone()
    };
    let bad = terminated("never-bad", "containerStatuses");
    assert_eq!((&bad["exitCode"], &bad["reason"], &bad["message"]), (&4.into(), &"Error".into(), &"out\nwhy\n".into()));
    assert_eq!(terminated("init-bad", "initContainerStatuses")["exitCode"], 1);
    let not_run = terminated("no-program", "containerStatuses");
    assert_eq!((&not_run["exitCode"], &not_run["reason"]), (&128.into(), &"StartError".into()));
    assert!(not_run["message"].as_str().unwrap().contains("no such file or directory"), "{not_run}");
    assert_eq!(field(kubectl, "pod/on-failure", ".status.containerStatuses[0].restartCount"), "1");
    assert_eq!(field(kubectl, "pod/deadline", ".status.reason"), "DeadlineExceeded");
}

fn probes(kubectl: &Kubectl) {
    // Started and live, not ready: the Service knows its address and does not use it.
    kubectl.wait("pod/probed", "jsonpath={.status.containerStatuses[0].started}=true").unwrap();
    let slice = || {
        let slices = kubectl.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=probed"]).unwrap();
        slices["items"][0].clone()
    };
    let name = format!("endpointslice/{}", slice()["metadata"]["name"].as_str().unwrap());
    let conditions = "jsonpath={.endpoints[0].conditions.ready}";
    kubectl.wait(&name, &format!("{conditions}=false")).unwrap();
    sh(kubectl, "probed", "touch /tmp/ready");
    kubectl.wait("pod/probed", "condition=Ready").unwrap();
    kubectl.wait(&name, &format!("{conditions}=true")).unwrap();
    sh(kubectl, "probed", "rm /tmp/ready");
    kubectl.wait("pod/probed", "condition=Ready=false").unwrap();
    kubectl.wait(&name, &format!("{conditions}=false")).unwrap();
    assert!(wait_for_event(kubectl, "probed", "Unhealthy").contains("probe failed: "));

    // A failed liveness probe: SIGTERM, which this one answers with 9, and another run.
    kubectl.wait("pod/live", "condition=Ready").unwrap();
    sh(kubectl, "live", "rm /tmp/alive");
    kubectl.wait("pod/live", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    assert_eq!(field(kubectl, "pod/live", ".status.containerStatuses[0].lastState.terminated.exitCode"), "9");
    assert_eq!(wait_for_event(kubectl, "live", "Killing"), "Container main failed liveness probe, will be restarted");
    assert_eq!(wait_for_event(kubectl, "live", "Unhealthy"), "Liveness probe failed: no sign of life");

    // One try that fails is one event: nothing is tried again while the container is being killed.
    let selector = "--field-selector=involvedObject.name=slow,reason=Unhealthy";
    let counts = kubectl.run(&["get", "events", selector, "-o", "jsonpath={.items[*].count}"]).unwrap();
    let runs: u32 = field(kubectl, "pod/slow", ".status.containerStatuses[0].restartCount").parse().unwrap();
    assert!(
        counts.split(' ').filter_map(|count| count.parse::<u32>().ok()).sum::<u32>() <= runs + 1,
        "{counts} of {runs}"
    );
    // Readiness waits for a startup probe that never succeeds.
    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    kubectl.wait("pod/slow", reason).unwrap();
    assert_eq!(wait_for_event(kubectl, "slow", "Killing"), "Container main failed startup probe, will be restarted");
    assert!(
        wait_for_event(kubectl, "slow", "BackOff")
            .starts_with("Back-off restarting failed container main in pod slow_")
    );
}

fn environment(cluster: &Cluster, kubectl: &Kubectl) {
    kubectl.wait("pod/env", "condition=Ready").unwrap();
    let env = kubectl.run(&["exec", "env", "--", "env"]).unwrap();
    let ip = field(kubectl, "pod/env", ".status.podIP");
    let uid = field(kubectl, "pod/env", ".metadata.uid");
    let service = field(kubectl, "service/probed", ".spec.clusterIP");
    for (name, value) in [
        ("COLOR", "blue"),
        ("shape.kind", "round"),
        ("P_KEY", "s3cret"),
        ("SECRET", "s3cret"),
        ("COLOR_COPY", "blue!"),
        ("NAME", "env"),
        ("NAMESPACE", "default"),
        ("POD_UID", &uid),
        ("LABEL", "env"),
        ("NOTE", "hi there"),
        ("NODE", cluster.name()),
        ("ACCOUNT", "default"),
        ("HOST_IP", cluster.node_ip()),
        ("HOST_IPS", cluster.node_ip()),
        ("POD_IP", &ip),
        ("POD_IPS", &ip),
        ("CPU", "2"),
        ("CPU_MILLI", "250"),
        ("MEMORY", "20"),
        ("HOSTNAME", "env"),
        ("PROBED_SERVICE_HOST", &service),
        ("PROBED_SERVICE_PORT", "80"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ] {
        let line = format!("{name}={value}");
        assert!(env.lines().any(|l| l == line), "no {line} in:\n{env}");
    }
    assert!(!env.contains("NONE="), "{env}");
    assert_eq!(kubectl.run(&["logs", "env"]).unwrap(), "blue! $(COLOR_COPY) $(UNKNOWN)\n");

    // What is missing holds a container back until it is there.
    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError";
    kubectl.wait("pod/missing", reason).unwrap();
    let message = field(kubectl, "pod/missing", ".status.containerStatuses[0].state.waiting.message");
    assert_eq!(message, "configmap \"late\" not found");
    kubectl.run(&["create", "configmap", "late", "--from-literal=word=here"]).unwrap();
    kubectl.wait("pod/missing", "condition=Ready").unwrap();
    assert_eq!(sh(kubectl, "missing", "echo $LATE $PROBED_SERVICE_HOST"), "here\n");
}

fn security(kubectl: &Kubectl) {
    kubectl.wait("pod/secure", "condition=Ready").unwrap();
    let status = |container: &str, field: &str| {
        let script = format!("grep {field}: /proc/1/status");
        let line = kubectl.run(&["exec", "secure", "-c", container, "--", "sh", "-c", &script]).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(sh(kubectl, "secure", "id"), "uid=1000 gid=2000 groups=2000,3000,4000\n");
    // NET_BIND_SERVICE alone may ever be had, and a user that is not root has none at first.
    assert_eq!(status("main", "CapBnd"), format!("{:016x}", 1 << 10));
    assert_eq!(status("main", "CapEff"), format!("{:016x}", 0));
    assert_eq!((status("main", "Seccomp").as_str(), status("main", "NoNewPrivs").as_str()), ("2", "1"));
    assert_eq!(
        sh(kubectl, "secure", "touch /x 2>/dev/null; echo $?; touch /v/x; stat -c %u:%g /v/x"),
        "1\n1000:3000\n"
    );
    let capabilities = u64::from_str_radix(&status("root", "CapEff"), 16).unwrap();
    assert_eq!((capabilities & 1, capabilities >> 25 & 1), (0, 1), "without CHOWN, with SYS_TIME: {capabilities:x}");
    assert_eq!(status("root", "Seccomp"), "0");

    kubectl.wait("pod/group", "jsonpath={.status.phase}=Succeeded").unwrap();
    assert_eq!(kubectl.run(&["logs", "group"]).unwrap(), "4242\n");

    let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError";
    kubectl.wait("pod/non-root", reason).unwrap();
    let message = field(kubectl, "pod/non-root", ".status.containerStatuses[0].state.waiting.message");
    assert!(message.starts_with("container has runAsNonRoot and image will run as root"), "{message}");
}

fn names(cluster: &Cluster, kubectl: &Kubectl) {
    kubectl.wait("pod/named", "condition=Ready").unwrap();
    assert_eq!(sh(kubectl, "named", "hostname; hostname -f"), "alice\nalice.team.default.svc.cluster.local\n");
    let ip = field(kubectl, "pod/named", ".status.podIP");
    let hosts = sh(kubectl, "named", "cat /etc/hosts");
    assert!(hosts.contains(&format!("{ip}\talice.team.default.svc.cluster.local\talice\n")), "{hosts}");
    assert!(hosts.contains("10.1.2.3\taka\taka.example\n"), "{hosts}");
    let resolv = "search team.example\nnameserver 10.96.0.10\noptions ndots:2 edns0\n";
    assert_eq!(sh(kubectl, "named", "cat /etc/resolv.conf"), resolv);

    kubectl.wait("pod/host", "condition=Ready").unwrap();
    assert_eq!(field(kubectl, "pod/host", ".status.podIP"), cluster.node_ip());
    assert!(sh(kubectl, "host", "ip address show eth0").contains(&format!("{}/24", cluster.node_ip())));
    assert!(sh(kubectl, "host", "cat /etc/hosts").ends_with("10.1.2.3\taka\n"));
    assert!(
        sh(kubectl, "host", "cat /etc/resolv.conf").starts_with("search default.svc.cluster.local svc.cluster.local")
    );
    assert!(sh(kubectl, "env", "cat /etc/resolv.conf").ends_with("nameserver 10.96.0.10\noptions ndots:5\n"));
}

fn resources(cluster: &Cluster, kubectl: &Kubectl) {
    let class = |pod: &str, container: usize| {
        kubectl.wait(&format!("pod/{pod}"), "condition=Ready").unwrap();
        let pod = kubectl.json(&["get", "pod", pod]).unwrap();
        let (class, below) = match pod["status"]["qosClass"].as_str().unwrap() {
            "Guaranteed" => ("Guaranteed", "kubepods"),
            "Burstable" => ("Burstable", "kubepods/burstable"),
            _ => ("BestEffort", "kubepods/besteffort"),
        };
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let id = pod["status"]["containerStatuses"][container]["containerID"].as_str().unwrap();
        let of_pod = format!("{below}/pod{uid}");
        (class, of_pod.clone(), format!("{of_pod}/{}", id.trim_start_matches("containerd://")))
    };
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
    let read = |group: &str, v1_file: (&str, &str), v2_file: &str| {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let root = if v1 { root.join(v1_file.0) } else { root.to_owned() };
        let file = root.join(cluster.name()).join(group).join(if v1 { v1_file.1 } else { v2_file });
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().to_owned()
    };
    let (qos, pod, container) = class("guaranteed", 0);
    assert_eq!(qos, "Guaranteed");
    for group in [&pod, &container] {
        let quota = read(group, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
        assert_eq!(quota.split(' ').next(), Some("20000"), "{group}");
        assert_eq!(read(group, ("cpu", "cpu.shares"), "cpu.weight"), if v1 { "204" } else { "8" }, "{group}");
        assert_eq!(read(group, ("memory", "memory.limit_in_bytes"), "memory.max"), (64 << 20).to_string(), "{group}");
    }
    assert_ne!(read(&pod, ("pids", "pids.max"), "pids.max"), "max");

    // Resized while it runs, up and down again.
    for (cpu, quota) in [("300m", "30000"), ("200m", "20000")] {
        let path = "/api/v1/namespaces/default/pods/guaranteed/resize";
        let mut resized = kubectl.json(&["get", "pod", "guaranteed"]).unwrap();
        resized["metadata"]["resourceVersion"] = "".into();
        for list in ["limits", "requests"] {
            resized["spec"]["containers"][0]["resources"][list]["cpu"] = cpu.into();
        }
        kubectl
            .run_with(&["replace", "--raw", path, "-f", "-"], &resized.to_string())
            .unwrap()
            .ok(&["resize"])
            .unwrap();
        let told = format!("jsonpath={{.status.containerStatuses[0].resources.limits.cpu}}={cpu}");
        kubectl.wait("pod/guaranteed", &told).unwrap();
        for group in [&pod, &container] {
            let now = read(group, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
            assert_eq!(now.split(' ').next(), Some(quota), "{group}");
        }
    }
    assert_eq!(field(kubectl, "pod/guaranteed", ".status.containerStatuses[0].restartCount"), "0");

    let (qos, pod, container) = class("burstable", 0);
    assert_eq!(qos, "Burstable");
    assert_eq!(read(&pod, ("cpu", "cpu.shares"), "cpu.weight"), if v1 { "204" } else { "8" });
    assert_eq!(read(&container, ("cpu", "cpu.shares"), "cpu.weight"), if v1 { "102" } else { "4" });
    assert_eq!(read(&container, ("memory", "memory.limit_in_bytes"), "memory.max"), (32 << 20).to_string());
    let unlimited = read(&pod, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert!(
        unlimited == "max" || unlimited.parse::<u64>().unwrap() > 1 << 50,
        "{unlimited}: one container has no limit"
    );

    let (qos, pod, _) = class("best-effort", 0);
    assert_eq!(qos, "BestEffort");
    assert_eq!(read(&pod, ("cpu", "cpu.shares"), "cpu.weight"), if v1 { "2" } else { "1" });

    // containerd may tell of the exit before it tells of its cause.
    kubectl.wait("pod/hungry", "jsonpath={.status.containerStatuses[0].state.terminated.reason}=OOMKilled").unwrap();
    let pod = kubectl.json(&["get", "pod", "hungry"]).unwrap();
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&"OOMKilled".into(), &137.into()), "{end}");
}

fn refusals(kubectl: &Kubectl) {
    kubectl.wait("pod/sysctls", "jsonpath={.status.phase}=Succeeded").unwrap();
    assert_eq!(kubectl.run(&["logs", "sysctls"]).unwrap(), "1\n77\n");
    for (pod, reason, message) in [
        ("unsafe-sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
        ("windows", "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"),
    ] {
        kubectl.wait(&format!("pod/{pod}"), "jsonpath={.status.phase}=Failed").unwrap();
        let status = field(kubectl, &format!("pod/{pod}"), ".status.reason}: {.status.message");
        assert_eq!(status, format!("{reason}: Pod was rejected: {message}"));
        assert_eq!(wait_for_event(kubectl, pod, reason), message);
    }
    let failed = wait_for_event(kubectl, "strange", "FailedCreatePodSandBox");
    assert!(failed.contains("no runtime for \"unheard-of\" is configured"), "{failed}");
    let waits = |pod: &str, reason: &str| {
        let path = "{.status.containerStatuses[0].state.waiting.reason}";
        kubectl.wait(&format!("pod/{pod}"), &format!("jsonpath={path}={reason}")).unwrap();
    };
    waits("no-image", "InvalidImageName");
    waits("late-path", "CreateContainerConfigError");
    kubectl.run(&["annotate", "pod", "late-path", "part=a"]).unwrap();
    kubectl.wait("pod/late-path", "condition=Ready").unwrap();
    kubectl.wait("pod/hooked", "condition=Ready").unwrap();
    assert!(
        wait_for_event(kubectl, "hooked", "Unhealthy")
            .starts_with("Liveness probe errored and resulted in unknown state")
    );
    assert_eq!(field(kubectl, "pod/hooked", ".status.containerStatuses[0].restartCount"), "0");
}

fn debugging(kubectl: &Kubectl) {
    // It sees the processes of the container it is pointed at, and ends with the words of its own.
    let image = "--image=keelson.dev/busybox:1";
    let args = ["debug", "hooked", image, "--target=main", "--container=debug", "--", "sh", "-c", "ps; exit 3"];
    kubectl.run(&args).unwrap();
    let code = "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}";
    kubectl.wait("pod/hooked", &format!("jsonpath={code}=3")).unwrap();
    let seen = kubectl.run(&["logs", "hooked", "-c", "debug"]).unwrap();
    assert!(seen.contains("sleep 0.1"), "{seen}");
    // A second one beside the first, which is attached to. It says so until it is answered: containerd passes input on a moment
    // before it listens, and the words of a container that ends in between are nobody's.
    let script = "until read -t 1 x; do echo asks; done; echo got $x";
    let args = ["debug", "-i", "hooked", image, "--container=more", "--", "sh", "-c", script];
    let mut attached = kubectl.spawn(&args).unwrap();
    // The runtime lets go of the output when the input ends: it is kept open.
    let mut input = attached.inner().stdin.take().unwrap();
    let lines = cluster_tests::Lines::of(attached.inner().stdout.take().unwrap());
    lines.wait_for("asks", std::time::Duration::from_secs(60)).unwrap();
    input.write_all(b"it\n").unwrap();
    lines.wait_for("got it", std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(field(kubectl, "pod/hooked", ".status.ephemeralContainerStatuses[*].name"), "debug more");
}

/// Every change of what is asked for is counted, and what is told says of which count it is.
fn generations(kubectl: &Kubectl) {
    let told = "jsonpath={.status.observedGeneration}";
    let read = || field(kubectl, "pod/named", ".metadata.generation}/{.status.conditions[*].observedGeneration");
    assert_eq!(read(), "1/1 1 1 1 1", "a binding is no change");
    kubectl.run(&["patch", "pod", "named", "-p", r#"{"spec":{"activeDeadlineSeconds":5000}}"#]).unwrap();
    kubectl.wait("pod/named", &format!("{told}=2")).unwrap();
    kubectl.run(&["set", "image", "pod/named", "main=keelson.dev/web:1"]).unwrap();
    kubectl.wait("pod/named", &format!("{told}=3")).unwrap();
    kubectl.wait("pod/named", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    assert_eq!(read(), "3/3 3 3 3 3");
}

/// The kubelet judges by the labels that the scheduler went by, however new they are.
fn chosen_by_label(cluster: &Cluster, kubectl: &Kubectl) {
    let path = "jsonpath={.status.conditions[0].reason}=Unschedulable";
    kubectl.wait("pod/chosen", path).unwrap();
    kubectl.run(&["label", "node", cluster.name(), "disk=fast"]).unwrap();
    kubectl.wait("pod/chosen", "condition=Ready").unwrap();
}

fn the_node_itself(cluster: &Cluster, kubectl: &Kubectl) {
    let node = kubectl.json(&["get", "node", cluster.name()]).unwrap();
    let status = &node["status"];
    for (kind, expected) in
        [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")]
    {
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        assert_eq!(found["status"], expected, "{found}");
    }
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(status["capacity"]["cpu"], cpus.to_string());
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_whitespace().nth(1).unwrap();
    assert_eq!(status["capacity"]["memory"], format!("{total}Ki"));
    assert_ne!(status["allocatable"]["memory"], status["capacity"]["memory"]);
    let addresses = status["addresses"].as_array().unwrap();
    assert!(addresses.iter().any(|a| a["type"] == "InternalIP" && a["address"] == cluster.node_ip()), "{addresses:?}");
    assert!(addresses.iter().any(|a| a["type"] == "Hostname" && a["address"] == cluster.name()), "{addresses:?}");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    let runtime = status["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap();
    assert!(runtime.starts_with("containerd://1.") || runtime.starts_with("containerd://2."), "{runtime}");
    let images = status["images"].to_string();
    assert!(images.contains("keelson.dev/busybox:1"), "{images}");
    let lease = ["get", "lease", "-n", "kube-node-lease", cluster.name(), "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(kubectl.run(&lease).unwrap(), cluster.name());
}
