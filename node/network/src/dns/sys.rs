//! Processes that are not our children, and descriptors that pass between processes.
#![expect(unsafe_code, reason = "pidfd system calls, and descriptors inherited by number")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// First descriptor that a child inherits, as systemd's socket activation has it.
pub(super) const FIRST_INHERITED: RawFd = 3;

fn new_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on a process that stays this process's, whatever becomes of its number.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) })
}

/// Lets a task wait for the end of a process.
pub(super) fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open, and the same, for as long as the returned value owns it.
    unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }.map_err(io::Error::from)
}

/// A copy of another process's descriptor.
pub(super) fn pidfd_getfd(process: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// Asks a process to end.
pub(super) fn terminate(process: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no siginfo is given, so only integers are passed.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGTERM, std::ptr::null::<u8>(), 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a command start in a session of its own with these descriptors as 3, 4 ….
pub(super) fn detach_with(command: &mut Command, inherited: Vec<OwnedFd>) {
    let run = move || {
        // First above all targets, so that no copy overwrites a descriptor that is still to be copied.
        let mut high = [0; 8];
        let top = FIRST_INHERITED + 16;
        for (slot, fd) in high.iter_mut().zip(&inherited) {
            // SAFETY: fcntl is async-signal-safe; the descriptor is open.
            *slot = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, top) };
            if *slot < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for (target, source) in (FIRST_INHERITED..).zip(&high[..inherited.len().min(high.len())]) {
            // SAFETY: dup2 is async-signal-safe; it leaves the copy open over exec.
            if unsafe { libc::dup2(*source, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: setsid is async-signal-safe. It fails only for a group leader, which a fresh child is not.
        unsafe { libc::setsid() };
        Ok(())
    };
    // SAFETY: the closure calls only async-signal-safe functions and does not allocate.
    unsafe { command.pre_exec(run) };
}

/// Takes descriptors over that the parent left as 3, 4 …, when it said that it left this many.
pub(super) fn inherited(count: usize) -> Option<Vec<OwnedFd>> {
    let said = std::env::var("KEELSON_DNS_FDS").ok()?;
    if said != count.to_string() {
        return None;
    }
    let numbers = (FIRST_INHERITED..).take(count);
    // SAFETY: the supervisor put them there for us, and nobody else in this process uses them: this is called once, at
    // the start.
    Some(numbers.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}
