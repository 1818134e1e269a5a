//! The DNS process as the supervisor sees it: started, adopted, replaced, ended.
//!
//! The sockets are the supervisor's: a DNS process inherits them, and an adopted one's are copied back by pidfd. So
//! queries wait in the kernel while a process is replaced or started again, and none is lost.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::{DnsConfig, sys};
use crate::{NetworkError, files};

/// What a DNS process inherits, in this order.
pub(super) struct Sockets {
    pub(super) udp: OwnedFd,
    pub(super) tcp: OwnedFd,
    pub(super) feed: OwnedFd,
}

/// How large the log may be when a process is started or adopted. What it says is rare, and nothing of it is a query's.
const LOG_LIMIT: u64 = 1 << 20;
/// How many [`Sockets`] there are.
pub(super) const SOCKETS: usize = 3;

impl Sockets {
    /// New ones.
    pub(super) fn bind(config: &DnsConfig) -> Result<Self, NetworkError> {
        let (udp, tcp) = bind_queries(config.listen)?;
        Ok(Self { udp, tcp, feed: bind_feed(&config.socket)? })
    }

    /// Those of a running process.
    fn of(process: &OwnedFd) -> std::io::Result<Self> {
        let get = |index| sys::pidfd_getfd(process.as_fd(), sys::FIRST_INHERITED + index);
        Ok(Self { udp: get(0)?, tcp: get(1)?, feed: get(2)? })
    }

    fn copies(&self) -> std::io::Result<Vec<OwnedFd>> {
        [&self.udp, &self.tcp, &self.feed].into_iter().map(OwnedFd::try_clone).collect()
    }
}

/// Sockets for queries.
pub(super) fn bind_queries(listen: SocketAddr) -> Result<(OwnedFd, OwnedFd), NetworkError> {
    let failed = |action| move |source| NetworkError::Socket { action, address: listen.to_string(), source };
    let udp = std::net::UdpSocket::bind(listen).map_err(failed("listen for DNS over UDP at"))?;
    // Where any port will do, both get the same.
    let listen = udp.local_addr().map_err(failed("find the address of"))?;
    let tcp = std::net::TcpListener::bind(listen).map_err(failed("listen for DNS over TCP at"))?;
    udp.set_nonblocking(true).map_err(failed("prepare"))?;
    tcp.set_nonblocking(true).map_err(failed("prepare"))?;
    Ok((udp.into(), tcp.into()))
}

/// The socket for the feed, for root alone.
pub(super) fn bind_feed(path: &Path) -> Result<OwnedFd, NetworkError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(files::failed("remove", path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(files::failed("listen at", path))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(files::failed("restrict", path))?;
    listener.set_nonblocking(true).map_err(files::failed("prepare", path))?;
    Ok(listener.into())
}

/// A running DNS process.
pub(super) struct Process {
    handle: AsyncFd<OwnedFd>,
    child: Option<Child>,
    pub(super) pid: u32,
}

/// What is written down about a DNS process.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: u32,
    config: DnsConfig,
    /// Device and inode of the program.
    program: (u64, u64),
}

/// Where things are below the data directory.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) directory: PathBuf,
}

impl Places {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self { directory: data_dir.join("dns") }
    }
    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("config.json")
    }
    pub(super) fn pid(&self) -> PathBuf {
        self.directory.join("dns.pid")
    }
    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("dns.log")
    }
    pub(super) fn snapshot(&self) -> PathBuf {
        self.directory.join("snapshot.json")
    }
}

/// A process that was running already.
pub(super) struct Found {
    pub(super) process: Process,
    /// Its sockets, when they can be had and are where they should be.
    pub(super) sockets: Option<Sockets>,
    /// Same program and configuration: it may stay.
    pub(super) current: bool,
}

/// The DNS process that an earlier supervisor left, if it still runs.
pub(super) fn find(places: &Places, config: &DnsConfig, program: &Path) -> Option<Found> {
    let record: Record = serde_json::from_slice(&std::fs::read(places.pid()).ok()?).ok()?;
    let handle = sys::pidfd_open(record.pid).ok()?;
    // After the handle is open: the number cannot pass to another process between check and use.
    let command = std::fs::read(format!("/proc/{}/cmdline", record.pid)).ok()?;
    let path = places.config();
    if !command.split(|byte| *byte == 0).any(|part| part == path.as_os_str().as_encoded_bytes()) {
        return None;
    }
    let running = std::fs::metadata(format!("/proc/{}/exe", record.pid)).ok();
    let running = running.map(|data| (data.dev(), data.ino()));
    let current = record.config == *config && running.is_some() && running == identity(program).ok();
    if let Err(error) = files::bound(&places.log(), LOG_LIMIT) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the DNS process's log grows");
    }
    let same_place = record.config.listen == config.listen && record.config.socket == config.socket;
    let sockets = if same_place { Sockets::of(&handle).ok() } else { None };
    let process = Process { handle: sys::watch(handle).ok()?, child: None, pid: record.pid };
    Some(Found { current: current && sockets.is_some(), process, sockets })
}

fn identity(program: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(program).map(|data| (data.dev(), data.ino()))
}

/// Starts `PROGRAM dns --config FILE`, detached from this process.
pub(super) fn spawn(
    places: &Places,
    config: &DnsConfig,
    program: &Path,
    sockets: &Sockets,
) -> Result<Process, NetworkError> {
    let path = places.config();
    let text =
        serde_json::to_vec_pretty(config).map_err(|source| NetworkError::Malformed { path: path.clone(), source })?;
    files::replace(&path, &text)?;
    let log_path = places.log();
    files::bound(&log_path, LOG_LIMIT)?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.map_err(files::failed("open", &log_path))?;
    let second = log.try_clone().map_err(files::failed("open", &log_path))?;
    let mut command = Command::new(program);
    command.arg("dns").arg("--config").arg(&path).current_dir("/").env("KEELSON_DNS_FDS", SOCKETS.to_string());
    command.stdin(Stdio::null()).stdout(log).stderr(second);
    sys::detach_with(&mut command, sockets.copies().map_err(files::failed("copy the sockets for", program))?);
    let child = command.spawn().map_err(files::failed("start", program))?;
    let pid = child.id();
    let handle = sys::pidfd_open(pid).and_then(sys::watch).map_err(files::failed("watch", program))?;
    let process = Process { handle, child: Some(child), pid };
    let program = identity(program).map_err(files::failed("find", program))?;
    let record = Record { pid, config: config.clone(), program };
    let text = serde_json::to_vec(&record).map_err(|source| NetworkError::Malformed { path: places.pid(), source })?;
    files::replace(&places.pid(), &text)?;
    Ok(process)
}

impl Process {
    /// Waits until the process has ended.
    pub(super) async fn ended(&mut self) {
        // A pidfd becomes readable when its process ends. An error here would mean a closed descriptor, which it is not.
        if self.handle.readable().await.is_ok()
            && let Some(child) = &mut self.child
        {
            let status = child.wait();
            tracing::warn!(pid = self.pid, ?status, "the DNS process has ended");
        }
    }

    /// Asks the process to end.
    pub(super) fn terminate(&self) {
        if let Err(error) = sys::terminate(self.handle.as_fd()) {
            tracing::debug!(pid = self.pid, %error, "the DNS process had ended already");
        }
    }
}
