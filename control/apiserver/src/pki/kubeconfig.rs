//! Kubeconfig files with everything embedded.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Certified, PkiError, files};

/// Writes a kubeconfig for one server and one user, mode 0600. An identical file is left alone.
pub fn write_kubeconfig(path: &Path, server: &str, ca_pem: &str, user: &Certified) -> Result<(), PkiError> {
    let encode = |text: &str| STANDARD.encode(text);
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: keelson
  cluster:
    server: {server}
    certificate-authority-data: {}
users:
- name: admin
  user:
    client-certificate-data: {}
    client-key-data: {}
contexts:
- name: keelson
  context:
    cluster: keelson
    user: admin
current-context: keelson
",
        encode(ca_pem),
        encode(&user.cert_pem),
        encode(&user.key_pem),
    );
    if files::read_optional(path)?.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    files::write_private(path, text.as_bytes())
}
