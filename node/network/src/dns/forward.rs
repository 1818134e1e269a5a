//! Everything that is not ours goes to the host's resolvers, byte for byte: their answers stay as they are.
//!
//! Who does not answer within a moment is waited for, and meanwhile the next one is asked: the first answer counts. So a
//! dead resolver costs a moment, and no client gives up (after 5 s, most of them) before it is told.

use std::collections::BTreeMap;
use std::io;
use std::iter::repeat_n;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::resolvers::Resolvers;

/// When the client is told that nobody answers.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long one resolver has the query to itself.
const MOMENT: Duration = Duration::from_millis(400);
/// How long after the last one of all the silent ones are asked again, and how long one with a better answer is waited for.
const AGAIN: Duration = Duration::from_secs(1);
const HEADER: usize = 12;
const MAX_DATAGRAM: usize = 65_535;

/// How the client asked, and so how the resolver is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Passes queries on.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolvers: Resolvers,
}

/// How far one query is.
#[derive(Default)]
struct Progress {
    /// Those that have said nothing yet, and since when they are asked.
    silent: BTreeMap<SocketAddr, Instant>,
    /// An answer that says that its resolver cannot or will not say.
    refusal: Option<Vec<u8>>,
}

/// A resolver and what it said.
type Heard = (SocketAddr, io::Result<Vec<u8>>);

impl Forwarder {
    /// A forwarder to these.
    pub(super) fn new(resolvers: Resolvers) -> Self {
        Self { resolvers }
    }

    /// Asks the resolvers; gives the first good answer, else one that refuses, with the query's own id. `None` when none
    /// answers within [`DEADLINE`], or when the bytes are no query with one question.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        question(query)?;
        let mut progress = Progress::default();
        let best = timeout(DEADLINE, self.race(query, transport, &mut progress)).await;
        for (resolver, since) in progress.silent {
            if since.elapsed() >= MOMENT {
                self.resolvers.missed(resolver);
            }
        }
        let mut answer = best.ok().flatten().or(progress.refusal)?;
        answer[..2].copy_from_slice(&query[..2]);
        Some(answer)
    }

    async fn race(&self, query: &[u8], transport: Transport, progress: &mut Progress) -> Option<Vec<u8>> {
        let mut asked = FuturesUnordered::new();
        let order = self.resolvers.order();
        let pauses = repeat_n(MOMENT, order.len()).chain([AGAIN]).chain(std::iter::repeat(MOMENT));
        for (turn, (resolver, pause)) in order.iter().chain(&order).copied().zip(pauses).enumerate() {
            // The second time is for what was lost on the way, not for who has spoken.
            let again = turn >= order.len();
            if again && progress.refusal.is_some() {
                break;
            }
            let answer = self.listen(&mut asked, pause, progress).await;
            if answer.is_some() {
                return answer;
            }
            if again && !progress.silent.contains_key(&resolver) {
                continue;
            }
            progress.silent.entry(resolver).or_insert_with(Instant::now);
            asked.push(async move { (resolver, ask_one(resolver, query, transport).await) });
        }
        while !asked.is_empty() {
            let patience = if progress.refusal.is_some() { AGAIN } else { DEADLINE };
            let before = asked.len();
            let answer = self.listen(&mut asked, patience, progress).await;
            if answer.is_some() || asked.len() == before {
                return answer;
            }
        }
        None
    }

    /// Waits until somebody speaks, at most for the pause. Gives a good answer.
    async fn listen<F: Future<Output = Heard>>(
        &self,
        asked: &mut FuturesUnordered<F>,
        pause: Duration,
        progress: &mut Progress,
    ) -> Option<Vec<u8>> {
        let (resolver, heard) = timeout(pause, asked.next()).await.ok()??;
        progress.silent.remove(&resolver);
        match heard {
            Ok(answer) => {
                self.resolvers.answered(resolver);
                if !is_refusal(&answer) {
                    return Some(answer);
                }
                progress.refusal = Some(answer);
            }
            Err(error) => self.resolvers.failed(resolver, &error),
        }
        None
    }
}

/// With an id of its own and, over UDP, a port of its own, so that nobody who has not seen the query can answer it.
async fn ask_one(resolver: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    let mut own = query.to_vec();
    own[..2].copy_from_slice(&rand::random::<u16>().to_be_bytes());
    match transport {
        Transport::Udp => ask_udp(resolver, &own).await,
        Transport::Tcp => ask_tcp(resolver, &own).await,
    }
}

async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    loop {
        // Also for an error alone, which recv() does not wait for: a router's or a host's word that nobody is there.
        let answer = socket.async_io(Interest::READABLE | Interest::ERROR, || receive(&socket)).await?;
        // Else somebody guesses.
        if answers(query, &answer) {
            return Ok(answer);
        }
    }
}

/// With a buffer for the moment alone: many queries wait at once.
fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MAX_DATAGRAM];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    buffer.truncate(length);
    buffer.shrink_to_fit();
    Ok(buffer)
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !answers(query, &answer) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to something else"));
    }
    Ok(answer)
}

/// Whether this answers the query: its id, the mark of an answer, its question. Who could not read that may leave it out.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    if answer.len() < HEADER || answer[..2] != query[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    if answer[4..6] == [0, 0] {
        return code(answer) != 0;
    }
    match (question(query), question(answer)) {
        (Some((asked, kind)), Some((name, of))) => name.eq_ignore_ascii_case(asked) && of == kind,
        _ => false,
    }
}

/// The name of the first question as it is encoded, and its type and class.
fn question(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = HEADER;
    loop {
        match message.get(end)? {
            0 => break,
            length @ 1..=63 => end += 1 + usize::from(*length),
            _ => return None,
        }
    }
    Some((&message[HEADER..=end], message.get(end + 1..end + 5)?))
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

/// Server failure, not implemented, refused: as a host's own programs, we ask another then.
fn is_refusal(answer: &[u8]) -> bool {
    matches!(code(answer), 2 | 4 | 5)
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
