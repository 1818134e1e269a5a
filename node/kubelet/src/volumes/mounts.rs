//! The mounts of this host as they concern pods: finding, making and undoing them.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mount points at or below a directory, deepest first.
pub(crate) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse_below(&std::fs::read_to_string("/proc/self/mountinfo")?, dir))
}

fn parse_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|point| point.starts_with(dir))
        .collect();
    // Later mounts cover earlier ones: undo in the opposite order.
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// mountinfo writes blanks as `\040`.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(byte);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether something is mounted exactly here.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|point| point == path))
}

/// Mounts a tmpfs, of at most `size` bytes where given.
pub(crate) fn tmpfs(path: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(named("mount tmpfs", path))
}

/// Bind-mounts a file or directory.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(named("bind mount on", target))
}

/// Undoes every mount at or below a directory.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in below(dir)? {
        match umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            // A process of a host-mount pod may still stand in it: let go of it lazily.
            Err(nix::Error::EBUSY) => {
                umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(named("unmount", &point))?;
            }
            Err(error) => return Err(named("unmount", &point)(error)),
        }
    }
    Ok(())
}

fn named(call: &'static str, path: &Path) -> impl FnOnce(nix::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(io::Error::from(error).kind(), format!("{call} {path}: {}", error.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepest_first_and_only_below() {
        let text = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /d/pods/u rw - tmpfs t rw\n\
            3 1 0:3 / /d/pods/u/vol\\040one/sub rw - tmpfs t rw\n4 1 0:4 / /d/pods/u2 rw - tmpfs t rw\n";
        let points = parse_below(text, Path::new("/d/pods/u"));
        assert_eq!(points, [PathBuf::from("/d/pods/u/vol one/sub"), PathBuf::from("/d/pods/u")]);
    }
}
