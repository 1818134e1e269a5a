//! The administrator's kubeconfig, as the server writes it: who to talk to, and as whom.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::Path;

/// A server's address and the TLS settings to reach it with.
#[derive(Debug, Clone)]
pub(crate) struct Kubeconfig {
    pub address: SocketAddr,
    pub tls: ClientConfig,
}

impl Kubeconfig {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there (yet), or lacks something.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let address = field(&text, "server")?.trim_start_matches("https://").parse().context("server")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&decoded(&text, "certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&decoded(&text, "client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&decoded(&text, "client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Self { address, tls })
    }
}

fn field<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("the kubeconfig has no {name}"))
}

fn decoded(text: &str, name: &str) -> anyhow::Result<Vec<u8>> {
    STANDARD.decode(field(text, name)?).with_context(|| format!("{name} in the kubeconfig is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text =
            "clusters:\n- name: keelson\n  cluster:\n    server: https://192.0.2.1:6443\n    client-key-data: aGk=\n";
        assert_eq!(field(text, "server").unwrap(), "https://192.0.2.1:6443");
        assert_eq!(decoded(text, "client-key-data").unwrap(), b"hi");
        assert!(field(text, "client-certificate-data").is_err());
    }
}
