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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::routes::{self, State};
use super::{ApiConfig, ApiError, User, tls};

/// For a TLS handshake, and for a request's head.
const SLOW_CLIENT: Duration = Duration::from_secs(10);
/// Out of descriptors, most likely: give some time to get back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens; serves until `shutdown`.
pub(super) async fn start(
    config: &ApiConfig,
    state: State,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) -> Result<SocketAddr, ApiError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(config)?));
    let failed = |source| ApiError::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let state = Arc::new(state);
    let connections = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, state, shutdown) = (acceptor.clone(), state.clone(), shutdown.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = shutdown.cancelled() => {}
                            () = serve(stream, acceptor, state) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the kubelet's API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(address)
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
