//! Private files that are either whole or absent.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{Certified, PkiError, damaged};

/// Makes a directory that only its owner may enter.
pub(super) fn create_dir(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("create", path))
}

/// The text of a file; `None` if there is no such file.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| damaged(path, "it is not text")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Writes a file, mode 0600, so that after a crash it is either the old one or the whole new one.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        // A left-over of an earlier crash may have other permissions.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(io("write", path))
}

/// Takes a file that holds a certificate and its key apart.
pub(super) fn split_pem(path: &Path, text: &str) -> Result<Certified, PkiError> {
    let block = |kind: &str| {
        let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
        let start = text.find(&begin)?;
        let stop = start + text[start..].find(&end)? + end.len();
        Some(format!("{}\n", &text[start..stop]))
    };
    let cert_pem = block("CERTIFICATE").ok_or_else(|| damaged(path, "it holds no certificate"))?;
    let key_pem = block("PRIVATE KEY").ok_or_else(|| damaged(path, "it holds no private key"))?;
    Ok(Certified { cert_pem, key_pem })
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { action, path, source }
}
