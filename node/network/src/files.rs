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

/// Empties a log that has grown beyond the limit, keeping a copy beside it. Whoever appends to it goes on where it is.
pub(crate) fn bound(log: &Path, limit: u64) -> Result<(), NetworkError> {
    match std::fs::metadata(log) {
        Ok(data) if data.len() > limit => {}
        _ => return Ok(()),
    }
    let mut old = log.as_os_str().to_owned();
    old.push(".1");
    std::fs::copy(log, &old).map_err(failed("copy", log))?;
    let file = std::fs::OpenOptions::new().write(true).open(log).map_err(failed("open", log))?;
    file.set_len(0).map_err(failed("empty", log))
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_is_bounded_under_its_writer() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dns.log");
        bound(&log, 4).unwrap();
        let mut writer = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        writer.write_all(b"1234").unwrap();
        bound(&log, 4).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"1234");
        writer.write_all(b"5").unwrap();
        bound(&log, 4).unwrap();
        writer.write_all(b"6").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"6");
        assert_eq!(std::fs::read(directory.path().join("dns.log.1")).unwrap(), b"12345");
    }
}
