//! Files that are replaced whole, so that a reader or a crash never meets half of one.

use std::io;
use std::path::{Path, PathBuf};

use crate::NetworkError;

/// Wraps an I/O error with what was done to which path.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::File { action, path: path.to_owned(), source }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Writes a file beside, then renames it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), NetworkError> {
    let new = beside(path);
    std::fs::write(&new, content).map_err(failed("write", &new))?;
    std::fs::rename(&new, path).map_err(failed("replace", path))
}

/// Makes a symbolic link, replacing what is there.
pub(crate) fn link(target: &Path, path: &Path) -> Result<(), NetworkError> {
    if std::fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let new = beside(path);
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new).map_err(failed("link", &new))?;
    std::fs::rename(&new, path).map_err(failed("replace", path))
}

/// Makes a directory and those above it.
pub(crate) fn directory(path: &Path) -> Result<(), NetworkError> {
    std::fs::create_dir_all(path).map_err(failed("create", path))
}

/// The running program's file, also after an upgrade has replaced it.
pub(crate) fn current_program() -> Result<PathBuf, NetworkError> {
    let path = std::env::current_exe().map_err(failed("find", Path::new("/proc/self/exe")))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
