//! Unmounting what lies below a directory.

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};

/// Unmounts everything below the directory, the deepest first.
pub(crate) fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo cannot be read")?;
    for target in below(&table, dir) {
        match umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be unmounted", target.display())),
        }
    }
    Ok(())
}

/// The mount points below a directory in the text of mountinfo, the last mounted first.
fn below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    points
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits (proc(5)).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_the_last_first() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
                     30 22 0:5 / /data/a rw - tmpfs tmpfs rw\n\
                     31 30 0:6 / /data/a/b\\040c rw - tmpfs tmpfs rw\n\
                     32 22 0:7 / /database rw - tmpfs tmpfs rw\n";
        assert_eq!(below(table, Path::new("/data")), [PathBuf::from("/data/a/b c"), PathBuf::from("/data/a")]);
    }
}
