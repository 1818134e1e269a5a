//! Processes of a test: their output in a file, ended by their own handle, never by name.

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// A child that is ended when it is dropped.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    pidfd: OwnedFd,
}

impl Child {
    /// Starts the command.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let pidfd = pidfd_open(child.id()).context("pidfd_open")?;
        Ok(Self { child, pidfd })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipes that the command was given.
    pub fn inner(&mut self) -> &mut std::process::Child {
        &mut self.child
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        // The child is not reaped before wait(), so that the id cannot be another's.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if !wait_readable(self.pidfd.as_fd(), limit)? {
            bail!("process {} did not end in {limit:?}", self.child.id());
        }
        Ok(self.child.wait()?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The lines of a stream, read by a thread of their own, so that waiting for one has a deadline.
#[derive(Debug)]
pub struct Lines {
    receiver: std::sync::mpsc::Receiver<String>,
}

impl Lines {
    /// Starts to read.
    pub fn of(stream: impl std::io::Read + Send + 'static) -> Self {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { receiver }
    }

    /// Waits for a line that contains the text; gives it.
    ///
    /// # Errors
    /// The stream ended, or the time is up: the message has the lines until then.
    pub fn wait_for(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(error) => bail!("no line with '{text}' ({error}); seen: {seen:?}"),
            }
        }
    }
}

/// Waits until a descriptor can be read; false when the limit passes first.
///
/// # Errors
/// poll(2) failed.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2) has no wrapper in nix")]
pub(crate) fn pidfd_open(pid: u32) -> anyhow::Result<OwnedFd> {
    // SAFETY: the call takes two integers and gives a new descriptor, which nobody else owns.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?)?;
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program on the path or in the system's directories.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a command to its end and takes what it prints.
///
/// # Errors
/// It cannot be run or fails; the message has its words and its errors.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let words = words(command);
    let output = command.output().with_context(|| format!("cannot run `{words}`"))?;
    if !output.status.success() {
        bail!("`{words}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it, without what was set around it.
pub fn words(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
