//! The listener: TLS, HTTP/1.1 and HTTP/2, one task a connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::routes::{self, State};
use super::{ApiConfig, ApiError, User, tls};

/// For a TLS handshake, and for a request's head.
const SLOW_CLIENT: Duration = Duration::from_secs(10);

/// Listens; serves until `shutdown`.
pub(super) async fn start(config: &ApiConfig, state: State) -> Result<SocketAddr, ApiError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(config)?));
    let failed = |source| ApiError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (tasks, shutdown) = (state.tasks.clone(), state.shutdown.clone());
    let accepting = (listener, acceptor, Arc::new(state));
    supervise::spawn("kubelet API", &tasks, &shutdown, accepting, |(listener, acceptor, state)| {
        Box::pin(accept(listener, acceptor, state))
    });
    Ok(address)
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, state: &Arc<State>) {
    while let Some(accepted) = state.shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, served) = (acceptor.clone(), Arc::clone(state));
                state.tasks.spawn(async move {
                    let shutdown = served.shutdown.clone();
                    shutdown.run_until_cancelled(serve(stream, acceptor, served)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the kubelet's API cannot accept a connection");
                tokio::time::sleep(supervise::ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    // Key strokes of an exec must not wait for each other. A socket that cannot is only slower.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(SLOW_CLIENT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user: Option<Arc<User>> = certificate.and_then(|certificate| tls::user(certificate)).map(Arc::new);
    let service = service_fn(move |request| {
        let (state, user) = (state.clone(), user.clone());
        async move { Ok::<_, Infallible>(Box::pin(routes::handle(state, user, request)).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SLOW_CLIENT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection to the kubelet's API ended");
    }
}
