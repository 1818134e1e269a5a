//! subPath: a part of a volume, resolved so that no link in the volume can lead outside, and pinned by a bind mount.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::mounts;

/// Makes `volume/sub` available at `target` (a file or directory made here) and answers `target`.
pub(crate) fn prepare(volume: &Path, sub: &str, target: &Path) -> io::Result<PathBuf> {
    let sub = Path::new(sub);
    if sub.is_absolute() || sub.components().any(|part| part == Component::ParentDir) {
        let message = format!("subPath {} must be relative, without '..'", sub.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let file = open_inside(volume, sub)?;
    let found = fs::metadata(proc_path(&file))?;
    let is_dir = found.is_dir();
    if mounts::is_mounted(target)? {
        let mounted = fs::metadata(target)?;
        if (mounted.dev(), mounted.ino()) == (found.dev(), found.ino()) {
            return Ok(target.to_owned());
        }
        // From an earlier run; the volume shows another file under that name by now.
        mounts::unmount_below(target)?;
        if mounted.is_dir() != is_dir {
            if mounted.is_dir() { fs::remove_dir(target)? } else { fs::remove_file(target)? }
        }
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mounts::bind(&proc_path(&file), target)?;
    Ok(target.to_owned())
}

/// The text of a file in a volume, wherever links in the volume point.
pub(crate) fn read(volume: &Path, sub: &str, most: u64) -> io::Result<String> {
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = fs::File::from(openat2(&root, sub, how)?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > most {
        let message = format!("{sub} is not a file of at most {most} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

fn proc_path(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a path below a directory without leaving it; what does not exist is made a directory.
fn open_inside(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let root_fd = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    match openat2(&root_fd, sub, how()) {
        Ok(file) => return Ok(file),
        Err(nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // As the volume itself: whoever may write there may write here, and the volume's group comes along.
    let mode = fs::metadata(proc_path(&root_fd))?.permissions();
    let mut current = root_fd;
    for part in sub.components() {
        let Component::Normal(name) = part else { continue };
        let next = match openat2(&current, name, how()) {
            Err(nix::Error::ENOENT) => {
                make_dir(&current, name, &mode)?;
                openat2(&current, name, how())
            }
            other => other,
        };
        current = next?;
    }
    Ok(current)
}

/// Makes a directory with this mode, whatever the umask says. Another container may be making it too.
fn make_dir(parent: &OwnedFd, name: &std::ffi::OsStr, mode: &fs::Permissions) -> io::Result<()> {
    match nix::sys::stat::mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) => fs::set_permissions(proc_path(parent).join(name), mode.clone()),
        Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn stays_inside_and_makes_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("data")).unwrap();
        symlink("data", volume.join("inner")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("../..", volume.join("up")).unwrap();
        for (sub, ok) in [("data", true), ("inner", true), ("a/b/c", true), ("absolute", false), ("up", false)] {
            assert_eq!(open_inside(&volume, Path::new(sub)).is_ok(), ok, "{sub}");
        }
        assert!(volume.join("a/b/c").is_dir());
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        open_inside(&volume, Path::new("open/d")).unwrap();
        let mode = fs::metadata(volume.join("open/d")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777, "as the volume");
        assert!(prepare(&volume, "../x", &dir.path().join("t")).is_err());
    }
    #[test]
    fn a_later_run_gets_what_the_volume_shows_then() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to mount");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, target) = (dir.path().join("v"), dir.path().join("t"));
        fs::create_dir(&volume).unwrap();
        let show = |text: &str| {
            // As the atomic writer does: another file under the same name.
            fs::write(volume.join("new"), text).unwrap();
            fs::rename(volume.join("new"), volume.join("f")).unwrap();
            prepare(&volume, "f", &target).unwrap();
            fs::read_to_string(&target).unwrap()
        };
        assert_eq!((show("one").as_str(), show("two").as_str()), ("one", "two"));
        assert_eq!(mounts::below(&target).unwrap().len(), 1, "one mount, not one a run");
        fs::remove_file(volume.join("f")).unwrap();
        prepare(&volume, "f", &target).unwrap();
        assert!(target.is_dir());
        mounts::unmount_below(dir.path()).unwrap();
    }
}
