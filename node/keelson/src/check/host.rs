//! What the checks may look at: files below a root, and programs on the path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine, or in tests a directory that looks like one.
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine that this process runs on.
    pub(crate) fn this() -> Self {
        Self { root: "/".into() }
    }

    /// The path below the root.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether the file or directory is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The file's text without surrounding white space; `None` where it cannot be read.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A number in a file of /proc or /sys.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.split_whitespace().next()?.parse().ok()
    }

    /// The program of that name on the path or in the system's directories.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let fixed = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(fixed)
            .map(|dir| self.path(&dir.join(name).to_string_lossy()))
            .find(|file| file.is_file())
    }
}

/// A machine with these files (`-> TARGET`: links), for as long as the directory lives.
#[cfg(test)]
pub(crate) fn with(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    let host = Host { root: dir.path().to_owned() };
    for (path, content) in files {
        let path = host.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            None => std::fs::write(path, content).unwrap(),
        }
    }
    (dir, host)
}

/// The first line of what a program says of its version, or why it does not run.
pub(crate) fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|error| error.to_string())?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
    match output.status {
        status if status.success() => Ok(line),
        status if line.is_empty() => Err(status.to_string()),
        _ => Err(line),
    }
}
