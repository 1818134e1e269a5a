//! Queries over UDP and TCP: decoded, answered from the zone or forwarded, encoded within the client's limits.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forward::{Forwarder, Transport};
use super::zone::{Outcome, Zone};

/// What a client without EDNS can take over UDP.
const PLAIN_LIMIT: u16 = 512;
/// The most we send over UDP, whatever a client says: what fits an unfragmented packet.
const UDP_LIMIT: u16 = 1232;
/// What our EDNS record takes: the root's name, no options.
const EDNS_SIZE: u16 = 11;
const MAX_QUERY: usize = 4096;
/// Forwarded queries in flight.
const FORWARDED: usize = 1024;
const CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);

/// What answers queries.
pub(super) struct Server {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What is to be done with a query.
enum Plan {
    /// Send this.
    Answer(Box<Message>),
    /// Pass the query on.
    Forward,
    /// Ask for the target, and put its records behind these.
    Chase(Box<Message>, Name, RecordType),
    /// It is no query at all.
    Ignore,
}

impl Server {
    /// A server for a zone that others may change meanwhile.
    pub(super) fn new(zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> Arc<Self> {
        let (in_flight, connections) = (Arc::new(Semaphore::new(FORWARDED)), Arc::new(Semaphore::new(CONNECTIONS)));
        Arc::new(Self { zone, forwarder, in_flight, connections })
    }

    /// Serves datagrams and connections until told to stop.
    pub(super) fn serve(
        self: Arc<Self>,
        udp: UdpSocket,
        tcp: TcpListener,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let serving = (self.clone(), Arc::new(udp), tasks.clone(), shutdown.clone());
        supervise::spawn("dns udp", tasks, shutdown, serving, |(server, socket, tasks, shutdown)| {
            Box::pin(server.udp(socket, tasks, shutdown))
        });
        let serving = (self, tcp, tasks.clone(), shutdown.clone());
        supervise::spawn("dns tcp", tasks, shutdown, serving, |(server, listener, tasks, shutdown)| {
            Box::pin(server.tcp(listener, tasks, shutdown))
        });
    }

    async fn udp(self: &Arc<Self>, socket: &Arc<UdpSocket>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let mut buffer = vec![0; MAX_QUERY];
        while let Some(received) = shutdown.run_until_cancelled(socket.recv_from(&mut buffer)).await {
            // An error here is an earlier answer's ICMP error: nothing to do with the next query.
            let Ok((length, from)) = received else { continue };
            let query = &buffer[..length];
            match self.plan(query) {
                Plan::Ignore => {}
                Plan::Answer(message) => send(socket, &encode(&message, udp_limit(query)), from).await,
                plan => {
                    let Ok(slot) = self.in_flight.clone().try_acquire_owned() else {
                        send(socket, &failure(query, ResponseCode::ServFail), from).await;
                        continue;
                    };
                    let (server, socket, query) = (self.clone(), socket.clone(), query.to_vec());
                    tasks.spawn(async move {
                        let answer = server.finish(plan, &query, Transport::Udp).await;
                        send(&socket, &answer, from).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    async fn tcp(self: &Arc<Self>, listener: &TcpListener, tasks: &TaskTracker, shutdown: &CancellationToken) {
        loop {
            let slot = self.connections.clone().acquire_owned();
            let Some(Ok(slot)) = shutdown.run_until_cancelled(slot).await else { return };
            let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else { return };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(supervise::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (server, shutdown) = (self.clone(), shutdown.clone());
            tasks.spawn(async move {
                shutdown.run_until_cancelled(server.connection(stream)).await;
                drop(slot);
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) {
        loop {
            let Ok(Ok(length)) = tokio::time::timeout(IDLE, stream.read_u16()).await else { return };
            let mut query = vec![0; usize::from(length)];
            let Ok(Ok(_)) = tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await else { return };
            let answer = match self.plan(&query) {
                Plan::Ignore => return,
                Plan::Answer(message) => encode(&message, u16::MAX),
                plan => self.finish(plan, &query, Transport::Tcp).await,
            };
            let Ok(length) = u16::try_from(answer.len()) else { return };
            let framed = [&length.to_be_bytes(), &answer[..]].concat();
            let Ok(Ok(())) = tokio::time::timeout(IDLE, stream.write_all(&framed)).await else { return };
        }
    }

    /// Decides about a query; answers it, where the zone can.
    fn plan(&self, bytes: &[u8]) -> Plan {
        let Ok(query) = Message::from_vec(bytes) else {
            // Not decodable; if it has a header, say so.
            let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
            return if is_query { Plan::Answer(Box::new(format_error(bytes))) } else { Plan::Ignore };
        };
        if query.metadata.message_type != MessageType::Query {
            return Plan::Ignore;
        }
        let mut answer = reply(&query);
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            answer.metadata.response_code = ResponseCode::BADVERS;
            return Plan::Answer(Box::new(answer));
        }
        if query.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return Plan::Answer(Box::new(answer));
        }
        let [question] = &query.queries[..] else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return Plan::Answer(Box::new(answer));
        };
        if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
            answer.metadata.response_code = ResponseCode::Refused;
            return Plan::Answer(Box::new(answer));
        }
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        answer.metadata.authoritative = true;
        match zone.look_up(question.name(), question.query_type()) {
            Outcome::Elsewhere => return Plan::Forward,
            Outcome::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(zone.soa(question.name()));
            }
            Outcome::Answer { mut answers, extra } => {
                if answers.is_empty() {
                    answer.add_authority(zone.soa(question.name()));
                }
                shuffle(&mut answers);
                answer.add_answers(answers);
                answer.add_additionals(extra);
            }
            Outcome::Alias { answers, target } => {
                answer.add_answers(answers);
                return Plan::Chase(Box::new(answer), target, question.query_type());
            }
        }
        Plan::Answer(Box::new(answer))
    }

    /// Does the part that needs others.
    async fn finish(&self, plan: Plan, query: &[u8], transport: Transport) -> Vec<u8> {
        let limit = if transport == Transport::Udp { udp_limit(query) } else { u16::MAX };
        match plan {
            Plan::Ignore => Vec::new(),
            Plan::Answer(message) => encode(&message, limit),
            Plan::Forward => {
                let answer = self.forwarder.ask(query, transport).await;
                answer.unwrap_or_else(|| failure(query, ResponseCode::ServFail))
            }
            Plan::Chase(mut answer, target, kind) => {
                let mut question = Message::query();
                question.metadata.recursion_desired = true;
                question.add_query(hickory_proto::op::Query::query(target, kind));
                let Ok(question) = question.to_vec() else { return failure(query, ResponseCode::ServFail) };
                let found = self.forwarder.ask(&question, transport).await;
                match found.and_then(|bytes| Message::from_vec(&bytes).ok()) {
                    Some(found) => {
                        answer.metadata.response_code = found.metadata.response_code;
                        answer.metadata.truncation = found.metadata.truncation;
                        answer.add_answers(found.answers);
                        answer.add_authorities(found.authorities);
                    }
                    None => answer.metadata.response_code = ResponseCode::ServFail,
                }
                encode(&answer, limit)
            }
        }
    }
}

/// An empty answer to a query, with EDNS where the client has it.
fn reply(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        answer.set_edns(edns);
    }
    answer
}

fn format_error(bytes: &[u8]) -> Message {
    Message::error_msg(u16::from_be_bytes([bytes[0], bytes[1]]), OpCode::Query, ResponseCode::FormErr)
}

fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let Ok(query) = Message::from_vec(query) else { return Vec::new() };
    let mut answer = reply(&query);
    answer.metadata.response_code = code;
    encode(&answer, PLAIN_LIMIT)
}

fn udp_limit(query: &[u8]) -> u16 {
    let edns = Message::from_vec(query).ok().and_then(|query| query.edns);
    edns.map_or(PLAIN_LIMIT, |edns| edns.max_payload().clamp(PLAIN_LIMIT, UDP_LIMIT))
}

/// Gives each client another first address, for those that take no other. What leads there by aliases stays before them.
fn shuffle(answers: &mut [Record]) {
    let is_address = |record: &Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
    if let Some(first) = answers.iter().position(is_address) {
        answers[first..].shuffle(&mut rand::rng());
    }
}

/// Encodes within the limit. Where not all fits, the client is told to ask over TCP and gets the answers that do: some
/// resolvers (musl's before 1.2.4) never ask over TCP and make do with them.
fn encode(message: &Message, limit: u16) -> Vec<u8> {
    let whole = emit(message, limit);
    if !is_truncated(&whole) {
        return whole;
    }
    // What is only helpful goes first.
    let mut short = message.clone();
    short.additionals.clear();
    let shorter = emit(&short, limit);
    if !is_truncated(&shorter) {
        return shorter;
    }
    // The EDNS record comes last and must not be what is left out.
    short.authorities.clear();
    let edns = short.edns.take();
    let fitting = emit(&short, if edns.is_some() { limit - EDNS_SIZE } else { limit });
    short.answers.truncate(fitting.get(6..8).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]]))));
    short.metadata.truncation = true;
    short.edns = edns;
    emit(&short, limit)
}

/// Encodes; leaves out records that do not fit, and says so in the header.
fn emit(message: &Message, limit: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN_LIMIT));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    if message.emit(&mut encoder).is_err() {
        return Vec::new();
    }
    bytes
}

fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if answer.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "cannot answer a query");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
