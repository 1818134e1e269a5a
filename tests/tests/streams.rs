//! exec, attach, cp, port-forward and logs -f, with kubectl 1.27 (SPDY) and 1.33 (WebSocket).

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use cluster_tests::{Cluster, Kubectl, KubectlVersion, Lines};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn streams_of_both_protocols() {
    let Some(cluster) = cluster_tests::cluster("streams_of_both_protocols") else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(include_str!("manifests/client.yaml")).unwrap();
    kubectl.apply(include_str!("manifests/streams.yaml")).unwrap();
    kubectl.wait("pod/client", "condition=Ready").unwrap();
    kubectl.wait("pod/streams", "condition=Ready").unwrap();
    for version in [KubectlVersion::V1_27, KubectlVersion::V1_33] {
        let kubectl = kubectl.version(version).unwrap();
        exec(&kubectl);
        copy(&cluster, &kubectl);
        attach(&kubectl);
        logs(&kubectl);
        forward(&cluster, &kubectl);
    }
    plain_websockets(&cluster, &kubectl);
}

/// What browsers and old clients speak: the first sub-protocol of exec, and logs.
fn plain_websockets(cluster: &Cluster, kubectl: &Kubectl) {
    let socket = cluster.data_dir().join("proxy.sock");
    let at = format!("--unix-socket={}", socket.display());
    let mut proxy = kubectl.spawn(&["proxy", &at, "--reject-paths=^$"]).unwrap();
    let lines = Lines::of(proxy.inner().stdout.take().unwrap());
    lines.wait_for("Starting to serve", LIMIT).unwrap();
    for (what, protocol, frames) in [
        (
            "client/exec?stdout=true&stderr=true&command=echo&command=hi",
            "channel.k8s.io",
            &b"\x82\x01\x01\x82\x04\x01hi\n"[..],
        ),
        ("client/exec?stdout=true&command=echo&command=hi", "base64.channel.k8s.io", b"\x81\x011\x81\x051aGkK"),
        ("streams/log?tailLines=1", "binary.k8s.io", b"\x82\x00\x82\x0fheard attached\n"),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request = format!(
            "GET /api/v1/namespaces/default/pods/{what} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let (mut got, normal_end) = (Vec::new(), b"\x88\x02\x03\xe8");
        while !got.ends_with(normal_end) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{what}: {:?}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buffer[..count]);
        }
        let head = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let expected = [frames, normal_end].concat();
        assert_eq!(got[head..], expected, "{what}: {:?}", String::from_utf8_lossy(&got));
    }
}

fn exec(kubectl: &Kubectl) {
    let echoed = kubectl.run_with(&["exec", "-i", "client", "--", "cat"], "one\ntwo\n").unwrap();
    assert_eq!((echoed.code, echoed.stdout.as_str()), (0, "one\ntwo\n"), "{}", echoed.stderr);
    let big = "0123456789abcdef\n".repeat(20_000);
    let counted = kubectl.run_with(&["exec", "-i", "client", "--", "wc", "-c"], &big).unwrap();
    assert_eq!(counted.stdout.trim(), big.len().to_string());
    let failed = kubectl.run_with(&["exec", "client", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "").unwrap();
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"));
    assert!(
        failed.stderr.contains("err\n") && failed.stderr.contains("command terminated with exit code 7"),
        "{}",
        failed.stderr
    );
    let missing = kubectl.run_with(&["exec", "client", "--", "/no/such/program"], "").unwrap();
    assert_ne!(missing.code, 0);
}

fn copy(cluster: &Cluster, kubectl: &Kubectl) {
    let file = cluster.data_dir().join("copy");
    let content = "copied\n".repeat(1000);
    std::fs::write(&file, &content).unwrap();
    let path = file.display().to_string();
    kubectl.run(&["cp", &path, "client:/tmp/copy"]).unwrap();
    kubectl.run(&["cp", "client:/tmp/copy", &format!("{path}.back")]).unwrap();
    assert_eq!(std::fs::read_to_string(format!("{path}.back")).unwrap(), content);
}

fn attach(kubectl: &Kubectl) {
    let mut child = kubectl.spawn(&["attach", "-i", "streams"]).unwrap();
    let lines = Lines::of(child.inner().stdout.take().unwrap());
    let mut input = child.inner().stdin.take().unwrap();
    // What is written before the streams are joined waits in the pipe.
    input.write_all(b"attached\n").unwrap();
    lines.wait_for("heard attached", LIMIT).unwrap();
}

fn logs(kubectl: &Kubectl) {
    let mut child = kubectl.spawn(&["logs", "-f", "--tail=1", "streams"]).unwrap();
    let lines = Lines::of(child.inner().stdout.take().unwrap());
    lines.wait_for("heard attached", LIMIT).unwrap();
    let mut attached = kubectl.spawn(&["attach", "-i", "streams"]).unwrap();
    attached.inner().stdin.take().unwrap().write_all(b"followed\n").unwrap();
    lines.wait_for("heard followed", LIMIT).unwrap();
    attached.wait(LIMIT).unwrap();
    let stamped = kubectl.run(&["logs", "--timestamps", "--tail=1", "streams"]).unwrap();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z heard followed\n"), "{stamped}");
    // Put the last line back for the next round.
    let mut again = kubectl.spawn(&["attach", "-i", "streams"]).unwrap();
    again.inner().stdin.take().unwrap().write_all(b"attached\n").unwrap();
    again.wait(LIMIT).unwrap();
}

fn forward(cluster: &Cluster, kubectl: &Kubectl) {
    let mut child = kubectl.spawn(&["port-forward", "pod/client", ":8080"]).unwrap();
    let lines = Lines::of(child.inner().stdout.take().unwrap());
    let line = lines.wait_for("Forwarding from 127.0.0.1:", LIMIT).unwrap();
    let port = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    for _ in 0..3 {
        let output = cluster
            .node()
            .command("busybox")
            .args(["wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "client");
    }
}
