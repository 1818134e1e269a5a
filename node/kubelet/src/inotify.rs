//! Tells when something in a directory changes.

#![expect(unsafe_code, reason = "inotify's system calls have no safe wrapper here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watch on one directory.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches for writes to files in `directory` and for files that appear or are renamed there.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Self::of(directory, libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO)
    }

    /// Watches for files in `directory` that are written and closed, come by another name, or go: never for a half.
    pub fn settled(directory: &Path) -> io::Result<Self> {
        Self::of(directory, libc::IN_CLOSE_WRITE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_DELETE)
    }

    fn of(directory: &Path, mask: u32) -> io::Result<Self> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: takes flags only.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the path is a C string that outlives the call.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: an OwnedFd keeps its descriptor open and the same for as long as AsyncFd holds it.
        Ok(Self { fd: unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? } })
    }

    /// Returns once something changed since the last call.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut guard = self.fd.readable().await?;
            // What changed does not matter: the reader looks for itself. So read all there is.
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut buffer)?)) {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}
