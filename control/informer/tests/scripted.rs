//! An informer against a scripted API server: the test says which bytes answer each request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use informer::{Event, Informer, Meta, ObjectKey, projection};
use kube::client::Body;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug, Deserialize)]
struct Thing {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    size: u32,
}

projection!(Thing, "example.com", "v1", "things");

/// One expected request and its answer.
struct Step {
    /// Parts the URI must have.
    uri: &'static [&'static str],
    status: u16,
    /// Sent at once; split anywhere.
    chunks: Vec<String>,
    /// Whether the connection stays open after the chunks.
    open: bool,
}

struct Server {
    steps: Mutex<VecDeque<Step>>,
    /// What did not match, for the test to fail on.
    complaints: Mutex<Vec<String>>,
    /// Keeps open connections open.
    open: Mutex<Vec<mpsc::Sender<Bytes>>>,
}

impl Server {
    fn client(steps: Vec<Step>) -> (kube::Client, Arc<Server>) {
        let server =
            Arc::new(Server { steps: Mutex::new(steps.into()), complaints: Mutex::default(), open: Mutex::default() });
        let shared = Arc::clone(&server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = shared.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        (kube::Client::new(service, "default"), server)
    }

    fn answer(
        &self,
        request: &Request<Body>,
    ) -> Response<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>> {
        let uri = request.uri().to_string();
        let step = self.steps.lock().unwrap().pop_front().unwrap_or_else(|| {
            self.complaints.lock().unwrap().push(format!("unexpected request {uri}"));
            Step { uri: &[], status: 500, chunks: vec![], open: true }
        });
        for part in step.uri {
            if !uri.contains(part) {
                self.complaints.lock().unwrap().push(format!("{uri} lacks {part}"));
            }
        }
        let (sender, mut receiver) = mpsc::channel(16);
        for chunk in step.chunks {
            sender.try_send(Bytes::from(chunk)).unwrap();
        }
        if step.open {
            self.open.lock().unwrap().push(sender);
        }
        let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let stream = futures::StreamExt::map(stream, |chunk| Ok(Frame::data(chunk)));
        Response::builder().status(step.status).body(StreamBody::new(stream)).unwrap()
    }

    fn check(&self) {
        assert_eq!(*self.complaints.lock().unwrap(), Vec::<String>::new());
        assert_eq!(self.steps.lock().unwrap().len(), 0, "requests that never came");
    }
}

fn frame(kind: &str, name: &str, uid: &str, revision: u32, size: u32) -> String {
    format!(
        r#"{{"type":"{kind}","object":{{"kind":"Thing","metadata":{{"name":"{name}","namespace":"ns","uid":"{uid}","resourceVersion":"{revision}"}},"spec":{{"size":{size}}}}}}}"#
    ) + "\n"
}

fn end_of_initial(revision: u32) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{revision}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    ) + "\n"
}

fn bookmark(revision: u32) -> String {
    format!(r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{revision}"}}}}}}"#) + "\n"
}

fn step(uri: &'static [&'static str], open: bool, chunks: impl IntoIterator<Item = String>) -> Step {
    Step { uri, status: 200, chunks: chunks.into_iter().collect(), open }
}

/// Runs an informer through the script until `last` was told, and returns all it told.
async fn check(steps: Vec<Step>, last: &str) -> (Vec<String>, Informer<Thing>) {
    let (client, server) = Server::client(steps);
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let informer = Informer::<Thing>::builder(client)
        .index("size", |thing| vec![thing.spec.size.to_string()])
        .start(&tasks, shutdown.clone());
    let (sender, mut receiver) = mpsc::unbounded_channel();
    informer.on_event(move |event| {
        let meta = &event.object().metadata;
        let sign = match event {
            Event::Upsert { old: None, .. } => '+',
            Event::Upsert { .. } => '~',
            Event::Delete(_) => '-',
        };
        sender.send(format!("{sign}{}@{}", meta.name, meta.resource_version)).unwrap();
    });
    let mut told = Vec::new();
    while told.last().map(String::as_str) != Some(last) {
        let next = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await;
        told.push(next.unwrap_or_else(|_| panic!("told {told:?}, waited for {last}")).unwrap());
    }
    tokio::time::timeout(Duration::from_secs(5), informer.synced()).await.expect("synced");
    shutdown.cancel();
    tasks.close();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.expect("ends at shutdown");
    server.check();
    (told, informer)
}

#[tokio::test]
async fn initial_state_changes_and_frames_split_anywhere() {
    let text = [frame("ADDED", "b", "2", 9, 1), frame("ADDED", "a", "1", 5, 1), end_of_initial(9)].concat();
    let text = text + &frame("MODIFIED", "a", "1", 10, 2) + &frame("DELETED", "b", "2", 11, 1);
    let (one, rest) = text.split_at(17);
    let (two, three) = rest.split_at(250);
    let chunks = [one, two, three].map(str::to_owned);
    let uri = &["/apis/example.com/v1/things?", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"][..];
    let (told, informer) = check(vec![step(uri, true, chunks)], "-b@11").await;
    assert_eq!(told, ["+b@9", "+a@5", "~a@10", "-b@11"]);
    assert_eq!(informer.by_index("size", "2").len(), 1);
    assert!(informer.by_index("size", "1").is_empty());
    assert!(informer.get(&ObjectKey::new("ns", "a")).is_some() && informer.len() == 1);
}

#[tokio::test]
async fn resumes_from_the_last_revision() {
    let steps = vec![
        step(&["sendInitialEvents"], false, [frame("ADDED", "a", "1", 5, 1), end_of_initial(7)]),
        step(&["&resourceVersion=7"], false, [bookmark(20)]),
        step(&["&resourceVersion=20"], true, [frame("MODIFIED", "a", "1", 21, 1)]),
    ];
    assert_eq!(check(steps, "~a@21").await.0, ["+a@5", "~a@21"]);
}

#[tokio::test]
async fn an_interrupted_initial_state_starts_again() {
    let steps = vec![
        step(&["sendInitialEvents"], false, [frame("ADDED", "a", "1", 5, 1)]),
        step(&["sendInitialEvents"], true, [frame("ADDED", "b", "2", 8, 1), end_of_initial(9)]),
    ];
    assert_eq!(check(steps, "-a@5").await.0, ["+a@5", "+b@8", "-a@5"]);
}

#[tokio::test]
async fn compaction_reads_the_state_anew_and_tells_what_vanished() {
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    let initial = [frame("ADDED", "a", "1", 5, 1), frame("ADDED", "b", "2", 6, 1), end_of_initial(7)];
    let anew = [frame("ADDED", "b", "2", 6, 1), frame("ADDED", "c", "3", 30, 1), end_of_initial(31)];
    let steps = vec![
        step(&["sendInitialEvents"], false, initial),
        step(&["&resourceVersion=7"], true, [format!("{gone}\n")]),
        step(&["sendInitialEvents"], true, anew),
    ];
    assert_eq!(check(steps, "-a@5").await.0, ["+a@5", "+b@6", "+c@30", "-a@5"]);
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed() {
    let refused =
        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid","message":"no"}"#;
    let item = |name, revision| {
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"{name}","resourceVersion":"{revision}"}}}}"#)
    };
    let one = format!(r#"{{"metadata":{{"resourceVersion":"9","continue":"next"}},"items":[{}]}}"#, item("a", 5));
    let two = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{}]}}"#, item("b", 6));
    let steps = vec![
        Step { uri: &["sendInitialEvents"], status: 422, chunks: vec![refused.into()], open: false },
        step(&["things?limit=500"], false, [one]),
        step(&["continue=next"], false, [two]),
        step(&["watch=true", "&resourceVersion=9"], true, [frame("DELETED", "a", "a", 10, 0)]),
    ];
    assert_eq!(check(steps, "-a@10").await.0, ["+a@5", "+b@6", "-a@10"]);
}

#[tokio::test]
async fn errors_are_tried_again_and_strange_objects_passed_over() {
    let strange = r#"{"type":"ADDED","object":{"metadata":{"name":"x","namespace":"ns","resourceVersion":"8"},"spec":{"size":"big"}}}"#;
    let steps = vec![
        Step { uri: &[], status: 503, chunks: vec!["down".into()], open: false },
        step(&["sendInitialEvents"], false, [end_of_initial(7), format!("{strange}\n")]),
        step(&["&resourceVersion=8"], true, [frame("ADDED", "a", "1", 9, 1)]),
    ];
    assert_eq!(check(steps, "+a@9").await.0, ["+a@9"]);
}
