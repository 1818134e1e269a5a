//! hostPath: the type says what must be there, or what is made.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks (or makes) the path.
pub(crate) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let meta = fs::metadata(path).ok();
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let io = |error: std::io::Error| format!("hostPath {}: {error}", path.display());
    match (kind, meta) {
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io)
        }
        ("FileOrCreate", None) => {
            fs::File::create(path).map_err(io)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io)
        }
        ("Directory" | "DirectoryOrCreate", meta) if !meta.as_ref().is_some_and(fs::Metadata::is_dir) => {
            fail("a directory")
        }
        ("File" | "FileOrCreate", meta) if !meta.as_ref().is_some_and(fs::Metadata::is_file) => fail("a file"),
        ("Socket", meta) if !meta.as_ref().is_some_and(|m| m.file_type().is_socket()) => fail("a socket file"),
        ("CharDevice", meta) if !meta.as_ref().is_some_and(|m| m.file_type().is_char_device()) => {
            fail("a character device")
        }
        ("BlockDevice", meta) if !meta.as_ref().is_some_and(|m| m.file_type().is_block_device()) => {
            fail("a block device")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        for (path, kind, ok) in [
            ("none", "", true),
            ("none", "Directory", false),
            ("new/dir", "DirectoryOrCreate", true),
            ("new/dir", "Directory", true),
            ("new/dir", "File", false),
            ("newfile", "FileOrCreate", true),
            ("file", "File", true),
            ("file", "DirectoryOrCreate", false),
            ("file", "Socket", false),
        ] {
            assert_eq!(check(&at(path), kind).is_ok(), ok, "{path} {kind}");
        }
        assert!(check(Path::new("/dev/null"), "CharDevice").is_ok());
    }
}
