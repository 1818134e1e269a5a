//! The DNS process, started, adopted, killed and replaced by its supervisor, under queries that must all be answered, but
//! for the one that a killed process had taken from its socket: the kernel has no second copy, so a resolver asks again.
//!
//! This program is both: called as `… dns --config FILE` it is the DNS process, else the test. (No libtest harness, since
//! that would take the arguments.)

use std::convert::Infallible;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use informer::kinds::Traffic;
use network::dns::{DnsConfig, Supervisor, SupervisorConfig, run};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "dns", "--config", path] => runtime.block_on(serve(Path::new(path))),
        // nextest asks for a list of tests.
        [_, "--list", ..] => {
            if !arguments.iter().any(|argument| argument == "--ignored") {
                println!("dns_process: test");
            }
        }
        _ => runtime.block_on(scenario()),
    }
    ExitCode::SUCCESS
}

async fn serve(path: &Path) {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    tokio::spawn(async move {
        terminate.recv().await;
        stop.cancel();
    });
    run(DnsConfig::load(path).expect("a configuration"), shutdown).await.expect("serving");
}

/// An API server with no objects: lists are empty, watches stay open, writes are echoed.
fn client() -> kube::Client {
    let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
        let path = request.uri().path().to_owned();
        let watching = request.uri().query().is_some_and(|query| query.contains("watch="));
        let response = http::Response::builder().header("Content-Type", "application/json");
        if watching {
            let kind =
                if path.contains("slices") { ("EndpointSlice", "discovery.k8s.io/v1") } else { ("Service", "v1") };
            let bookmark = serde_json::json!({"type": "BOOKMARK", "object": {"kind": kind.0, "apiVersion": kind.1, "metadata":
                {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
            let web = serde_json::json!({"type": "ADDED", "object": {"kind": "Service", "apiVersion": "v1", "metadata":
                {"name": "web", "namespace": "shop", "resourceVersion": "1"}, "spec": {"clusterIP": "10.96.0.5"}}});
            let text = if kind.0 == "Service" { format!("{web}\n{bookmark}\n") } else { format!("{bookmark}\n") };
            let first = futures::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from(text)))]);
            let body = http_body_util::StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
            return Ok::<_, Infallible>(response.body(http_body_util::Either::Left(body)).expect("a response"));
        }
        let (status, text) = match *request.method() {
            http::Method::GET => (404, r#"{"kind":"Status","code":404,"reason":"NotFound","status":"Failure"}"#),
            _ => (201, "{}"),
        };
        let body = http_body_util::Full::new(bytes::Bytes::from(text));
        Ok(response.status(status).body(http_body_util::Either::Right(body)).expect("a response"))
    });
    kube::Client::new(service, "default")
}

/// Asks over and over, one query at a time.
#[derive(Default)]
struct Asker {
    stop: AtomicBool,
    asked: AtomicU32,
    /// How many queries were not answered rightly.
    failed: AtomicU32,
}

impl Asker {
    fn start(address: IpAddr, port: u16) -> (Arc<Self>, std::thread::JoinHandle<()>) {
        let asker = Arc::new(Self::default());
        let asking = asker.clone();
        let thread = std::thread::spawn(move || {
            while !asking.stop.load(Ordering::Relaxed) {
                asking.failed.fetch_add(u32::from(!ask(address, port)), Ordering::Relaxed);
                asking.asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        (asker, thread)
    }

    /// Waits for answers to queries that are asked from now on; tells how many failed so far.
    async fn goes_on(&self, what: &str) -> u32 {
        let before = self.asked.load(Ordering::Relaxed);
        until(what, || self.asked.load(Ordering::Relaxed) > before + 20).await;
        self.failed.load(Ordering::Relaxed)
    }
}

fn ask(address: IpAddr, port: u16) -> bool {
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "shop", "svc", "cluster", "local"] {
        query.push(u8::try_from(label.len()).expect("short"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket.send_to(&query, (address, port)).expect("sent");
    let mut answer = [0; 512];
    socket.recv(&mut answer).is_ok_and(|length| answer[..length].ends_with(&[10, 96, 0, 5]))
}

fn pid(data: &Path) -> i32 {
    let record = std::fs::read(data.join("dns/dns.pid")).expect("a pid file");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    i32::try_from(record["pid"].as_i64().expect("a number")).expect("a pid")
}

fn has_ended(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err()
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Waits for a state of the world that nothing announces to the test, with a deadline.
async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !reached() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Running {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

async fn start(config: &SupervisorConfig) -> Running {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let traffic = Traffic::start(&client(), &tasks, &shutdown);
    Supervisor::start(config.clone(), client(), traffic, &tasks, shutdown.clone()).await.expect("a supervisor");
    Running { tasks, shutdown }
}

async fn stop(running: Running) {
    running.shutdown.cancel();
    running.tasks.close();
    running.tasks.wait().await;
}

async fn scenario() {
    let data = tempfile::tempdir().expect("a directory");
    let resolv_conf = data.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "").expect("written");
    let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let own = std::env::current_exe().expect("this program");
    let mut config = SupervisorConfig {
        node_name: "test".into(),
        node_ip: free.ip(),
        port: free.port(),
        data_dir: data.path().to_owned(),
        cluster_domain: "cluster.local".into(),
        reverse_cidrs: vec!["10.96.0.0/16".into()],
        resolv_conf,
        program: Some(own.clone()),
    };
    let running = start(&config).await;
    let (ip, port) = (config.node_ip, config.port);
    until("the first answer", || ask(ip, port)).await;
    let first = pid(data.path());
    until("a kept snapshot", || data.path().join("dns/snapshot.json").exists()).await;
    let (asker, thread) = Asker::start(ip, port);

    stop(running).await;
    assert_eq!(asker.goes_on("answers without a supervisor").await, 0, "a query failed without a supervisor");
    let running = start(&config).await;
    assert_eq!(pid(data.path()), first, "the same program with the same configuration is adopted");

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).expect("killed");
    until("another process", || pid(data.path()) != first).await;
    let second = pid(data.path());
    let in_its_hands = asker.goes_on("answers of the second").await;
    assert!(in_its_hands <= 1, "the killed process had one query, and {in_its_hands} failed");

    stop(running).await;
    let upgraded = data.path().join("upgraded");
    std::fs::copy(&own, &upgraded).expect("copied");
    config.program = Some(upgraded);
    let running = start(&config).await;
    assert_ne!(pid(data.path()), second, "another program takes over");
    until("the end of the second", || has_ended(second)).await;
    assert_eq!(
        asker.goes_on("answers of the third").await,
        in_its_hands,
        "a query failed while one replaced the other"
    );

    asker.stop.store(true, Ordering::Relaxed);
    thread.join().expect("the asker");
    stop(running).await;
    let third = pid(data.path());
    for _ in 0..2 {
        Supervisor::retire(data.path(), &client(), "test").await.expect("retired");
        assert!(!data.path().join("dns").exists());
    }
    assert!(has_ended(third), "a DNS process that is ours no more goes on");
    println!("dns_process: {} queries, {in_its_hands} failed", asker.asked.load(Ordering::Relaxed));
}
