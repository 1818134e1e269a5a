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

use super::{Outcome, authority};

const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// One GET as a probe or a hook asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

/// 200 to 299 is success, and so is being sent elsewhere, which is not ours to judge.
pub(crate) fn judge(answer: Result<Answer, String>) -> Outcome {
    match answer {
        Err(error) => Outcome::Failure(error),
        Ok(answer) if answer.status.is_success() => Outcome::Success,
        Ok(answer) if answer.status.is_redirection() => {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
        }
        Ok(answer) => {
            tracing::debug!(status = %answer.status, body = answer.body, "HTTP probe failed");
            Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status.as_u16()))
        }
    }
}

impl Get {
    /// For messages.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, authority(&self.host, self.port), self.path)
    }

    /// Sends it, and follows where it is sent on to as long as that is the same host.
    pub(crate) async fn send(&self, agent: &str) -> Result<Answer, String> {
        let mut get = self.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer = get.once(agent).await.map_err(|what| format!("Get \"{}\": {what}", get.url()))?;
            let next = answer.location.as_deref().filter(|_| redirects(answer.status)).map(|to| get.redirected(to));
            match next {
                Some(Some(next)) if next.host == self.host => get = next,
                _ => return Ok(answer),
            }
        }
        Err(format!("Get \"{}\": stopped after {MAX_REDIRECTS} redirects", self.url()))
    }

    /// Where a Location leads.
    fn redirected(&self, location: &str) -> Option<Get> {
        let uri: Uri = match location {
            whole if whole.contains("://") => whole.parse().ok()?,
            host if host.starts_with("//") => {
                format!("{}:{host}", if self.https { "https" } else { "http" }).parse().ok()?
            }
            path if path.starts_with('/') => return Some(Get { path: path.to_owned(), ..self.clone() }),
            relative => {
                let path = self.path.split('?').next().unwrap_or_default();
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                return Some(Get { path: format!("{parent}/{relative}"), ..self.clone() });
            }
        };
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(Get { https, host, port, path, headers: self.headers.clone() })
    }

    async fn once(&self, agent: &str) -> Result<Answer, String> {
        let target = authority(&self.host, self.port);
        let request = self.request(&target, agent).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(&target).await.map_err(|error| format!("dial tcp {target}: {error}"))?;
        if self.https {
            let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(any_certificate()?));
            let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            exchange(stream, request).await
        } else {
            exchange(stream, request).await
        }
    }

    fn request(&self, target: &str, agent: &str) -> http::Result<Request<Empty<Bytes>>> {
        let mut request = Request::get(&self.path);
        let defaults = [("host", target), ("user-agent", agent), ("accept", "*/*")];
        let missing =
            defaults.iter().filter(|(name, _)| !self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)));
        for (name, value) in missing {
            request = request.header(*name, *value);
        }
        // One that is set to nothing is not sent.
        for (name, value) in self.headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(name, value);
        }
        request.header(header::CONNECTION, "close").body(Empty::<Bytes>::new())
    }
}

/// Statuses whose Location a client follows.
fn redirects(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
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
        Ok(Answer { status, location, body })
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

    fn to(host: &str, port: u16, path: &str) -> Get {
        let headers = vec![("X-Custom".to_owned(), "v".to_owned()), ("Accept".to_owned(), String::new())];
        Get { https: false, host: host.into(), port, path: path.into(), headers }
    }

    #[tokio::test]
    async fn status_decides() {
        let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 4\r\n\r\ngone";
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Outcome::Success),
            (elsewhere, Outcome::Warning("Probe terminated redirects, Response body: gone".into())),
            (
                "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                Outcome::Failure("HTTP probe failed with statuscode: 503".into()),
            ),
        ] {
            let (seen, result) = serve(&[answer], "/healthz").await;
            assert_eq!(judge(result), expected);
            let request = &seen[0];
            assert!(request.starts_with("GET /healthz HTTP/1.1") && request.contains("x-custom: v"), "{request}");
            assert!(request.contains("user-agent: test\r\n") && !request.contains("accept:"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_redirect_on_the_same_host_is_followed() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: /there?x=1\r\ncontent-length: 0\r\n\r\n";
        let failed = "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n";
        let (seen, result) = serve(&[moved, failed], "/here").await;
        assert_eq!(judge(result), Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
        assert!(seen[1].starts_with("GET /there?x=1 "), "{}", seen[1]);
        let (seen, result) = serve(&[moved; MAX_REDIRECTS], "/here").await;
        assert_eq!(seen.len(), MAX_REDIRECTS);
        assert!(result.unwrap_err().ends_with("stopped after 10 redirects"));
    }

    #[test]
    fn where_a_location_leads() {
        for (location, expected) in [
            ("/b", Some("http://10.0.0.1:8080/b")),
            ("b?c", Some("http://10.0.0.1:8080/a/b?c")),
            ("https://10.0.0.1/b", Some("https://10.0.0.1:443/b")),
            ("http://10.0.0.1:9", Some("http://10.0.0.1:9/")),
            ("//other/b", Some("http://other:80/b")),
            ("ftp://10.0.0.1/b", None),
        ] {
            let got = to("10.0.0.1", 8080, "/a/x?y/z").redirected(location).map(|get| get.url());
            assert_eq!(got.as_deref(), expected, "{location}");
        }
    }

    /// A server with these answers, one a connection; answers what it was asked and what was made of it.
    async fn serve(answers: &[&str], path: &str) -> (Vec<String>, Result<Answer, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let n = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
            seen
        };
        let get = to("127.0.0.1", port, path);
        tokio::join!(server, get.send("test"))
    }
}
