//! Many requests, spread over some connections.

use crate::client::{Call, Connection, Target};
use anyhow::Context;
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// One to send.
pub(crate) struct Request {
    pub method: Method,
    pub path: String,
    pub content_type: &'static str,
    pub body: Bytes,
}

/// Connections that share work.
pub(crate) struct Workers(Vec<Connection>);

impl Request {
    /// One with a JSON body.
    pub(crate) fn new(method: Method, path: impl Into<String>, content_type: &'static str, body: &Value) -> Self {
        Self { method, path: path.into(), content_type, body: Bytes::from(body.to_string()) }
    }

    /// One that creates.
    pub(crate) fn post(path: &str, body: &Value) -> Self {
        Self::new(Method::POST, path, "application/json", body)
    }

    /// What the client takes.
    pub(crate) fn call(&self) -> Call<'_> {
        Call { method: &self.method, path: &self.path, content_type: self.content_type }
    }
}

impl Workers {
    /// Connects.
    pub(crate) async fn open(target: &Target, count: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(target.connect().await?);
        }
        Ok(Self(connections))
    }

    /// Sends all of them, begun in their order.
    ///
    /// # Errors
    /// The first that failed.
    pub(crate) async fn each(&mut self, requests: impl IntoIterator<Item = Request>) -> anyhow::Result<()> {
        let requests: Vec<Request> = requests.into_iter().collect();
        let next = Arc::new(Mutex::new(requests.into_iter()));
        let work = |mut connection: Connection| {
            let next = next.clone();
            tokio::spawn(async move {
                loop {
                    let request = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(request) = request else { return anyhow::Ok(connection) };
                    connection.call(request.call(), request.body.clone()).await?;
                }
            })
        };
        let tasks: Vec<_> = self.0.drain(..).map(work).collect();
        for task in tasks {
            self.0.push(task.await?.context("a worker")?);
        }
        Ok(())
    }
}
