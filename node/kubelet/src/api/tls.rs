//! TLS: our certificate, the CA of clients, and who a client certificate names.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ApiConfig, ApiError, User};

/// The server's settings. A client may come without a certificate and show a token instead.
pub(super) fn server_config(config: &ApiConfig) -> Result<ServerConfig, ApiError> {
    let bad = |what| move |why: String| ApiError::Tls { what, why };
    let certificates = |pem: &str| {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let list = list.map_err(|error| format!("{error:?}"))?;
        if list.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(list) }
    };
    let mut roots = RootCertStore::empty();
    for ca in certificates(&config.client_ca_pem).map_err(bad("client CA"))? {
        roots.add(ca).map_err(|error| bad("client CA")(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|error| bad("client CA")(error.to_string()))?;
    let mut server =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(&config.certificate));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

/// The user a verified certificate names: common name, organizations as groups.
pub(super) fn user(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups, ..User::default() })
}
