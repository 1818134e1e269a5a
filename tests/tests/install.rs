//! install.sh as a user runs it, twice, and away again; without systemd, in a network namespace of its own.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, ClusterOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The installer in `bash`, a command for the node's namespace.
fn installer(cluster: &Cluster, mut bash: Command, args: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh");
    let home = home(cluster);
    let command = &mut bash;
    command
        .arg(script)
        .args(["--no-systemd", "--prefix"])
        .arg(home.join("usr"))
        .arg("--config-dir")
        .arg(home.join("etc"));
    command.arg("--data-dir").arg(cluster.data_dir()).args(args);
    bash
}

fn home(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().with_file_name(format!("{}-home", cluster.name()))
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn installed_twice_and_removed_without_a_trace() {
    if cluster_tests::skip("installed_twice_and_removed_without_a_trace") {
        return;
    }
    let cluster = Cluster::prepare(ClusterOptions::default()).unwrap();
    std::fs::create_dir_all(cluster.cgroup2_dir()).unwrap();
    let binary = cluster_tests::binary();
    let images = cluster_tests::images();
    let web = images.iter().find(|path| path.ends_with("web.tar")).unwrap();
    let install = || {
        // Like a login shell, in the node's control group, where Services are translated.
        let mut command = installer(&cluster, cluster.host_command("bash"), &["--demo", "--binary"]);
        command.arg(&binary).arg("--demo-image").arg(web);
        let root = cluster.cgroup_root();
        command.args(["--", "--node-name", cluster.name(), "--node-ip", cluster.node_ip(), "--cgroup-root", &root]);
        run(command)
    };

    let first = install();
    assert!(first.contains("the node is Ready"), "{first}");
    assert!(first.contains("\ndemo-"), "the demo answers with its pods' names: {first}");
    assert_eq!(first.lines().filter(|line| line.starts_with("  kubectl --kubeconfig")).count(), 2, "{first}");
    let kubeconfig = home(&cluster).join("etc/kubeconfig");
    let started = || {
        let mut command = cluster.node().command("kubectl");
        command.arg("--kubeconfig").arg(&kubeconfig);
        command.args(["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].state.running.startedAt}"]);
        run(command)
    };
    let before = started();
    install();
    assert_eq!(started(), before, "a second installation restarts no container");

    // What the runtime keeps outside of the data directory.
    let sandboxes = names(&cluster.data_dir().join("containerd/root/io.containerd.grpc.v1.cri/sandboxes"));
    let results = || names(Path::new("/var/lib/cni/results"));
    let ours = |result: &String| sandboxes.iter().any(|sandbox| result.contains(sandbox));
    assert!(results().iter().any(ours), "the network's answers for {sandboxes:?}");

    let uninstall = || run(installer(&cluster, cluster.node().command("bash"), &["--uninstall"]));
    uninstall();
    assert!(!cluster.data_dir().exists());
    assert!(!kubeconfig.exists());
    assert_eq!(cluster.node().ip(&["-o", "link"]).unwrap().lines().count(), 2, "only lo and eth0 are left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&cluster.data_dir().display().to_string()));
    assert!(!Path::new("/sys/fs/bpf/keelson").join(cluster.name()).exists());
    for hierarchy in ["memory", "cpu", "pids", "unified"] {
        assert!(!Path::new("/sys/fs/cgroup").join(hierarchy).join(cluster.name()).exists(), "{hierarchy}");
    }
    assert!(!results().iter().any(ours), "the network's answers for {sandboxes:?} are left");
    uninstall();
    std::fs::remove_dir_all(home(&cluster)).unwrap();
}

#[test]
fn mistakes_are_named() {
    if cluster_tests::skip("mistakes_are_named") {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh");
    for (args, code, expected) in [
        (&["--frobnicate"][..], 2, "install.sh: unknown option --frobnicate; see ./install.sh --help\n"),
        (&["--binary"], 2, "install.sh: --binary needs a value; see ./install.sh --help\n"),
        (
            &["--role", "agent"],
            2,
            "install.sh: --role agent is reserved: only 'server' can be installed yet; see ./install.sh --help\n",
        ),
    ] {
        let output = Command::new("bash").arg(&script).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{args:?}");
    }
}
