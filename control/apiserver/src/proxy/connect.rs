//! Connections to kubelets, pods and whatever listens on nodes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::locate::{Target, Via};
use crate::pki::{Live, PkiError};
use crate::request::BoxError;
use crate::server::body::RequestBody;

/// How long a server may take to be found, and to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens one connection a request: streams live long, and nothing is gained by keeping them.
pub(super) struct Connector {
    kubelets: TlsConnector,
    unverified: TlsConnector,
}

/// A server that was not reached or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub(super) struct Unreachable {
    address: String,
    source: BoxError,
}

impl Connector {
    pub(super) fn new(ca_pem: &str, client: Live) -> Result<Self, PkiError> {
        let fail =
            |problem: &dyn std::fmt::Display| PkiError::Damaged { path: "ca.pem".into(), problem: problem.to_string() };
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| fail(&error))?;
        roots.add(ca).map_err(|error| fail(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            || rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let kubelets = builder()
            .map_err(|error| fail(&error))?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(client));
        let unverified = builder()
            .map_err(|error| fail(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        Ok(Self {
            kubelets: TlsConnector::from(Arc::new(kubelets)),
            unverified: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// Sends a request over a connection of its own to one of the addresses that were found for the target.
    pub(super) async fn send(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        request: Request<RequestBody>,
        tasks: &TaskTracker,
    ) -> Result<Response<Incoming>, Unreachable> {
        let io = in_time(target, self.dial(target, addresses)).await?;
        let answer = match io {
            Either::Plain(io) => exchange(io, request, tasks).await,
            Either::Tls(io) => exchange(io, request, tasks).await,
        };
        answer.map_err(|error| unreachable(target, error.into()))
    }

    async fn dial(&self, target: &Target, addresses: &[SocketAddr]) -> std::io::Result<Either> {
        let tcp = TcpStream::connect(addresses).await?;
        tcp.set_nodelay(true)?;
        let tls = match target.via {
            Via::Plain => return Ok(Either::Plain(tcp)),
            Via::Kubelet => &self.kubelets,
            Via::UnverifiedTls => &self.unverified,
        };
        let host = target.address.rsplit_once(':').map_or(target.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        tls.connect(name, tcp).await.map(|tls| Either::Tls(Box::new(tls)))
    }
}

/// Looks a server's name up. What was found is what is called: another look might find something else.
pub(super) async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Unreachable> {
    in_time(target, tokio::net::lookup_host(&target.address)).await.map(Iterator::collect)
}

fn unreachable(target: &Target, source: BoxError) -> Unreachable {
    Unreachable { address: target.address.clone(), source }
}

async fn in_time<T>(target: &Target, step: impl Future<Output = std::io::Result<T>>) -> Result<T, Unreachable> {
    let done = tokio::time::timeout(CONNECT_TIMEOUT, step).await;
    done.map_err(|_| unreachable(target, "timed out".into()))?.map_err(|error| unreachable(target, error.into()))
}

/// Takes every certificate. The client asked for TLS to a server whose certificate nobody vouches for.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature proves no more than the certificate that it is checked against.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
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
