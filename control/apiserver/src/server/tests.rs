//! The server over real TLS on the loopback, and in process.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use store::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::pki::{CERTIFICATE_LIFE, Certified};

struct Running {
    server: ApiServer,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    dir: tempfile::TempDir,
}

async fn start(limits: Limits) -> Running {
    start_with_life(limits, CERTIFICATE_LIFE).await
}

async fn start_with_life(limits: Limits, certificate_life: Duration) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let config = Config {
        data_dir: dir.path().to_owned(),
        kubeconfig_copy: None,
        certificate_life,
        bind_address: local,
        port: 0,
        advertise_address: local,
        node_name: "test".into(),
        tls_sans: Vec::new(),
        service_cidr: "10.96.0.0/16".into(),
        service_node_port_range: (30000, 32767),
        cluster_domain: "cluster.local".into(),
        cluster_dns: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))),
        version: "test".into(),
    };
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let store = Arc::new(MemoryStore::new());
    let server = ApiServer::start_with(config, store, tasks.clone(), shutdown.clone(), limits).await.unwrap();
    let address = server.serve().await.unwrap();
    Running { server, address, shutdown, tasks, dir }
}

impl Running {
    async fn connect(&self, alpn: &[u8], client: Option<&Certified>) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.pki().ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("kubernetes.default.svc.cluster.local").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    async fn ask(
        &self,
        alpn: &[u8],
        client: Option<&Certified>,
        request: Request<Full<bytes::Bytes>>,
    ) -> (StatusCode, String) {
        let (status, _, body) = self.ask_for_bytes(alpn, client, request).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The answer's code, content type and body.
    async fn ask_for_bytes(
        &self,
        alpn: &[u8],
        client: Option<&Certified>,
        request: Request<Full<bytes::Bytes>>,
    ) -> (StatusCode, String, bytes::Bytes) {
        let io = TokioIo::new(self.connect(alpn, client).await);
        let response = if alpn == b"h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            self.tasks.spawn(async move { connection.await.unwrap_or_default() });
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            self.tasks.spawn(async move { connection.await.unwrap_or_default() });
            sender.send_request(request).await.unwrap()
        };
        let status = response.status();
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|ty| ty.to_str().ok()).unwrap_or_default().to_owned();
        (status, content_type, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.expect("all tasks end");
    }
}

fn get(path: &str) -> Request<Full<bytes::Bytes>> {
    let uri = format!("https://localhost{path}");
    Request::builder().uri(uri).header("host", "localhost").body(Full::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_serve_by_identity() {
    let running = start(Limits::default()).await;
    let admin = running.server.pki().admin().unwrap();
    let unknown = running.server.pki().issue_client("mallory", &["devs"]).unwrap();
    let cases = [
        (None, "/healthz", 200, "ok"),
        (None, "/readyz?verbose", 200, "[+]etcd ok"),
        (None, "/version", 200, "\"gitVersion\":\"v1.36.0+keelson-test\""),
        (None, "/api/v1/pods", 403, r#"User \"system:anonymous\" cannot list resource \"pods\""#),
        (None, "/metrics", 403, r#"cannot get path \"/metrics\""#),
        (Some(&admin), "/api/v1/namespaces/default/pods", 200, "PodList"),
        (Some(&admin), "/apis/apps/v1/", 200, "deployments/scale"),
        (
            Some(&unknown),
            "/api/v1/nodes",
            403,
            r#"nodes is forbidden: User \"mallory\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"#,
        ),
        (Some(&admin), "/api/v1/pods?timeout=x", 400, "invalid timeout specified in the request URL"),
        (Some(&admin), "/nothing", 404, "the server could not find the requested resource"),
        (Some(&admin), "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:kube-dns", 200, "endpoints"),
    ];
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        for (client, path, code, part) in &cases {
            let (status, body) = running.ask(alpn, *client, get(path)).await;
            assert_eq!(status.as_u16(), *code, "{path}: {body}");
            assert!(body.contains(part), "{path}: {body}");
        }
        for path in ["/version", "/api/v1/namespaces", "/api/v1/namespaces/nothing"] {
            let mut head = get(path);
            *head.method_mut() = http::Method::HEAD;
            let code = if path.ends_with("nothing") { 404 } else { 200 };
            let (status, body) = running.ask(alpn, Some(&admin), head).await;
            assert_eq!((status.as_u16(), body.as_str()), (code, ""), "HEAD {path}");
        }
    }
    let mut bad = get("/api/v1/pods");
    bad.headers_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    assert_eq!(running.ask(b"h2", None, bad).await.0, 401);
    let mut impersonating = get("/api/v1/pods");
    impersonating.headers_mut().insert("impersonate-user", "jane".parse().unwrap());
    let (status, body) = running.ask(b"h2", Some(&admin), impersonating).await;
    assert_eq!(status, 403, "{body}");
    assert!(body.contains(r#"User \"jane\" cannot list"#), "{body}");
    running.stop().await;
}

/// Failures and reviews are told in the encoding that the client likes, and in JSON to who cannot be pleased.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_reviews_are_in_protobuf() {
    const PROTOBUF: &str = apimachinery::protobuf::MEDIA_TYPE;
    let running = start(Limits::default()).await;
    let admin = running.server.pki().admin().unwrap();
    let missing = "/api/v1/namespaces/nothing";
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json");
    for (client, path, accept, code, in_protobuf) in [
        (Some(&admin), missing, PROTOBUF, 404, true),
        (Some(&admin), missing, "application/vnd.kubernetes.protobuf, application/json", 404, true),
        (Some(&admin), missing, "application/json, application/vnd.kubernetes.protobuf", 404, false),
        (Some(&admin), missing, &*metadata, 404, false),
        (Some(&admin), "/api/v1/pods", "text/html", 406, false),
        (Some(&admin), "/api/v1/pods?timeout=x", PROTOBUF, 400, true),
        (None, "/api/v1/pods", PROTOBUF, 403, true),
    ] {
        let mut request = get(path);
        request.headers_mut().insert("accept", accept.parse().unwrap());
        let (status, content_type, body) = running.ask_for_bytes(b"h2", client, request).await;
        assert_eq!((status.as_u16(), content_type == PROTOBUF), (code, in_protobuf), "{path} {accept}");
        let told: serde_json::Value = match in_protobuf {
            true => apimachinery::protobuf::decode(&body, None).unwrap(),
            false => serde_json::from_slice(&body).unwrap(),
        };
        assert_eq!((&told["kind"], &told["code"]), (&"Status".into(), &code.into()), "{told}");
    }
    let review = serde_json::json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let body = apimachinery::protobuf::Kind::of_object(&review).unwrap().value(&review).unwrap();
    let path = "https://localhost/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let post = |content_type: &str| {
        let request = Request::post(path).header("content-type", content_type).header("accept", PROTOBUF);
        request.body(Full::from(body.clone())).unwrap()
    };
    let (status, content_type, answer) = running.ask_for_bytes(b"h2", Some(&admin), post(PROTOBUF)).await;
    assert_eq!((status.as_u16(), content_type.as_str()), (201, PROTOBUF));
    assert_eq!(apimachinery::protobuf::decode(&answer, None).unwrap()["status"]["allowed"], true);
    assert_eq!(running.ask_for_bytes(b"h2", Some(&admin), post("text/plain")).await.0, 415);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_refused_and_slow_clients_are_cut() {
    let short = Duration::from_millis(300);
    let limits = Limits { header: short, stalled_body: short, handshake: short, ..Limits::default() };
    let running = start(limits).await;
    let admin = running.server.pki().admin().unwrap();
    let large = Request::post("https://localhost/api/v1/namespaces/default/configmaps")
        .header("host", "localhost")
        .body(Full::from(vec![b' '; crate::request::MAX_BODY + 1]))
        .unwrap();
    assert_eq!(running.ask(b"h2", Some(&admin), large).await.0, 413);
    // Nothing after the TCP connect, nothing after the handshake, half a head, half a body: each is closed by the server.
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let half_body = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    let mut closed = Vec::new();
    for (alpn, bytes) in
        [(b"h2".as_slice(), ""), (b"http/1.1", ""), (b"http/1.1", "GET / HTT"), (b"http/1.1", half_body)]
    {
        let mut stream = running.connect(alpn, Some(&admin)).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{bytes:?} is still open");
        closed.push(String::from_utf8_lossy(&answer).into_owned());
    }
    assert!(closed[3].starts_with("HTTP/1.1 504"), "{}", closed[3]);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a connection without a handshake stays open");
    assert_eq!(running.ask(b"http/1.1", None, get("/livez")).await.0, 200, "the next client is served");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_connections_have_a_time_of_their_own() {
    let running = start(Limits { idle: Duration::from_millis(300), ..Limits::default() }).await;
    let mut stream = running.connect(b"http/1.1", None).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok() && answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    running.stop().await;
}

/// When the first certificates have expired, new clients see others, open connections go on, and who an expired certificate
/// names is nobody any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_while_the_server_runs() {
    let life = Duration::from_secs(3);
    let running = start_with_life(Limits::default(), life).await;
    let open = async |client: Option<&Certified>| {
        let stream = running.connect(b"h2", client).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        running.tasks.spawn(async move { connection.await.unwrap_or_default() });
        (sender, shown)
    };
    let kubeconfig = || std::fs::read_to_string(running.dir.path().join("kubeconfig")).unwrap();
    let (admin, first_kubeconfig) = (running.server.pki().admin().unwrap(), kubeconfig());
    let (mut anonymous, first) = open(None).await;
    let (mut administrator, _) = open(Some(&admin)).await;
    assert_eq!(administrator.send_request(get("/api/v1/pods")).await.unwrap().status(), 200);
    // All were issued before now, to the second.
    supervise::clock::until(std::time::SystemTime::now() + life + Duration::from_secs(1)).await.unwrap();
    let renewed = running.server.pki().admin().unwrap();
    let (mut newcomer, second) = open(Some(&renewed)).await;
    assert!(first != second && admin != renewed);
    assert_eq!(newcomer.send_request(get("/api/v1/pods")).await.unwrap().status(), 200);
    assert_eq!(anonymous.send_request(get("/livez")).await.unwrap().status(), 200, "an open connection goes on");
    assert_eq!(administrator.send_request(get("/api/v1/pods")).await.unwrap().status(), 401);
    assert_ne!(first_kubeconfig, kubeconfig());
    drop((anonymous, administrator, newcomer));
    running.stop().await;
}

/// A selector of thousands of values, by either protocol; and who reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_urls_and_people() {
    let running = start(Limits::default()).await;
    let admin = running.server.pki().admin().unwrap();
    let names: Vec<String> = (0..5000).map(|n| format!("name-{n}")).collect();
    let path = format!("/api/v1/pods?labelSelector=app+in+({})", names.join(","));
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let (status, body) = running.ask(alpn, Some(&admin), get(&path)).await;
        assert_eq!((status.as_u16(), body.starts_with("{\"kind\":\"PodList\"")), (200, true), "{body}");
        let mut curl = get(&path);
        curl.headers_mut().insert("user-agent", "curl/8.5.0".parse().unwrap());
        let (_, body) = running.ask(alpn, Some(&admin), curl).await;
        assert!(body.starts_with("{\n  \"kind\": \"PodList\","), "{body}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_may_be_a_websocket() {
    use futures::StreamExt;
    use tokio_tungstenite::tungstenite::{Error, Message};

    let running = start(Limits::default()).await;
    let admin = running.server.pki().admin().unwrap();
    let url = "wss://localhost/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Ddefault&timeoutSeconds=2";
    let stream = running.connect(b"http/1.1", Some(&admin)).await;
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let Some(Ok(Message::Text(first))) = socket.next().await else { panic!("no event") };
    let event: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"default".into()));
    // When its time is over, it ends as WebSockets do.
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    let stranger = running.connect(b"http/1.1", None).await;
    match tokio_tungstenite::client_async(url, stranger).await {
        Err(Error::Http(refused)) => assert_eq!(refused.status(), 403),
        other => panic!("{other:?}"),
    }

    // A page has its token among the sub-protocols, and gets another one of them answered.
    let admin = running.server.client("admin", &["system:masters"]);
    let post = async |path: &str, body: serde_json::Value| {
        let request = Request::post(path).body(body.to_string().into_bytes()).unwrap();
        admin.request::<serde_json::Value>(request).await.unwrap()
    };
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(accounts, serde_json::json!({"metadata": {"name": "page"}})).await;
    let binding = serde_json::json!({"metadata": {"name": "page"},
        "subjects": [{"kind": "ServiceAccount", "name": "page", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let token = post(&format!("{accounts}/page/token"), serde_json::json!({"spec": {}})).await;
    let token = base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        token["status"]["token"].as_str().unwrap(),
    );
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url).unwrap();
    let protocols = format!("base64url.bearer.authorization.k8s.io.{token}, events");
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let stream = running.connect(b"http/1.1", None).await;
    let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "events");
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_in_this_process_take_the_same_path() {
    let running = start(Limits::default()).await;
    let request = |path: &str| Request::get(path).body(Vec::new()).unwrap();
    let scheduler = running.server.client("system:kube-scheduler", &[]);
    assert!(scheduler.request_text(request("/api/v1/pods")).await.is_ok());
    let error = scheduler.request_text(request("/api/v1/secrets")).await.unwrap_err();
    assert!(error.to_string().contains("cannot list resource"), "{error}");
    let review =
        serde_json::json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let post =
        Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews").body(review.to_string().into_bytes());
    let answer: serde_json::Value = scheduler.request(post.unwrap()).await.unwrap();
    assert_eq!(answer["status"]["allowed"], false);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_more_than_they_hold() {
    let running = start(Limits::default()).await;
    let (admin, jane) = (running.server.client("admin", &["system:masters"]), running.server.client("jane", &["devs"]));
    let send = async |client: &kube::Client, path: &str, body: serde_json::Value| {
        let method = if path.ends_with("/approval") { http::Method::PUT } else { http::Method::POST };
        let request = Request::builder().method(method).uri(path).body(body.to_string().into_bytes()).unwrap();
        client.request::<serde_json::Value>(request).await
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let binding = |name: &str, role: &str, user: &str| {
        serde_json::json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": user}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    };
    send(&admin, &format!("{rbac}/rolebindings"), binding("jane", "admin", "jane")).await.unwrap();
    let role = |name: &str, resource: &str| {
        let rule = serde_json::json!({"verbs": ["create"], "apiGroups": [""], "resources": [resource]});
        serde_json::json!({"metadata": {"name": name}, "rules": [rule]})
    };
    send(&jane, &format!("{rbac}/roles"), role("a", "pods")).await.unwrap();
    for (path, body) in [("roles", role("b", "nodes")), ("rolebindings", binding("b", "cluster-admin", "joe"))] {
        let refused = send(&jane, &format!("{rbac}/{path}"), body).await.unwrap_err().to_string();
        let groups = r#"user "jane" (groups=["devs" "system:authenticated"])"#;
        let words = format!("{groups} is attempting to grant RBAC permissions not currently held");
        assert!(refused.contains(&words), "{path}: {refused}");
    }
    send(&jane, &format!("{rbac}/rolebindings"), binding("c", "view", "joe")).await.unwrap();

    // A certificate request is its maker's, and approving takes more than the right to write.
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let verbs = serde_json::json!({"verbs": ["*"], "apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"]});
    let cluster = "/apis/rbac.authorization.k8s.io/v1";
    let writer = serde_json::json!({"metadata": {"name": "w"}, "rules": [verbs]});
    send(&admin, &format!("{cluster}/clusterroles"), writer).await.unwrap();
    send(&admin, &format!("{cluster}/clusterrolebindings"), binding("w", "w", "jane")).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let spec = serde_json::json!({"request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem),
        "signerName": "example.com/s", "usages": ["client auth"], "username": "system:admin"});
    let made = send(&jane, requests, serde_json::json!({"metadata": {"name": "r"}, "spec": spec})).await.unwrap();
    assert_eq!((&made["spec"]["username"], &made["spec"]["groups"][0]), (&"jane".into(), &"devs".into()));
    let mut approved = made.clone();
    approved["metadata"]["annotations"] = serde_json::json!({"why": "asked"});
    approved["status"]["conditions"] = serde_json::json!([{"type": "Approved", "status": "True"}]);
    let refused = send(&jane, &format!("{requests}/r/approval"), approved.clone()).await.unwrap_err().to_string();
    assert!(refused.contains(r#"user not permitted to approve requests with signerName "example.com/s""#), "{refused}");
    let done = send(&admin, &format!("{requests}/r/approval"), approved).await.unwrap();
    assert!(done["status"]["conditions"][0]["lastTransitionTime"].is_string(), "{done}");
    assert_eq!(done["metadata"]["annotations"]["why"], "asked");
    running.stop().await;
}
