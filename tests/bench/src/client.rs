//! A lean HTTP/2 client: one TLS connection, one request at a time, bodies as bytes.

use crate::kubeconfig::Kubeconfig;
use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Flow-control windows like client-go's: large enough that they never pace the server.
const WINDOW: u32 = 4 << 20;

/// Where connections go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// A connection; requests go one after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    driver: JoinHandle<()>,
}

/// A request's parts that differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub content_type: &'static str,
}

impl<'a> Call<'a> {
    /// A request without a body.
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: &Method::GET, path, content_type: "application/json" }
    }

    /// A request that creates.
    pub(crate) fn post(path: &'a str) -> Self {
        Self { method: &Method::POST, path, content_type: "application/json" }
    }
}

impl Target {
    /// Prepares connections to the kubeconfig's server.
    pub(crate) fn new(kubeconfig: Kubeconfig) -> Self {
        let mut tls = kubeconfig.tls;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self { address: kubeconfig.address, tls: Arc::new(tls) }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The server cannot be reached, or TLS or HTTP fail.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await.with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let name = self.address.ip().into();
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.context("TLS")?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { sender, host: self.address.to_string(), driver })
    }
}

impl Connection {
    /// Sends a request; the answer's body is not read yet.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn send(&mut self, call: Call<'_>, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(call.method)
            .uri(format!("https://{}{}", self.host, call.path))
            .header(CONTENT_TYPE, call.content_type)
            .body(Full::new(body))?;
        self.sender.send_request(request).await.with_context(|| format!("{} {}", call.method, call.path))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection failed, or the server answered with no success.
    pub(crate) async fn call(&mut self, call: Call<'_>, body: Bytes) -> anyhow::Result<Bytes> {
        let response = self.send(call, body).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status.is_success() { Ok(answer) } else { Err(refused(call, status, &answer)) }
    }

    /// GET.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        self.call(Call::get(path), Bytes::new()).await
    }

    /// GET, the answer only counted; how long it was.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn get_length(&mut self, path: &str) -> anyhow::Result<usize> {
        let mut body = self.stream(path).await?;
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(length)
    }

    /// GET, the answer as a stream.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn stream(&mut self, path: &str) -> anyhow::Result<Incoming> {
        let response = self.send(Call::get(path), Bytes::new()).await?;
        let status = response.status();
        if !status.is_success() {
            let answer = response.into_body().collect().await?.to_bytes();
            return Err(refused(Call::get(path), status, &answer));
        }
        Ok(response.into_body())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn refused(call: Call<'_>, status: StatusCode, answer: &[u8]) -> anyhow::Error {
    anyhow::anyhow!("{} {}: {status}: {}", call.method, call.path, String::from_utf8_lossy(answer))
}
