//! Ending processes: found by files that only they hold or by their own arguments, ended by id, waited for by pidfd.

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

/// How long a process may take after SIGTERM, in milliseconds; then it is killed.
const PATIENCE_MS: u16 = 25_000;
/// How long the kernel may take to remove a killed one.
const KILL_MS: u16 = 10_000;

/// Ends the server that holds the data directory's lock, if one does.
pub(crate) fn end_server(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join("run/keelson.pid");
    let Ok(file) = std::fs::File::open(&path) else { return Ok(()) };
    // Nobody holds the lock: the id in the file may be anybody's by now.
    if nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok() {
        return Ok(());
    }
    end_by_pid_file(&path)
}

/// Ends the process whose id a file holds, if the file is there.
pub(crate) fn end_by_pid_file(path: &Path) -> anyhow::Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    };
    // containerd's file has the start time after the id.
    let Some(pid) = text.split_whitespace().next().and_then(|word| word.parse().ok()) else { return Ok(()) };
    if !belongs(pid, path) {
        return Ok(());
    }
    end(pid)
}

/// Whether the process is one of ours: its command line names the data directory that the pid file lies in.
fn belongs(pid: i32, pid_file: &Path) -> bool {
    let Some(data_dir) = pid_file.parent().and_then(Path::parent) else { return false };
    command_line(pid).is_some_and(|line| line.contains(&*data_dir.to_string_lossy()))
        || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("keelson"))
}

/// Ends the shims of the containerd of this data directory.
pub(crate) fn end_shims(data_dir: &Path) -> anyhow::Result<()> {
    let socket = data_dir.join("containerd/containerd.sock");
    let socket = socket.to_string_lossy();
    for pid in all() {
        let shim = command_line(pid).is_some_and(|line| line.contains("containerd-shim") && line.contains(&*socket));
        if shim {
            end_now(pid)?;
        }
    }
    Ok(())
}

fn all() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn command_line(pid: i32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

/// SIGTERM, then SIGKILL for one that does not end.
pub(crate) fn end(pid: i32) -> anyhow::Result<()> {
    let Some(fd) = pidfd(pid)? else { return Ok(()) };
    signal(pid, Signal::SIGTERM)?;
    if ended(&fd, PATIENCE_MS)? {
        return Ok(());
    }
    kill_and_wait(pid, &fd)
}

/// SIGKILL at once.
pub(crate) fn end_now(pid: i32) -> anyhow::Result<()> {
    pidfd(pid)?.map_or(Ok(()), |fd| kill_and_wait(pid, &fd))
}

fn kill_and_wait(pid: i32, fd: &OwnedFd) -> anyhow::Result<()> {
    signal(pid, Signal::SIGKILL)?;
    if !ended(fd, KILL_MS)? {
        bail!("process {pid} does not end, not even when killed; it may be stuck in the kernel");
    }
    Ok(())
}

fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("process {pid} cannot be sent {signal}")),
    }
}

fn ended(fd: &OwnedFd, limit_ms: u16) -> anyhow::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(limit_ms)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2) has no wrapper in nix")]
fn pidfd(pid: i32) -> anyhow::Result<Option<OwnedFd>> {
    // SAFETY: the call takes two integers and gives a new descriptor, which nobody else owns.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match Errno::result(fd) {
        // SAFETY: see above.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })),
        Err(Errno::ESRCH | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("pidfd_open of process {pid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        end(child.id().cast_signed()).unwrap();
        assert!(!child.wait().unwrap().success());
        end(child.id().cast_signed()).unwrap();
    }

    #[test]
    fn a_pid_file_of_somebody_else_s_process_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let path = dir.path().join("run/x.pid");
        std::fs::write(&path, child.id().to_string()).unwrap();
        end_by_pid_file(&path).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
