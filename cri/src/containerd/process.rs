//! A process that may not be our child: held by pidfd, recognised by its start time.

#![expect(unsafe_code, reason = "pidfd_open and pidfd_send_signal have no safe wrapper here")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    start_time: u64,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a running process.
    pub(super) fn open(pid: i32) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Read after the pidfd exists: if the number was reused in between, the time is the new process's, as is the fd.
        let start_time = start_time(pid)?;
        // SAFETY: an OwnedFd keeps its descriptor open and the same for as long as AsyncFd holds it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE)? };
        Ok(Process { pid, start_time, fd })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// In clock ticks since boot.
    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Returns when the process has ended.
    pub(super) async fn exited(&self) {
        // An error here means the descriptor is unusable; there is nothing left to watch then.
        if let Err(error) = self.fd.readable().await {
            tracing::error!(pid = self.pid, %error, "cannot watch the process");
        }
    }

    /// Sends a signal; a process that is gone is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let fd = self.fd.get_ref().as_raw_fd();
        // SAFETY: the descriptor is open as long as `self`; a null siginfo is allowed.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// SIGTERM, then SIGKILL after `grace`.
    pub(super) async fn terminate(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::SIGTERM)?;
        if tokio::time::timeout(grace, self.exited()).await.is_err() {
            tracing::warn!(pid = self.pid, "the process ignored SIGTERM and is killed");
            self.signal(Signal::SIGKILL)?;
            self.exited().await;
        }
        Ok(())
    }
}

/// Field 22 of /proc/PID/stat. The second field is the name and may hold anything, so count from its last parenthesis.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the process was started with `argument` on its command line.
pub(super) fn has_argument(pid: i32, argument: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == argument.as_bytes()))
}

/// Makes the child of `command` the leader of a session of its own, so that no signal meant for ours reaches it.
pub(super) fn own_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setsid is async-signal-safe and the closure touches no memory.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_odd_names() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["(a)", "(a b)", "() 1 2 )"] {
            assert_eq!(parse_start_time(&format!("9 {name} {rest}")), Some(4711), "{name}");
        }
        assert_eq!(parse_start_time("9 (a) S 1"), None);
    }

    #[tokio::test]
    async fn a_process_is_watched_and_ended() {
        use std::io::{Read as _, Write as _};
        use std::process::Stdio;
        let mut child =
            std::process::Command::new("cat").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // An echo proves that the program has been executed.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(has_argument(process.pid(), "-") && !has_argument(process.pid(), "--"));
        assert!(process.start_time() > 0);
        process.terminate(Duration::from_secs(5)).await.unwrap();
        child.wait().unwrap();
        process.exited().await;
        process.signal(Signal::SIGTERM).unwrap();
        assert!(Process::open(process.pid()).is_err());
    }
}
