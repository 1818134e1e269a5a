//! The network side: TLS, HTTP/1.1 and HTTP/2, and the limits that keep slow clients from holding up others.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{Inner, body};
use crate::auth::authenticate::Peer;
use crate::auth::x509;
use crate::pki::{Live, PkiError};

/// Bounds in time and number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for the first request's head.
    pub header: Duration,
    /// Time for a further request's head, most of which is idle: longer than clients keep connections for the next request,
    /// lest one is closed under it.
    pub idle: Duration,
    /// Time between two pieces of a request's body.
    pub stalled_body: Duration,
    /// Time until the answer's head.
    pub request: Duration,
    /// Time that a client may leave unread what it was sent, once the buffers between are full.
    pub unread: Duration,
    /// Time that open requests have to end once the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            idle: Duration::from_secs(95),
            stalled_body: Duration::from_secs(15),
            request: Duration::from_secs(60),
            unread: Duration::from_secs(60),
            drain: Duration::from_secs(3),
        }
    }
}

/// Large enough that a list of thousands of objects is not held up by round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What a stream has that its client has not taken: times [`STREAMS`], a connection's. As much as lists are cut into.
const SEND_BUFFER: usize = 64 << 10;
/// A selector may name thousands of values; the URL that holds it ends at 64 KB.
const HEADERS: u32 = 256 << 10;
/// Watches are streams: one client may have hundreds.
const STREAMS: u32 = 500;
/// Requests that were taken back before they were looked at (CVE-2023-44487), and streams that ended for a client's mistakes:
/// a connection with more of them is closed.
const TAKEN_BACK: usize = 20;
const MISTAKES: usize = 100;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Seconds without a word until a client is asked whether it is there, between questions, and how many.
const KEEPALIVE_IDLE: u32 = 30;
const KEEPALIVE_INTERVAL: u32 = 10;
const KEEPALIVE_COUNT: u32 = 3;

/// The TLS side of the server: its certificate, and client certificates of the cluster's CA if the client has one.
pub(crate) fn tls(ca_pem: &str, server: Live) -> Result<TlsAcceptor, PkiError> {
    let fail =
        |problem: &dyn std::fmt::Display| PkiError::Damaged { path: "ca.pem".into(), problem: problem.to_string() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| fail(&error))?)
        .map_err(|error| fail(&error))?;
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| fail(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(server));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections until the server stops.
pub(crate) async fn run(inner: &Arc<Inner>, listener: &TcpListener, tls: &TlsAcceptor) {
    let permits = Arc::new(Semaphore::new(inner.limits.connections));
    loop {
        let accepted = tokio::select! {
            () = inner.shutdown.cancelled() => return,
            accepted = async {
                if permits.available_permits() == 0 {
                    tracing::warn!(limit = inner.limits.connections, "no more connections; clients wait until one ends");
                }
                let permit = permits.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (Ok(permit), accepted) = accepted else { return };
        match accepted {
            Ok((stream, address)) => {
                let (inner, tls) = (inner.clone(), tls.clone());
                inner.tasks.clone().spawn(async move {
                    inner.metrics.connection(1);
                    Box::pin(connection(inner.clone(), stream, address.ip(), tls)).await;
                    inner.metrics.connection(-1);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(supervise::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Lets the kernel end a connection whose client is gone without a word, or does not take what it is sent. (HTTP/2 has pings
/// for the former; HTTP/1.1 watches have nothing.)
fn notice_dead_clients(stream: &TcpStream, unread: Duration) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &u32::try_from(unread.as_millis()).unwrap_or(u32::MAX))
}

async fn connection(inner: Arc<Inner>, stream: TcpStream, address: IpAddr, tls: TlsAcceptor) {
    // Failures here only cost latency, or time until a dead client is noticed.
    let _ = stream.set_nodelay(true);
    if let Err(error) = notice_dead_clients(&stream, inner.limits.unread) {
        tracing::debug!(%error, "a connection's timeouts cannot be set");
    }
    let stream = match tokio::time::timeout(inner.limits.handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let peer = Peer {
        identity: certificate.and_then(|der| x509::identity(der)).map(Arc::new),
        address: address.to_canonical(),
    };
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (inner, asked) = (inner.clone(), asked.clone());
        service_fn(move |mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let handled = Box::pin(inner.clone().handle(request.map(body::boxed)));
            async move { Ok::<_, std::convert::Infallible>(handled.await) }
        })
    };
    let io = TokioIo::new(stream);
    if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(Tracked(inner.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .max_pending_accept_reset_streams(TAKEN_BACK)
            .max_local_error_reset_streams(MISTAKES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let served = std::pin::pin!(builder.serve_connection(io, service));
        drive(&inner, served, hyper::server::conn::http2::Connection::graceful_shutdown, &asked).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(inner.limits.idle);
        let served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        drive(&inner, served, hyper::server::conn::http1::UpgradeableConnection::graceful_shutdown, &asked).await;
    }
}

/// Runs a connection to its end. One that has not asked anything in time is closed, and all are when the server stops.
async fn drive<C>(
    inner: &Inner,
    mut connection: std::pin::Pin<&mut C>,
    stop: impl Fn(std::pin::Pin<&mut C>),
    asked: &AtomicBool,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let ended = |result: hyper::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    };
    let mut first_request = std::pin::pin!(tokio::time::sleep(inner.limits.header));
    let mut waiting = true;
    loop {
        tokio::select! {
            result = connection.as_mut() => return ended(result),
            () = inner.shutdown.cancelled() => break,
            () = first_request.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
    stop(connection.as_mut());
    if let Ok(result) = tokio::time::timeout(inner.limits.drain, connection).await {
        ended(result);
    }
}

/// Runs HTTP/2 streams as tasks of the server.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
