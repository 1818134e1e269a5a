//! HTTP probes: plain or TLS (any certificate), redirects followed on the same host only.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::authority;

const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// One request; 200 to 399 is success.
pub(crate) async fn get(
    https: bool,
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let mut path = path.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let (status, location, body) = once(https, host, port, &path, headers).await?;
        if status.is_redirection() {
            match location.as_deref().and_then(|location| same_host(location, host)) {
                Some(next) => {
                    path = next;
                    continue;
                }
                // Elsewhere is not ours to judge: the answer itself was good.
                None => return Ok(()),
            }
        }
        if status.is_success() {
            return Ok(());
        }
        tracing::debug!(%status, body, "HTTP probe failed");
        return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn same_host(location: &str, host: &str) -> Option<String> {
    let uri: Uri = location.parse().ok()?;
    if uri.host().is_some_and(|other| other.trim_matches(['[', ']']) != host) {
        return None;
    }
    uri.path_and_query().map(ToString::to_string)
}

type Answer = (StatusCode, Option<String>, String);

async fn once(https: bool, host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<Answer, String> {
    let target = authority(host, port);
    let scheme = if https { "https" } else { "http" };
    let fail = |what: String| format!("Get \"{scheme}://{target}{path}\": {what}");
    let stream = TcpStream::connect(&target).await.map_err(|e| fail(format!("dial tcp {target}: {e}")))?;
    let mut request = Request::get(path);
    let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !has("host") {
        request = request.header(header::HOST, &target);
    }
    if !has("user-agent") {
        request = request.header(header::USER_AGENT, "kube-probe/1.36");
    }
    if !has("accept") {
        request = request.header(header::ACCEPT, "*/*");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.header(header::CONNECTION, "close").body(Empty::<Bytes>::new());
    let request = request.map_err(|e| fail(e.to_string()))?;
    if https {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| fail(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(any_certificate()?));
        let stream = connector.connect(name, stream).await.map_err(|e| fail(e.to_string()))?;
        exchange(stream, request).await.map_err(fail)
    } else {
        exchange(stream, request).await.map_err(fail)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, location, body))
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

fn any_certificate() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Ok(config)
}

/// Probes ask whether a server answers, not who it is: as upstream, any certificate will do.
#[derive(Debug)]
struct AnyCertificate;

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
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn status_decides() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", None),
            ("HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n", None),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Some("HTTP probe failed with statuscode: 503")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let n = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&buffer[..n]).into_owned()
            };
            let headers = [("X-Custom".to_owned(), "v".to_owned())];
            let (seen, result) = tokio::join!(server, get(false, "127.0.0.1", port, "/healthz", &headers));
            assert_eq!(result.err().as_deref(), expected);
            assert!(seen.starts_with("GET /healthz HTTP/1.1") && seen.contains("x-custom: v"), "{seen}");
        }
    }
}
