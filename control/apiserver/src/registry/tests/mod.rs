//! Every verb over an in-memory store, through [`Registry::handle`], as a table of requests where it can be one.

mod admission;
mod applying;
mod bootstrap;
mod crud;
mod deletion;
mod every_resource;
mod listing;
mod protobuf;
mod service_addresses;
mod special;
mod watching;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::MemoryStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Registry, Timing};
use crate::Config;
use crate::auth::tokens::TokenIssuer;
use crate::auth::{MASTERS, User};
use crate::authz::Authorizer;
use crate::request::{Query, RequestContext, RequestInfo, ResponseBody, Services, Warnings};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A registry with its objects, as an administrator sees it.
struct Api {
    registry: Registry,
    services: Arc<Services>,
    store: Arc<MemoryStore>,
    user: Arc<User>,
    _stop: tokio_util::sync::DropGuard,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    code: u16,
    json: Value,
    warnings: Vec<String>,
}

impl Answer {
    /// The object, of an answer that must have succeeded.
    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.code < 300, "{} {}", self.code, self.json);
        self.json
    }

    /// Code and message, of an answer that must have failed.
    #[track_caller]
    fn error(&self) -> (u16, &str, &str) {
        assert!(self.code >= 400, "{} {}", self.code, self.json);
        (self.code, self.json["reason"].as_str().unwrap_or(""), self.json["message"].as_str().unwrap_or(""))
    }
}

fn config() -> Config {
    Config {
        data_dir: "/nonexistent".into(),
        kubeconfig_copy: None,
        certificate_life: crate::pki::CERTIFICATE_LIFE,
        bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 6443,
        advertise_address: "192.0.2.1".parse().unwrap(),
        node_name: "n1".into(),
        tls_sans: Vec::new(),
        service_cidr: "10.96.0.0/24".into(),
        service_node_port_range: (30000, 30009),
        cluster_domain: "cluster.local".into(),
        cluster_dns: Some("10.96.0.10".parse().unwrap()),
        version: "test".into(),
    }
}

impl Api {
    /// An empty registry.
    fn empty() -> Self {
        let shutdown = CancellationToken::new();
        let store = Arc::new(MemoryStore::new());
        let timing = Timing { patience: Duration::from_millis(50), bookmarks: Duration::from_millis(50) };
        let (config, tasks) = (Arc::new(config()), TaskTracker::new());
        let registry = Registry::with_timing(config, store.clone(), tasks, shutdown.clone(), timing);
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let tokens = TokenIssuer::new("https://issuer", &key, Arc::new(|_, _, _, _| None)).unwrap();
        let services = Arc::new(Services { authorizer: Arc::new(Authorizer::new()), tokens: Arc::new(tokens) });
        let user = Arc::new(User::new("admin", &[MASTERS]));
        Self { registry, services, store, user, _stop: shutdown.drop_guard() }
    }

    /// A registry with the namespaces `default` and `other` and a default service account in each.
    async fn new() -> Self {
        let api = Self::empty();
        for namespace in ["default", "other"] {
            api.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.ok();
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            api.post(&path, json!({"metadata": {"name": "default"}})).await.ok();
        }
        api
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(http::HeaderName, &str)],
        body: impl Into<Bytes>,
    ) -> Result<(http::Response<ResponseBody>, Warnings), Status> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::parse(query);
        let info = RequestInfo::parse(&method, path, &query);
        assert!(info.is_resource, "{target}");
        let authorized = self.services.authorizer.authorize(&self.user, &info.attributes(&query)).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().unwrap());
        }
        let warnings = Warnings::default();
        let context = RequestContext {
            info,
            method,
            user: self.user.clone(),
            authorized,
            query,
            headers: map,
            warnings: warnings.clone(),
            services: self.services.clone(),
        };
        self.registry.handle(context, body.into()).await.map(|response| (response, warnings))
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        headers: &[(http::HeaderName, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        match self.send(method, target, headers, body).await {
            Ok((response, warnings)) => {
                let code = response.status().as_u16();
                let bytes = response.into_body().collect().await.unwrap().to_bytes();
                Answer { code, json: serde_json::from_slice(&bytes).unwrap(), warnings: warnings.take() }
            }
            Err(status) => Answer { code: status.code, json: status.to_value(), warnings: Vec::new() },
        }
    }

    async fn get(&self, target: &str) -> Answer {
        self.request(Method::GET, target, &[], "").await
    }

    async fn table(&self, target: &str) -> Answer {
        self.request(Method::GET, target, &[(ACCEPT, TABLE)], "").await
    }

    async fn post(&self, target: &str, body: Value) -> Answer {
        self.request(Method::POST, target, &[], body.to_string()).await
    }

    async fn put(&self, target: &str, body: &Value) -> Answer {
        self.request(Method::PUT, target, &[], body.to_string()).await
    }

    async fn patch(&self, target: &str, kind: &str, body: Value) -> Answer {
        self.request(Method::PATCH, target, &[(CONTENT_TYPE, kind)], body.to_string()).await
    }

    async fn delete(&self, target: &str) -> Answer {
        self.request(Method::DELETE, target, &[], "").await
    }

    async fn delete_with(&self, target: &str, options: Value) -> Answer {
        self.request(Method::DELETE, target, &[], options.to_string()).await
    }

    async fn watch(&self, target: &str) -> Watching {
        self.watch_as(target, "application/json").await
    }

    async fn watch_as(&self, target: &str, accept: &str) -> Watching {
        let (response, _) = self.send(Method::GET, target, &[(ACCEPT, accept)], "").await.unwrap();
        Watching { body: response.into_body(), buffer: BytesMut::new() }
    }
}

/// A watch, read event by event.
struct Watching {
    body: ResponseBody,
    buffer: BytesMut,
}

impl Watching {
    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("an event");
            self.buffer.extend_from_slice(&frame?.unwrap().into_data().unwrap());
        }
    }

    /// The next event's type and the object's name.
    async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }

    /// The next event must be this.
    async fn expect(&mut self, kind: &str, name: &str) {
        assert_eq!(self.event().await, (kind.to_owned(), name.to_owned()));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|item| text(&item["metadata"]["name"])).collect()
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web", "tier": "a"}},
        "template": {"metadata": {"labels": {"app": "web", "tier": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }})
}
