//! fsGroup: a volume's files belong to the pod's group, so that its users reach them.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const READ_MASK: u32 = 0o440;
const WRITE_MASK: u32 = 0o660;
const DIR_MASK: u32 = 0o110;
const SETGID: u32 = 0o2000;

/// Gives everything below (and the directory itself) to the group, readable and, unless `read_only`, writable by it.
pub(crate) fn set_group(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mut mask = if read_only { READ_MASK } else { WRITE_MASK };
    if meta.is_dir() {
        mask |= DIR_MASK | SETGID;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777 | mask))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            set_group(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

/// Whether the top already has the group and its bits: what `OnRootMismatch` looks at.
pub(crate) fn matches(path: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    let mask = if read_only { READ_MASK } else { WRITE_MASK } | DIR_MASK | SETGID;
    Ok(meta.gid() == group && meta.mode() & mask == mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_bits() {
        let dir = tempfile::tempdir().unwrap();
        // Whoever runs the test may give files to its own group.
        let group = fs::metadata(dir.path()).unwrap().gid();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let file = dir.path().join("sub/f");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!matches(dir.path(), group, false).unwrap());
        set_group(dir.path(), group, false).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o660);
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o7777, 0o2770);
        assert!(matches(dir.path(), group, false).unwrap());
    }
}
