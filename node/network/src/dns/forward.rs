//! Everything that is not ours goes to the host's resolvers, byte for byte: their answers stay as they are.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::cidr::Cidr;

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often all resolvers are asked.
const ROUNDS: usize = 2;
const MAX_DATAGRAM: usize = 4096;

/// How the client asked, and so how the resolver is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The resolvers of a resolv.conf, read again when the file has changed.
#[derive(Debug)]
pub(super) struct Forwarder {
    path: PathBuf,
    port: u16,
    /// The cluster's own ranges: a resolver there is this very server, which would ask itself for ever.
    own: Vec<Cidr>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the file had changed as it was read (or that it was not there); `None` before that.
    read: Option<Option<SystemTime>>,
    resolvers: Vec<SocketAddr>,
    /// Those that did not answer when they were asked last.
    failing: BTreeSet<SocketAddr>,
}

impl Forwarder {
    /// Resolvers on the given port, which is 53 outside tests.
    pub(super) fn new(path: PathBuf, port: u16, own: Vec<Cidr>) -> Self {
        Self { path, port, own, known: Mutex::default() }
    }

    /// Whom to ask: first those that answered last time, all in the file's order.
    fn resolvers(&self) -> Vec<SocketAddr> {
        let changed = Some(std::fs::metadata(&self.path).and_then(|data| data.modified()).ok());
        let mut known = self.known();
        if known.read != changed {
            known.read = changed;
            match std::fs::read_to_string(&self.path) {
                Ok(text) => known.resolvers = self.usable(&text),
                // Said once, not for each query; those that were known are used on.
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot read the host's resolvers");
                }
            }
        }
        let (failing, answering): (Vec<_>, Vec<_>) = known.resolvers.iter().partition(|at| known.failing.contains(at));
        [answering, failing].concat()
    }

    fn usable(&self, text: &str) -> Vec<SocketAddr> {
        let (own, others): (Vec<_>, Vec<_>) =
            name_servers(text).into_iter().partition(|ip| self.own.iter().any(|range| range.contains(ip)));
        for ip in own {
            tracing::warn!(path = %self.path.display(), %ip, "a resolver of the host is the cluster's own: left out");
        }
        others.into_iter().map(|ip| (ip, self.port).into()).collect()
    }

    /// Takes notice of how a resolver did; says so when that changes.
    fn note(&self, resolver: SocketAddr, failure: Option<&dyn std::fmt::Display>) {
        let mut known = self.known();
        match failure {
            Some(why) => {
                if known.failing.insert(resolver) {
                    tracing::warn!(%resolver, %why, "a resolver of the host does not answer");
                }
            }
            None => {
                if known.failing.remove(&resolver) {
                    tracing::info!(%resolver, "a resolver of the host answers again");
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the resolvers in turn; gives the first answer with the query's own id.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        if query.len() < 12 {
            return None;
        }
        let resolvers = self.resolvers();
        for resolver in std::iter::repeat_n(&resolvers, ROUNDS).flatten() {
            let asked = match transport {
                Transport::Udp => tokio::time::timeout(PATIENCE, ask_udp(*resolver, query)).await,
                Transport::Tcp => tokio::time::timeout(PATIENCE, ask_tcp(*resolver, query)).await,
            };
            match asked {
                Ok(Ok(mut answer)) => {
                    self.note(*resolver, None);
                    answer[..2].copy_from_slice(&query[..2]);
                    return Some(answer);
                }
                Ok(Err(error)) => self.note(*resolver, Some(&error)),
                Err(late) => self.note(*resolver, Some(&late)),
            }
        }
        None
    }
}

/// With an id and a port of its own, so that nobody who has not seen the query can answer it.
async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    let id = rand::random::<u16>().to_be_bytes();
    let mut own = query.to_vec();
    own[..2].copy_from_slice(&id);
    socket.send(&own).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer[..2] == id {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if answer.len() < 12 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

/// The `nameserver` lines; a scope (`fe80::1%eth0`) is left off, as it cannot be asked without.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    lines
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# c\nsearch x\nnameserver 10.0.0.53\n  nameserver\t::1 # c\nnameserver fe80::1%eth0\nnameserverx 1.1.1.1\n";
        let found: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53", "::1"]);
    }

    #[test]
    fn asks_who_answers_first_and_never_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let forwarder = Forwarder::new(path, 53, vec!["10.96.0.0/16".parse().unwrap()]);
        let order = || forwarder.resolvers().iter().map(|at| at.ip().to_string()).collect::<Vec<_>>();
        assert_eq!(order(), ["192.0.2.1", "192.0.2.2"]);
        forwarder.note("192.0.2.1:53".parse().unwrap(), Some(&"late"));
        assert_eq!(order(), ["192.0.2.2", "192.0.2.1"]);
        forwarder.note("192.0.2.1:53".parse().unwrap(), None);
        assert_eq!(order(), ["192.0.2.1", "192.0.2.2"]);
    }
}
