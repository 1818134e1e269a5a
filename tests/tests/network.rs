//! Services, DNS and the ways in and out of pods, as the kernel really does them.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, ClusterOptions, Kubectl, Namespace};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");
const NETWORK: &str = include_str!("manifests/network.yaml");
/// Where the world outside of the cluster is, see `Cluster::prepare`.
const OUTSIDE: &str = "10.89.0.1";
const REFUSED: &str = "Connection refused";

/// A command in pod `client`: exit code 0 and its output, else what it said.
fn client(kubectl: &Kubectl, words: &[&str]) -> Result<String, String> {
    exec(kubectl, "client", words)
}

fn exec(kubectl: &Kubectl, pod: &str, words: &[&str]) -> Result<String, String> {
    let all: Vec<&str> = ["exec", pod, "--"].iter().chain(words).copied().collect();
    let output = kubectl.run_with(&all, "").unwrap();
    if output.code == 0 { Ok(output.stdout) } else { Err(output.stdout + &output.stderr) }
}

fn fetch(kubectl: &Kubectl, words: &[&str]) -> Result<String, String> {
    let all: Vec<&str> = ["fetch"].iter().chain(words).copied().collect();
    client(kubectl, &all)
}

/// Until a shell's condition holds in pod `client`; for what reaches the kernel by a watch after kubectl is done.
#[track_caller]
fn eventually(kubectl: &Kubectl, condition: &str) {
    let script = format!("until {condition}; do :; done >/dev/null 2>&1");
    let result = client(kubectl, &["busybox", "timeout", "60", "sh", "-c", &script]);
    result.unwrap_or_else(|error| panic!("never: {condition} ({error})"));
}

fn field(kubectl: &Kubectl, object: &str, path: &str) -> String {
    kubectl.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).unwrap()
}

/// The pods that answer within some requests.
fn answers(kubectl: &Kubectl, url: &str, requests: u32) -> BTreeSet<String> {
    fetch(kubectl, &[url, &requests.to_string()]).unwrap().lines().map(str::to_owned).collect()
}

fn deploy(kubectl: &Kubectl, manifests: &[&str]) {
    for manifest in manifests {
        kubectl.apply(manifest).unwrap();
    }
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=90s"]).unwrap();
    kubectl.run(&["wait", "pod", "--all", "--for=condition=Ready", "--timeout=90s"]).unwrap();
    eventually(kubectl, "fetch http://web/");
}

/// Work in a network namespace, on a thread that ends with the test's process.
fn within(namespace: &Namespace, work: impl FnOnce() + Send + 'static) {
    let file = File::open(namespace.path()).unwrap();
    let (ready, begun) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(()).unwrap();
        work();
    });
    begun.recv().unwrap();
}

/// A web server outside that says whom it sees, and a DNS server that knows one name.
fn outside(namespace: &Namespace) {
    within(namespace, || {
        let listener = TcpListener::bind((OUTSIDE, 8099)).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = format!("{}\n", stream.peer_addr().unwrap().ip());
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{peer}", peer.len());
        }
    });
    within(namespace, || {
        let socket = UdpSocket::bind((OUTSIDE, 53)).unwrap();
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let _ = socket.send_to(&upstream(&query[..length]), from);
        }
    });
}

/// The answer of a resolver that knows `up.example.test` alone (RFC 1035).
fn upstream(query: &[u8]) -> Vec<u8> {
    let name = b"\x02up\x07example\x04test\x00";
    let known = query[12..].len() >= name.len() && query[12..12 + name.len()].eq_ignore_ascii_case(name);
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let wants_address = query[end - 4..end] == [0, 1, 0, 1];
    let mut answer = query[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x81, if known { 0x80 } else { 0x83 }]);
    answer[6..12].copy_from_slice(&[0, u8::from(known && wants_address), 0, 0, 0, 0]);
    if known && wants_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    answer
}

/// A file of the test's own, removed with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn services_and_names() {
    if cluster_tests::skip("services_and_names") {
        return;
    }
    let resolv_conf = Scratch(std::env::temp_dir().join(format!("kst-resolv-{}.conf", std::process::id())));
    std::fs::write(&resolv_conf.0, format!("nameserver {OUTSIDE}\nsearch outer.test\n")).unwrap();
    let flags = vec!["--resolv-conf".to_owned(), resolv_conf.0.display().to_string()];
    let options = ClusterOptions { images: cluster_tests::images(), flags };
    let mut cluster = Cluster::prepare(options).unwrap();
    for side in [cluster.node(), cluster.outside()] {
        side.ip(&["link", "set", "eth0", "mtu", "1400"]).unwrap();
    }
    cluster.start_server().unwrap();
    cluster.wait_ready().unwrap();
    outside(cluster.outside());
    let kubectl = cluster.kubectl();
    deploy(&kubectl, &[WEB, CLIENT, NETWORK]);

    println!("--- Service by address");
    service_by_address(&kubectl);
    println!("--- names");
    names(&kubectl);
    println!("--- addresses that peers see");
    peers(&cluster, &kubectl);
    println!("--- node ports");
    node_ports(&cluster, &kubectl);
    println!("--- host ports");
    host_ports(&cluster, &kubectl);
    println!("--- policies");
    policies(&kubectl);
    println!("--- restarts");
    restarts(&mut cluster, &kubectl);
    println!("--- endpoints that go");
    endpoints_go(&cluster, &kubectl);
    println!("--- deletion");
    deletion(&cluster, &kubectl);
}

fn service_by_address(kubectl: &Kubectl) {
    let web = field(kubectl, "service/web", ".spec.clusterIP");
    assert_eq!(answers(kubectl, &format!("http://{web}/"), 60).len(), 3, "spread over all three");
    let udp = field(kubectl, "service/udp", ".spec.clusterIP");
    eventually(kubectl, &format!("fetch --udp {udp}:53 x"));
    for how in ["--udp", "--sendto"] {
        for to in [format!("{udp}:53"), "udp:53".to_owned()] {
            let answer = fetch(kubectl, &[how, &to, "hello"]).unwrap();
            // The program believes that it talked to the Service, whoever answered.
            assert!(
                answer.starts_with(&format!("{udp}:53 web-")) && answer.ends_with(" hello\n"),
                "{how} {to}: {answer}"
            );
        }
    }
    // No endpoints: refused by the kernel, nobody waits.
    let empty = field(kubectl, "service/empty", ".spec.clusterIP");
    for words in [
        vec![format!("http://{empty}/")],
        vec!["--udp".into(), format!("{empty}:80"), "x".into()],
        vec!["--sendto".into(), format!("{empty}:80"), "x".into()],
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let error = fetch(kubectl, &words).unwrap_err();
        assert!(error.contains(REFUSED), "{words:?}: {error}");
    }
    let asked = exec(kubectl, "named", &["fetch", "http://hairpin/", "10"]).unwrap();
    assert_eq!(asked, "alpha\n".repeat(10), "a pod reaches itself through its Service");
}

/// What `nslookup` finds.
fn look_up(kubectl: &Kubectl, kind: &str, name: &str) -> String {
    client(kubectl, &["nslookup", &format!("-type={kind}"), name]).unwrap_or_else(|error| error)
}

fn names(kubectl: &Kubectl) {
    let web = field(kubectl, "service/web", ".spec.clusterIP");
    let pods = field(kubectl, "pod", ".items[?(@.metadata.labels.app=='web')].status.podIP");
    let pods: Vec<&str> = pods.split_whitespace().collect();
    assert_eq!(pods.len(), 3);
    let alpha = field(kubectl, "pod/named", ".status.podIP");
    let dashed = pods[0].replace('.', "-");
    let reverse = |address: &str| {
        let octets: Vec<&str> = address.split('.').rev().collect();
        format!("{}.in-addr.arpa", octets.join("."))
    };
    let cases: &[(&str, String, Vec<&str>)] = &[
        ("a", "web.default.svc.cluster.local".into(), vec![&web]),
        ("a", "headless.default.svc.cluster.local".into(), pods.clone()),
        ("a", "alpha.named.default.svc.cluster.local".into(), vec![&alpha]),
        ("a", format!("{dashed}.headless.default.svc.cluster.local"), vec![pods[0]]),
        ("a", format!("{dashed}.default.pod.cluster.local"), vec![pods[0]]),
        ("srv", "_http._tcp.web.default.svc.cluster.local".into(), vec!["0 100 80 web.default.svc.cluster.local"]),
        (
            "srv",
            "_http._tcp.named.default.svc.cluster.local".into(),
            vec!["0 100 8080 alpha.named.default.svc.cluster.local"],
        ),
        ("srv", "_echo._udp.udp.default.svc.cluster.local".into(), vec!["0 100 53 udp.default.svc.cluster.local"]),
        ("ptr", reverse(&web), vec!["name = web.default.svc.cluster.local"]),
        ("ptr", reverse(&alpha), vec!["name = alpha.named.default.svc.cluster.local"]),
        ("cname", "outer.default.svc.cluster.local".into(), vec!["up.example.test"]),
        // By the upstream resolver, in the world outside.
        ("a", "outer.default.svc.cluster.local".into(), vec!["192.0.2.7"]),
        ("a", "up.example.test".into(), vec!["192.0.2.7"]),
        ("a", "alias.default.svc.cluster.local".into(), vec![&web]),
        ("a", "nothing.default.svc.cluster.local".into(), vec!["NXDOMAIN"]),
        ("a", "nothing.example.test".into(), vec!["NXDOMAIN"]),
        ("txt", "dns-version.cluster.local".into(), vec!["1.1.0"]),
    ];
    eventually(kubectl, "nslookup -type=a alpha.named.default.svc.cluster.local");
    for (kind, name, expected) in cases {
        let found = look_up(kubectl, kind, name);
        for text in expected {
            assert!(found.contains(text), "{kind} {name}: no '{text}' in:\n{found}");
        }
    }
    let none = look_up(kubectl, "aaaa", "web.default.svc.cluster.local");
    assert!(
        !none.contains("NXDOMAIN") && !none.contains("Name:"),
        "the name is there, without such an address: {none}"
    );
    let conf = client(kubectl, &["cat", "/etc/resolv.conf"]).unwrap();
    let dns =
        kubectl.run(&["get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"]).unwrap();
    assert!(conf.contains(&format!("nameserver {dns}")), "{conf}");
    assert!(conf.contains("search default.svc.cluster.local svc.cluster.local cluster.local outer.test"), "{conf}");
    for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "alias"] {
        assert!(fetch(kubectl, &[&format!("http://{name}/")]).unwrap().starts_with("web-"), "{name}");
    }
    assert_eq!(fetch(kubectl, &["http://alpha.named:8080/"]).unwrap(), "alpha\n");
}

fn peers(cluster: &Cluster, kubectl: &Kubectl) {
    let own = field(kubectl, "pod/client", ".status.podIP");
    let alpha = field(kubectl, "pod/named", ".status.podIP");
    for url in [format!("http://{alpha}:8080/peer"), "http://web/peer".to_owned(), "http://hairpin/peer".to_owned()] {
        assert_eq!(fetch(kubectl, &[&url]).unwrap().trim(), own, "{url}: pods see each other's own address");
    }
    let mtu = client(kubectl, &["cat", "/sys/class/net/eth0/mtu"]).unwrap();
    assert_eq!(mtu.trim(), "1400", "a pod's packets fit the node's link");
    let node = format!("http://{}:18080/peer", cluster.node_ip());
    assert_eq!(fetch(kubectl, &[&node]).unwrap().trim(), own, "the node sees the pod's address");
    let from_host = exec(kubectl, "host", &["fetch", &format!("http://{alpha}:8080/peer")]).unwrap();
    assert_eq!(from_host.trim(), cluster.node_ip(), "a pod sees the node's address");
    let beyond = fetch(kubectl, &[&format!("http://{OUTSIDE}:8099/")]).unwrap();
    assert_eq!(beyond.trim(), cluster.node_ip(), "outside, a pod has its node's address");
    // An address of the pods' range that no pod has is refused by the node, and does not travel.
    let error = fetch(kubectl, &["http://10.244.0.253:8080/"]).unwrap_err();
    assert!(error.contains("unreachable") || error.contains("No route to host"), "{error}");
}

fn node_ports(cluster: &Cluster, kubectl: &Kubectl) {
    let port = |name: &str| field(kubectl, "service/node", &format!(".spec.ports[?(@.name=='{name}')].nodePort"));
    let (tcp, udp) = (port("tcp"), port("udp"));
    let node = cluster.node_ip();
    eventually(kubectl, &format!("fetch http://{node}:{tcp}/"));
    // A process of the machine itself, with nothing of ours.
    for address in [node, "127.0.0.1"] {
        let answer = said(cluster.host_command("bash"), &get(address, &tcp, "/"));
        assert!(answer.contains("\r\n\r\nweb-"), "TCP {address}: {answer}");
        let answer = said(cluster.host_command("bash"), &datagram(address, &udp));
        assert!(answer.starts_with("web-") && answer.ends_with("hello\n"), "UDP {address}: {answer}");
    }
    // A pod that is on the node's network, and one that is not.
    for pod in ["host", "client"] {
        for how in ["--udp", "--sendto"] {
            let answer = exec(kubectl, pod, &["fetch", how, &format!("{node}:{udp}"), "hello"]).unwrap();
            assert!(answer.starts_with(&format!("{node}:{udp} web-")), "{pod} {how}: {answer}");
        }
        assert!(exec(kubectl, pod, &["fetch", &format!("http://{node}:{tcp}/")]).unwrap().starts_with("web-"));
    }
    assert!(exec(kubectl, "host", &["fetch", &format!("http://127.0.0.1:{tcp}/")]).unwrap().starts_with("web-"));
    let error = fetch(kubectl, &[&format!("http://127.0.0.1:{tcp}/")]).unwrap_err();
    assert!(error.contains(REFUSED), "in a pod, loopback is the pod's own: {error}");
}

/// Scripts for bash: a request over TCP, and one over UDP.
fn get(address: &str, port: &str, path: &str) -> String {
    format!("exec 3<>/dev/tcp/{address}/{port} && printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3")
}

fn datagram(address: &str, port: &str) -> String {
    format!("exec 3<>/dev/udp/{address}/{port} && echo hello >&3 && timeout 5 head -n 1 <&3")
}

/// What bash says; an error's words where it fails.
fn said(mut bash: Command, script: &str) -> String {
    let output = bash.args(["-c", script]).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    String::from_utf8_lossy(&text).into_owned()
}

/// Pods with one host port's number, at different addresses and protocols; a node's loopback is not a pod's.
fn host_ports(cluster: &Cluster, kubectl: &Kubectl) {
    let node = cluster.node_ip();
    let host = || cluster.host_command("bash");
    let outside = || cluster.outside().command("bash");
    for (address, port, expected) in [
        ("127.0.0.1", "54323", "alpha"),
        (node, "54323", "ports"),
        ("127.0.0.1", "54324", "ports"),
        (node, "54324", "ports"),
    ] {
        let answer = said(host(), &get(address, port, "/"));
        assert!(answer.contains(&format!("\r\n\r\n{expected}\n")), "{address}:{port} on the node: {answer}");
        if address == node {
            let answer = said(outside(), &get(address, port, "/"));
            assert!(answer.contains(&format!("\r\n\r\n{expected}\n")), "{address}:{port} from outside: {answer}");
            assert_eq!(fetch(kubectl, &[&format!("http://{address}:{port}/")]).unwrap(), format!("{expected}\n"));
        } else {
            let error = fetch(kubectl, &[&format!("http://{address}:{port}/")]).unwrap_err();
            assert!(error.contains(REFUSED), "in a pod, loopback is the pod's own: {error}");
        }
    }
    let answer = said(outside(), &get(node, "54324", "/peer"));
    assert!(answer.ends_with(&format!("\r\n\r\n{OUTSIDE}\n")), "a pod sees who asks: {answer}");
    for bash in [host(), outside()] {
        let answer = said(bash, &datagram(node, "54323"));
        assert!(answer.starts_with("alpha ") && answer.ends_with("hello\n"), "UDP: {answer}");
    }
}

/// An EndpointSlice of Service `of`: address, conditions (ready, serving, terminating) and node of each endpoint.
fn slice(of: &str, endpoints: &[(&str, [bool; 3], &str)]) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, [ready, serving, terminating], node)| {
            serde_json::json!({
                "addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            })
        })
        .collect();
    serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": of, "labels": {"kubernetes.io/service-name": of}},
        "endpoints": endpoints, "ports": [{"port": 8080, "protocol": "TCP"}],
    })
    .to_string()
}

const READY: [bool; 3] = [true, true, false];
const DRAINING: [bool; 3] = [false, true, true];
const GONE: [bool; 3] = [false, false, true];

fn policies(kubectl: &Kubectl) {
    // A client stays with its backend.
    eventually(kubectl, "fetch http://sticky/");
    assert_eq!(answers(kubectl, "http://sticky/", 60).len(), 1, "session affinity");
    // External addresses, of the spec and of a load balancer.
    eventually(kubectl, "fetch http://192.0.2.50/");
    assert_eq!(answers(kubectl, "http://192.0.2.50/", 60).len(), 3);
    let ingress = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.60"}]}}}"#;
    kubectl.run(&["patch", "service", "external", "--subresource=status", "--type=merge", "-p", ingress]).unwrap();
    eventually(kubectl, "fetch http://192.0.2.60/");

    let node = field(kubectl, "pod/client", ".spec.nodeName");
    let alpha = field(kubectl, "pod/named", ".status.podIP");
    let web = field(kubectl, "pod", ".items[?(@.metadata.labels.app=='web')].status.podIP");
    let web = web.split_whitespace().next().unwrap();
    // Local: endpoints of other nodes are none.
    let apply = |text: String| kubectl.apply(&text).unwrap();
    apply(slice("local", &[(&alpha, READY, &node), (web, READY, "elsewhere")]));
    eventually(kubectl, "fetch http://local/");
    assert_eq!(fetch(kubectl, &["http://local/", "30"]).unwrap(), "alpha\n".repeat(30));
    apply(slice("local", &[(web, READY, "elsewhere")]));
    eventually(kubectl, "! fetch http://local/");
    let error = fetch(kubectl, &["http://local/"]).unwrap_err();
    assert!(error.contains(REFUSED), "{error}");
    // Those that terminate serve only where nobody else does.
    apply(slice("manual", &[(&alpha, READY, &node), (web, DRAINING, &node)]));
    eventually(kubectl, "fetch http://manual/");
    assert_eq!(fetch(kubectl, &["http://manual/", "30"]).unwrap(), "alpha\n".repeat(30));
    apply(slice("manual", &[(&alpha, GONE, &node), (web, DRAINING, &node)]));
    eventually(kubectl, "busybox sh -c '[ $(fetch http://manual/) != alpha ]'");
    assert_eq!(answers(kubectl, "http://manual/", 30).len(), 1);
    apply(slice("manual", &[(&alpha, GONE, &node)]));
    eventually(kubectl, "! fetch http://manual/");
    assert!(fetch(kubectl, &["http://manual/"]).unwrap_err().contains(REFUSED));
}

/// Whether a shell's condition holds in a container, by the container runtime alone: works while no API server does.
/// (ctr may lose what a command prints, not how it ended.)
fn holds_without_api(cluster: &Cluster, container: &str, condition: &str) -> bool {
    let status = Command::new("ctr")
        .arg("--address")
        .arg(cluster.data_dir().join("containerd/containerd.sock"))
        .args(["--namespace", "k8s.io", "tasks", "exec", "--exec-id", "without-api", container, "sh", "-c", condition])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    status.success()
}

/// Runs on in the pod until `/tmp/go` is gone; the sum is in a file then.
fn background(kubectl: &Kubectl, file: &str, words: &str) {
    let script =
        format!("echo >/tmp/go; (fetch {words} >{file}.part; mv {file}.part {file}) </dev/null >/dev/null 2>&1 &");
    client(kubectl, &["sh", "-c", &script]).unwrap();
    eventually(kubectl, &format!("grep -q started {file}.part"));
}

fn restarts(cluster: &mut Cluster, kubectl: &Kubectl) {
    let web = field(kubectl, "service/web", ".spec.clusterIP");
    let udp = field(kubectl, "service/udp", ".spec.clusterIP");
    let id = field(kubectl, "pod/client", ".status.containerStatuses[0].containerID");
    let id = id.trim_start_matches("containerd://").to_owned();
    // One connection through the Service, and look-ups and connections without end.
    background(kubectl, "/tmp/kept", &format!("--keep /tmp/go http://{web}/"));
    background(kubectl, "/tmp/anew", "--while /tmp/go http://web/");
    for (round, kill) in [true, false, true].into_iter().enumerate() {
        if kill {
            cluster.kill_server().unwrap();
        } else {
            cluster.stop_server().unwrap();
        }
        for condition in [
            // Each a look-up and a connection.
            "fetch http://web.default.svc.cluster.local/ 20",
            "nslookup -type=a up.example.test | grep 192.0.2.7",
            &format!("fetch --sendto {udp}:53 x"),
            "fetch http://empty/ 2>&1 | grep refused",
        ] {
            assert!(holds_without_api(cluster, &id, condition), "while keelson is down: {condition}");
        }
        let count = entries(cluster, &BTreeSet::from([web.clone()])).len();
        assert_eq!(count, 5, "the address, three node ports and a host port");
        cluster.start_server().unwrap();
        cluster.wait_ready().unwrap();
        host_ports(cluster, kubectl);
        // The maps are compared, not filled again. The proxy says so a moment after the start.
        let said = (0..200).find_map(|_| {
            eventually(kubectl, "true");
            let log = std::fs::read_to_string(cluster.log_path()).unwrap();
            log.lines().filter(|line| line.contains("Services are translated")).nth(round + 1).map(str::to_owned)
        });
        assert!(said.as_ref().is_some_and(|line| line.contains(" writes=0 ")), "{said:?}");
    }
    let kept = ended(kubectl, "/tmp/kept");
    assert!(kept.starts_with(&format!("started with {web}:80\n")), "the peer is the Service: {kept}");
    assert!(kept.ends_with(" failed 0"), "an open connection: {kept}");
    let anew = ended(kubectl, "/tmp/anew");
    assert!(anew.ends_with(" failed 0"), "new connections and look-ups: {anew}");

    // The DNS process itself dies, and with it the query in its hands. All others wait for the next process.
    background(kubectl, "/tmp/reborn", "--while /tmp/go http://web/");
    let record = std::fs::read_to_string(cluster.data_dir().join("dns/dns.pid")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually(kubectl, "fetch http://web/");
    let reborn = ended(kubectl, "/tmp/reborn");
    assert!([" failed 0", " failed 1"].iter().any(|sum| reborn.ends_with(sum)), "while the DNS process dies: {reborn}");
}

/// Ends what runs in the background and gives what it has written.
fn ended(kubectl: &Kubectl, file: &str) -> String {
    eventually(kubectl, &format!("rm -f /tmp/go; cat {file}"));
    client(kubectl, &["cat", file]).unwrap().trim_end().to_owned()
}

fn endpoints_go(cluster: &Cluster, kubectl: &Kubectl) {
    kubectl.run(&["scale", "deployment/web", "--replicas=1"]).unwrap();
    kubectl.wait("deployment/web", "jsonpath={.status.replicas}=1").unwrap();
    eventually(kubectl, "busybox sh -c '[ $(fetch http://web/ 40 | busybox sort -u | wc -l) = 1 ]'");
    let left = answers(kubectl, "http://web/", 40);
    assert_eq!(left.len(), 1);
    // The pod that a client stayed with may be gone: it is led to another, at once.
    assert_eq!(answers(kubectl, "http://sticky/", 10), left);
    kubectl.run(&["delete", "pod/ports"]).unwrap();
    eventually(kubectl, &format!("! fetch http://{}:54324/", cluster.node_ip()));
    // The rules follow; bounded by the number of tries.
    let refused = (0..200)
        .any(|_| said(cluster.outside().command("bash"), &get(cluster.node_ip(), "54324", "/")).contains(REFUSED));
    assert!(refused, "the host port went with its pod");
    kubectl.run(&["scale", "deployment/web", "--replicas=0"]).unwrap();
    // Pods on their way out serve where no others do: this waits until none is left.
    kubectl.run(&["delete", "pods", "-l", "app=web"]).unwrap();
    eventually(kubectl, "! fetch http://web/");
    assert!(fetch(kubectl, &["http://web/"]).unwrap_err().contains(REFUSED));
}

/// What `keelson datapath services` says of these addresses.
fn entries(cluster: &Cluster, addresses: &BTreeSet<String>) -> Vec<String> {
    let output = cluster
        .keelson(&["datapath", "services", "-o", "json", "--data-dir"])
        .arg(cluster.data_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(dump["metrics"]["broken"], 0, "no frontend leads nowhere: {dump}");
    let entries = dump["services"].as_array().unwrap().iter();
    let ours = |entry: &&serde_json::Value| entry["address"].as_str().is_none_or(|at| addresses.contains(at));
    entries.filter(ours).map(ToString::to_string).collect()
}

fn deletion(cluster: &Cluster, kubectl: &Kubectl) {
    let addresses = field(kubectl, "service", ".items[*].spec.clusterIP");
    let own = field(kubectl, "service/kubernetes", ".spec.clusterIP");
    let mut addresses: BTreeSet<String> = addresses.split_whitespace().map(str::to_owned).collect();
    addresses.extend(["192.0.2.50".to_owned(), "192.0.2.60".to_owned()]);
    addresses.remove(&own);
    assert!(entries(cluster, &addresses).len() >= addresses.len() - 1, "an entry an address while they are there");
    let services = "web udp headless named hairpin outer alias node sticky empty external local manual";
    let services: Vec<String> = services.split(' ').map(|name| format!("service/{name}")).collect();
    let words: Vec<&str> = ["delete"].into_iter().chain(services.iter().map(String::as_str)).collect();
    kubectl.run(&words).unwrap();
    // The maps follow by a watch; bounded by the number of tries.
    let left = (0..200).map(|_| entries(cluster, &addresses)).find(Vec::is_empty);
    assert!(left.is_some(), "{:?}", entries(cluster, &addresses));
}

/// Processes whose command line names a file below the directory.
fn processes(directory: &Path) -> Vec<String> {
    let text = directory.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&text)).collect()
}

/// What the network of a node leaves on the machine.
fn traces(cluster: &Cluster) -> Vec<String> {
    let node = cluster.node();
    let links = node.ip(&["-o", "link"]).unwrap();
    let mut found: Vec<String> = links.lines().filter(|line| line.contains(": keel")).map(str::to_owned).collect();
    for protocol in ["107", "108"] {
        found
            .extend(node.ip(&["route", "show", "table", "all", "proto", protocol]).unwrap().lines().map(str::to_owned));
    }
    let tables = node.command("nft").args(["list", "tables"]).output().unwrap();
    found.extend(
        String::from_utf8_lossy(&tables.stdout).lines().filter(|line| line.contains("keelson")).map(str::to_owned),
    );
    let files = [pins(cluster), cluster.cgroup2_dir(), cluster.data_dir().to_owned()];
    found.extend(files.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
    found.extend(processes(cluster.data_dir()));
    found
}

fn pins(cluster: &Cluster) -> PathBuf {
    Path::new("/sys/fs/bpf/keelson").join(cluster.name())
}

#[test]
fn two_nodes_on_one_machine_and_one_goes() {
    let Some(first) = cluster_tests::cluster("two_nodes_on_one_machine_and_one_goes") else { return };
    let Some(mut second) = cluster_tests::cluster("two_nodes_on_one_machine_and_one_goes") else { return };
    // Same addresses of node, pods and Services: only the control group tells them apart.
    for cluster in [&first, &second] {
        deploy(&cluster.kubectl(), &[WEB, CLIENT]);
    }
    let pods = |cluster: &Cluster| -> BTreeSet<String> {
        let names = field(&cluster.kubectl(), "pod", ".items[?(@.metadata.labels.app=='web')].metadata.name");
        names.split_whitespace().map(str::to_owned).collect()
    };
    for cluster in [&first, &second] {
        assert_eq!(answers(&cluster.kubectl(), "http://web/", 60), pods(cluster), "each is answered by its own");
    }
    assert_eq!(second.node().ip(&["-o", "link"]).unwrap().matches(": keel").count(), 4, "a link a pod");

    let traffic = cluster_tests::Traffic::start(&first.kubectl(), "client", "http://web/").unwrap();
    second.stop_server().unwrap();
    assert!(!traces(&second).is_empty(), "a stop leaves everything in place");
    let removed = second.keelson(&["uninstall", "--yes", "--data-dir"]).arg(second.data_dir()).output().unwrap();
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert_eq!(traces(&second), Vec::<String>::new(), "nothing is left of the one that went");
    assert!(pins(&first).exists());
    let (answered, failed) = traffic.stop().unwrap();
    assert!(answered > 0 && failed == 0, "the other noticed nothing: {answered} answered, {failed} failed");
    assert_eq!(answers(&first.kubectl(), "http://web/", 60), pods(&first));
}
