//! Where streams go, in upstream's words where they cannot, and what passes through a proxy.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use locate::Via;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::auth::authenticate::Peer;
use crate::pki::{CERTIFICATE_LIFE, Pki};
use crate::server::body;

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
        "portforward" => {
            options::port_forward(&query).and_then(|o| locate::port_forward(&objects, &info, &o)).map(Some)
        }
        _ => backend::locate(&objects, &info, raw).map(Some),
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
        ("pods/one/portforward", "", "/portForward/ns/one"),
        ("pods/one/portforward", "ports=80&ports=443,9000", "/portForward/ns/one?port=80%2C443%2C9000"),
    ];
    for (path, query, expected) in cases {
        let target = locate(&format!("/api/v1/namespaces/ns/{path}"), query).unwrap().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("10.0.0.5:10251", expected));
        assert_eq!(target.via, Via::Kubelet);
    }
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
        ("one/portforward", "ports=80,x", "invalid value \"x\" for query parameter ports"),
        ("none/exec", "command=x", "pods \"none\" not found"),
    ];
    for (path, query, expected) in cases {
        let error = locate(&format!("/api/v1/namespaces/ns/pods/{path}"), query).unwrap_err();
        assert_eq!(error, expected);
    }
    let error = locate("/api/v1/namespaces/ns/pods/one/log", "tailLines=-1").unwrap_err();
    assert!(error.contains("tailLines: Invalid value: -1: must be greater than or equal to 0"), "{error}");
}

/// Pods, a service and its endpoints, of which only some are what they say.
fn proxied(resource: &str, namespace: &str, name: &str) -> Option<Value> {
    let ips = |ips: &[&str]| json!({"podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()});
    let endpoint = |ip: &str, namespace: &str, pod: &str| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod}});
    let ports = json!([{"name": "web", "port": 8080}, {"name": "tls", "port": 8443}]);
    Some(match (namespace, resource, name) {
        ("", "nodes", "n") => serde_json::from_str(NODE).unwrap(),
        ("ns", "pods", "a") => json!({"status": ips(&["10.1.0.1", "fd00::1"]),
            "spec": {"containers": [{"name": "x"}, {"name": "y", "ports": [{"containerPort": 8080}]}]}}),
        ("ns", "pods", "b") => json!({"status": ips(&["10.1.0.2"]), "spec": {"containers": [{"name": "x"}]}}),
        ("ns", "pods", "v6") => json!({"status": ips(&["fd00::6"]), "spec": {"containers": [{"name": "x"}]}}),
        ("ns", "pods", "none") => json!({"status": {}, "spec": {"containers": [{"name": "x"}]}}),
        ("other", "pods", "c") => json!({"status": ips(&["10.1.0.3"])}),
        ("ns", "services", "s" | "gone") => {
            json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}})
        }
        ("ns", "services", "unnamed") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("ns", "endpoints", "s") => json!({"subsets": [
            {"ports": ports},
            {"ports": ports, "addresses": [
                endpoint("10.1.0.1", "ns", "a"),
                endpoint("169.254.169.254", "ns", "a"),
                endpoint("10.1.0.3", "other", "c"),
                endpoint("10.1.0.3", "ns", "c"),
                {"ip": "10.1.0.2"},
            ]},
            {"ports": [{"name": "web", "port": 8081}], "addresses": [endpoint("10.1.0.2", "ns", "b")]},
        ]}),
        ("ns", "endpoints", "unnamed") => {
            json!({"subsets": [{"ports": [{"port": 9000}], "addresses": [endpoint("fd00::1", "ns", "a")]}]})
        }
        ("ns", "endpoints", "gone") => json!({}),
        _ => return None,
    })
}

#[test]
fn proxied_requests_go_to_pods_and_nodes_only() {
    let objects: Objects = Arc::new(|_, resource, namespace, name| {
        proxied(resource, namespace, name).map(|object| object.to_string().into())
    });
    let find = |path: &str, query: &str| {
        let info = RequestInfo::parse(&Method::GET, path, &Query::parse(query));
        let (prefix, rest) = backend::split_path(&info);
        assert!(prefix.ends_with("/proxy") && format!("{prefix}{rest}") == path, "{prefix} {rest}");
        backend::locate(&objects, &info, query)
    };
    let (plain, tls, kubelet) = (Via::Plain, Via::UnverifiedTls, Via::Kubelet);
    type Case = (&'static str, &'static [&'static str], Via, &'static str);
    let cases: [Case; 15] = [
        ("nodes/n/proxy/stats/summary?x=1", &["10.0.0.5:10251"], kubelet, "/stats/summary?x=1"),
        ("nodes/n:10251/proxy/", &["10.0.0.5:10251"], kubelet, "/"),
        ("nodes/n:9100/proxy/metrics", &["10.0.0.5:9100"], plain, "/metrics"),
        ("nodes/https:n:9100/proxy", &["10.0.0.5:9100"], tls, "/"),
        ("namespaces/ns/pods/a/proxy", &["10.1.0.1:8080"], plain, "/"),
        ("namespaces/ns/pods/a:99/proxy/x//y%2F/proxy/?a=%20", &["10.1.0.1:99"], plain, "/x//y%2F/proxy/?a=%20"),
        ("namespaces/ns/pods/b/proxy/", &["10.1.0.2:80"], plain, "/"),
        ("namespaces/ns/pods/https:b:/proxy/", &["10.1.0.2:443"], tls, "/"),
        ("namespaces/ns/pods/http:v6:81/proxy/", &["[fd00::6]:81"], plain, "/"),
        ("namespaces/ns/services/s:web/proxy/", &["10.1.0.1:8080", "10.1.0.2:8081"], plain, "/"),
        ("namespaces/ns/services/s:80/proxy/", &["10.1.0.1:8080", "10.1.0.2:8081"], plain, "/"),
        ("namespaces/ns/services/https:s:443/proxy/", &["10.1.0.1:8443"], tls, "/"),
        ("namespaces/ns/services/unnamed/proxy/", &["[fd00::1]:9000"], plain, "/"),
        ("namespaces/ns/services/unnamed:80/proxy/", &["[fd00::1]:9000"], plain, "/"),
        ("namespaces/ns/services/http:unnamed:/proxy/", &["[fd00::1]:9000"], plain, "/"),
    ];
    for (path, addresses, via, expected) in cases {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        // Any of them, sooner or later each: a wrong one among 64 would be seen too.
        let found: Vec<Target> = (0..64).map(|_| find(&format!("/api/v1/{path}"), query).unwrap()).collect();
        assert!(found.iter().all(|target| (target.via, target.path.as_str()) == (via, expected)), "{path}: {found:?}");
        let seen: BTreeSet<&str> = found.iter().map(|target| target.address.as_str()).collect();
        assert_eq!(seen, addresses.iter().copied().collect(), "{path}");
    }
    for (path, code, message) in [
        ("pods/gopher:a:80", 400, "invalid pod request \"gopher:a:80\""),
        ("pods/a:b:c:d", 400, "invalid pod request \"a:b:c:d\""),
        ("pods/none", 400, "address not allowed"),
        ("pods/zzz:80", 404, "pods \"zzz\" not found"),
        ("services/:80", 400, "invalid service request \":80\""),
        ("services/s:81", 503, "no service port 81 found for service \"s\""),
        ("services/s", 503, "no endpoints available for service \"s\""),
        ("services/s:nope", 503, "no endpoints available for service \"s:nope\""),
        ("services/gone:web", 503, "no endpoints available for service \"gone\""),
        ("services/zzz:80", 404, "services \"zzz\" not found"),
    ] {
        let status = find(&format!("/api/v1/namespaces/ns/{path}/proxy/"), "").unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, message), "{path}");
    }
}

#[test]
fn the_api_servers_own_addresses_are_not_proxied_to() {
    for (address, allowed) in [
        ("10.244.0.7", true),
        ("192.168.1.1", true),
        ("8.8.8.8", true),
        ("fd00::7", true),
        ("::ffff:10.0.0.1", true),
        ("127.0.0.1", false),
        ("127.8.9.1", false),
        ("::1", false),
        ("::ffff:127.0.0.1", false),
        ("0.0.0.0", false),
        ("::", false),
        ("169.254.169.254", false),
        ("fe80::1", false),
        ("224.0.0.1", false),
        ("ff02::1", false),
        ("255.255.255.255", false),
    ] {
        assert_eq!(backend::proxyable(address.parse().unwrap()), allowed, "{address}");
    }
}

/// What the backend of these tests says.
fn answer(request: &Request<Incoming>, secure: bool) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    let (headers, body): (&[(_, &str)], String) = match request.uri().path() {
        "/page" => (
            &[(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_LENGTH, "16")],
            "<a href=/next>x</a>"[..16].to_owned(),
        ),
        "/packed" => (&[(CONTENT_TYPE, "text/html"), (CONTENT_ENCODING, "gzip")], "<a href=/next>".to_owned()),
        "/moved" => (&[(CONTENT_TYPE, "text/html"), (LOCATION, "/next?a")], "<a href=/next>".to_owned()),
        _ => (
            &[(CONTENT_TYPE, "text/plain")],
            [request.method().as_str(), &request.uri().to_string(), if secure { "tls" } else { "plain" }]
                .into_iter()
                .map(str::to_owned)
                .chain(
                    ["host", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"].map(header),
                )
                .chain(["accept-encoding", "authorization", "cookie", "x-hop"].map(header))
                .collect::<Vec<_>>()
                .join(" "),
        ),
    };
    let mut response = Response::new(Full::from(body));
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    for name in ["access-control-allow-origin", "x-kept", "x-hop"] {
        response.headers_mut().insert(name, HeaderValue::from_static("*"));
    }
    response.headers_mut().insert("connection", HeaderValue::from_static("x-hop"));
    response
}

/// Serves until the test ends; gives the port.
async fn listen(tasks: &TaskTracker, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            connections.spawn(async move {
                let secure = tls.is_some();
                let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, secure)) });
                let http = hyper::server::conn::http1::Builder::new();
                match tls {
                    None => http.serve_connection(TokioIo::new(tcp), service).await,
                    Some(tls) => http.serve_connection(TokioIo::new(tls.accept(tcp).await.unwrap()), service).await,
                }
            });
        }
    });
    port
}

/// TLS with a certificate of a stranger, for another name.
fn strange_tls() -> TlsAcceptor {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pki::open_or_create(dir.path(), CERTIFICATE_LIFE)
        .unwrap()
        .issue_server("x", &["elsewhere.example".to_owned()])
        .unwrap();
    let cert = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn streams(tasks: &TaskTracker) -> Streams {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open_or_create(dir.path(), CERTIFICATE_LIFE).unwrap());
    let shutdown = CancellationToken::new();
    let client = pki.keep("apiserver-kubelet-client", tasks, &shutdown, Pki::kubelet_client).unwrap();
    let objects: Objects = Arc::new(|_, resource, _, name| {
        let pod = json!({"status": {"podIPs": [{"ip": "127.0.0.1"}]}});
        ((resource, name) == ("pods", "p")).then(|| pod.to_string().into())
    });
    Streams::new(pki.ca_pem(), client, objects, tasks.clone(), shutdown).unwrap()
}

/// Method and path of a request to a pod of these tests, and the answer: code, head, body.
async fn ask(streams: &Streams, method: &str, path: &str) -> Result<(StatusCode, http::HeaderMap, String), Status> {
    let request = Request::builder().method(method).uri(format!("/api/v1/namespaces/ns/pods/{path}"));
    let request = request
        .header(HOST, "api:6443")
        .header("authorization", "Bearer secret")
        .header("impersonate-user", "x")
        .header("accept-encoding", "gzip")
        .header("connection", "keep-alive, X-Hop")
        .header("x-hop", "1")
        .header("cookie", "c=1")
        .header("x-forwarded-for", "192.0.2.1")
        .extension(Peer { identity: None, address: [192, 0, 2, 9].into() });
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let response = streams.serve(&info, &query, parts, body::boxed(Full::<Bytes>::default())).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((head.status, head.headers, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn pages_lead_through_the_proxy() {
    let tasks = TaskTracker::new();
    let mut streams = streams(&tasks);
    let plain = listen(&tasks, None).await;
    let secure = listen(&tasks, Some(strange_tls())).await;
    let refused = ask(&streams, "GET", &format!("p:{plain}/proxy/echo")).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (400, "address not allowed"));
    streams.proxyable = |_| true;

    let prefix = format!("/api/v1/namespaces/ns/pods/p:{plain}/proxy");
    let forwarded = "api:6443 https 192.0.2.1, 192.0.2.9";
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let (_, headers, body) = ask(&streams, method, &format!("p:{plain}/proxy/a%20/?b=%20c")).await.unwrap();
        assert_eq!(body, format!("{method} /a%20/?b=%20c plain api:6443 {prefix}/a%20/ {forwarded} - - c=1 -"));
        let kept = ["x-kept", "x-hop", "access-control-allow-origin"].map(|name| headers.contains_key(name));
        assert_eq!(kept, [true, false, false]);
    }
    let (_, _, body) = ask(&streams, "GET", &format!("https:p:{secure}/proxy/a")).await.unwrap();
    assert!(body.starts_with("GET /a tls api:6443"), "{body}");

    let (_, headers, page) = ask(&streams, "GET", &format!("p:{plain}/proxy/page")).await.unwrap();
    assert_eq!(page, format!("<a href=\"{prefix}/next\">x<"));
    assert_eq!(headers.get(CONTENT_LENGTH), None);
    let (_, _, page) = ask(&streams, "GET", &format!("p:{plain}/proxy/packed")).await.unwrap();
    assert_eq!(page, "<a href=/next>");
    let (_, headers, _) = ask(&streams, "GET", &format!("p:{plain}/proxy/moved")).await.unwrap();
    assert_eq!(headers[LOCATION], format!("{prefix}/next?a"));
}

#[tokio::test]
async fn a_page_without_a_slash_is_found_with_one() {
    let tasks = TaskTracker::new();
    let mut streams = streams(&tasks);
    streams.proxyable = |_| true;
    let port = listen(&tasks, None).await;
    for (method, query, expected) in [("GET", "", "/"), ("HEAD", "?a=b", "/?a=b")] {
        let path = format!("p:{port}/proxy");
        let (code, headers, body) = ask(&streams, method, &format!("{path}{query}")).await.unwrap();
        assert_eq!((code, body.as_str()), (StatusCode::MOVED_PERMANENTLY, ""));
        assert_eq!(headers[LOCATION], format!("/api/v1/namespaces/ns/pods/{path}{expected}"));
    }
    let (code, _, body) = ask(&streams, "POST", &format!("p:{port}/proxy?a=b")).await.unwrap();
    assert!(code == StatusCode::OK && body.starts_with("POST /?a=b "), "{body}");
}

#[tokio::test]
async fn a_silent_backend_is_unavailable() {
    let mut streams = streams(&TaskTracker::new());
    streams.proxyable = |_| true;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let status = ask(&streams, "GET", &format!("p:{port}/proxy/")).await.unwrap_err();
    assert_eq!(status.code, 503);
    let expected = format!("error trying to reach service: 127.0.0.1:{port}: Connection refused");
    assert!(status.message.starts_with(&expected), "{}", status.message);
}
