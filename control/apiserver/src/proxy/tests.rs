//! Where streams go, in upstream's words where they cannot.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::*;

const NODE: &str = r#"{"status":{"addresses":[{"type":"Hostname","address":"n"},{"type":"InternalIP","address":"10.0.0.5"}],
  "daemonEndpoints":{"kubeletEndpoint":{"Port":10251}}}}"#;
const ONE: &str = r#"{"spec":{"nodeName":"n","containers":[{"name":"a"}]}}"#;
const TWO: &str =
    r#"{"spec":{"nodeName":"n","containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"}]}}"#;
const PENDING: &str = r#"{"spec":{"containers":[{"name":"a"}]}}"#;

fn objects() -> Objects {
    Arc::new(|_, resource, _, name| {
        let json = match (resource, name) {
            ("nodes", "n") => NODE,
            ("pods", "one") => ONE,
            ("pods", "two") => TWO,
            ("pods", "pending") => PENDING,
            _ => return None,
        };
        Some(Bytes::from_static(json.as_bytes()))
    })
}

fn locate(path: &str, query: &str) -> Result<Option<Target>, String> {
    let raw = query;
    let query = Query::parse(query);
    let info = RequestInfo::parse(&Method::POST, path, &query);
    assert!(is_stream(&info), "{path}");
    let objects = objects();
    let found = match info.subresource.as_str() {
        "exec" => options::exec(&query).and_then(|o| locate::pod_stream(&objects, &info, &query, "exec", &o)).map(Some),
        "attach" => {
            options::attach(&query).and_then(|o| locate::pod_stream(&objects, &info, &query, "attach", &o)).map(Some)
        }
        "log" => options::log(&query, &info.name).and_then(|o| locate::log(&objects, &info, &query, &o)),
        "portforward" => locate::port_forward(&objects, &info, raw).map(Some),
        _ => locate::node_proxy(&objects, &info, raw).map(Some),
    };
    found.map_err(|status| status.message)
}

#[test]
fn streams_are_translated_for_the_kubelet() {
    let cases = [
        (
            "pods/one/exec",
            "command=sh&command=-c&command=echo+%26&stdin=true&tty=true",
            "/exec/ns/one/a?command=sh&command=-c&command=echo%20%26&input=1&output=1&tty=1",
        ),
        (
            "pods/two/exec",
            "command=ls&container=b&stdout=true&stderr=true",
            "/exec/ns/two/b?command=ls&output=1&error=1",
        ),
        ("pods/one/attach", "stdout=true&stderr=false", "/attach/ns/one/a?output=1"),
        ("pods/one/log", "follow=true&tailLines=0&previous=false", "/containerLogs/ns/one/a?follow=true&tailLines=0"),
        ("pods/one/log", "", "/containerLogs/ns/one/a"),
        ("pods/one/portforward", "ports=80", "/portForward/ns/one?ports=80"),
    ];
    for (path, query, expected) in cases {
        let target = locate(&format!("/api/v1/namespaces/ns/{path}"), query).unwrap().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("10.0.0.5:10251", expected));
        assert!(target.kubelet);
    }
    let target = locate("/api/v1/nodes/n/proxy/stats/summary", "x=1").unwrap().unwrap();
    assert_eq!(target.path, "/stats/summary?x=1");
    assert_eq!(locate("/api/v1/namespaces/ns/pods/pending/log", ""), Ok(None));
}

#[test]
fn what_cannot_be_reached_is_said_in_upstreams_words() {
    let cases = [
        (
            "two/exec",
            "command=x",
            "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [i]",
        ),
        ("one/exec", "command=x&container=z", "container z is not valid for pod one"),
        ("one/exec", "", "you must specify at least 1 command"),
        ("one/attach", "stdout=false&stderr=false", "you must specify at least 1 of stdin, stdout, stderr"),
        ("pending/exec", "command=x", "pod pending does not have a host assigned"),
        ("none/exec", "command=x", "pods \"none\" not found"),
    ];
    for (path, query, expected) in cases {
        let error = locate(&format!("/api/v1/namespaces/ns/pods/{path}"), query).unwrap_err();
        assert_eq!(error, expected);
    }
    let error = locate("/api/v1/namespaces/ns/pods/one/log", "tailLines=-1").unwrap_err();
    assert!(error.contains("tailLines: Invalid value: -1: must be greater than or equal to 0"), "{error}");
}
