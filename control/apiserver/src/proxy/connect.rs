//! Connections to kubelets (TLS, our client certificate) and pods (plain).

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::locate::Target;
use crate::pki::{Certified, PkiError};
use crate::server::body::RequestBody;

/// How long a kubelet may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens one connection a request: streams live long, and nothing is gained by keeping them.
pub(super) struct Connector {
    tls: TlsConnector,
}

impl Connector {
    pub(super) fn new(ca_pem: &str, client: &Certified) -> Result<Self, PkiError> {
        let fail = |problem: &dyn std::fmt::Display| PkiError::Damaged {
            path: "apiserver-kubelet-client.pem".into(),
            problem: problem.to_string(),
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| fail(&error))?;
        roots.add(ca).map_err(|error| fail(&error))?;
        let cert = CertificateDer::from_pem_slice(client.cert_pem.as_bytes()).map_err(|error| fail(&error))?;
        let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes()).map_err(|error| fail(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert], key)
            .map_err(|error| fail(&error))?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a request over a connection of its own.
    pub(super) async fn send(
        &self,
        target: &Target,
        request: Request<RequestBody>,
        tasks: &TaskTracker,
    ) -> Result<Response<Incoming>, Status> {
        let failed = |error: &dyn std::fmt::Display| {
            Status::internal(format!("error dialing backend: {}: {error}", target.address))
        };
        let dial = async {
            let tcp = TcpStream::connect(&target.address).await?;
            tcp.set_nodelay(true)?;
            if !target.kubelet {
                return Ok(Either::Plain(tcp));
            }
            let host = target.address.rsplit_once(':').map_or(target.address.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            self.tls.connect(name, tcp).await.map(|tls| Either::Tls(Box::new(tls)))
        };
        let connected: std::io::Result<Either> =
            tokio::time::timeout(CONNECT_TIMEOUT, dial).await.map_err(|_| failed(&"timed out"))?;
        let answer = match connected.map_err(|error| failed(&error))? {
            Either::Plain(io) => exchange(io, request, tasks).await,
            Either::Tls(io) => exchange(io, request, tasks).await,
        };
        answer.map_err(|error| failed(&error))
    }
}

enum Either {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn exchange<I>(io: I, request: Request<RequestBody>, tasks: &TaskTracker) -> hyper::Result<Response<Incoming>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "backend connection ended");
        }
    });
    sender.send_request(request).await
}
