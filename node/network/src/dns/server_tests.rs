//! Real queries over UDP and TCP on the loopback device, with a resolver of the test's own upstream.

use std::net::Ipv4Addr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use super::super::resolvers::Resolvers;
use super::super::zone::tests::zone;
use super::super::zone::{ServiceRecord, Update};
use super::*;

/// Servers that end with the test.
struct Bench {
    udp: SocketAddr,
    tcp: SocketAddr,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn bench() -> Bench {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let resolv_conf = directory.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let port = upstream.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = reply(&query);
            let name = query.queries[0].name().clone();
            if name.to_string().starts_with("missing") {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else {
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(93, 184, 215, 14)))));
            }
            upstream.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let mut zone = zone();
    let many = (0..=255).map(|last| Ipv4Addr::new(10, 96, 9, last).into()).collect();
    let many = ServiceRecord { addresses: many, ..ServiceRecord::default() };
    zone.apply(Update::Delta([("shop/many".to_owned(), Some(many))].into()));
    let server =
        Server::new(Arc::new(RwLock::new(zone)), Forwarder::new(Resolvers::new(resolv_conf, port, Vec::new())));
    let (socket, listener) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    server.serve(socket, listener, &tasks, &shutdown);
    Bench { udp, tcp, shutdown, _directory: directory }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_utf8(name).unwrap(), kind));
    message
}

async fn raw_udp(bench: &Bench, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, bench.udp).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    buffer.truncate(received.expect("an answer in time").unwrap());
    buffer
}

async fn udp(bench: &Bench, query: &Message) -> Message {
    let answer = Message::from_vec(&raw_udp(bench, &query.to_vec().unwrap()).await).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    answer
}

async fn tcp(bench: &Bench, queries: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    let mut answers = Vec::new();
    for query in queries {
        let bytes = query.to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

fn summary(message: &Message) -> String {
    let data = |records: &[Record]| records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ");
    let soa = message.authorities.iter().find(|record| record.record_type() == RecordType::SOA);
    let soa = soa.map_or(String::new(), |record| format!(" SOA of {}", record.name));
    format!("{:?} [{}]{soa}", message.metadata.response_code, data(&message.answers))
}

#[tokio::test]
async fn answers_of_zone_and_world() {
    let bench = bench().await;
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local.", RecordType::A, "NoError [10.96.0.5]"),
        ("web.shop.svc.cluster.local.", RecordType::AAAA, "NoError [] SOA of cluster.local."),
        ("no.shop.svc.cluster.local.", RecordType::A, "NXDomain [] SOA of cluster.local."),
        ("9.9.244.10.in-addr.arpa.", RecordType::PTR, "NXDomain [] SOA of in-addr.arpa."),
        ("example.org.", RecordType::A, "NoError [93.184.215.14]"),
        ("missing.example.org.", RecordType::A, "NXDomain []"),
        ("out.shop.svc.cluster.local.", RecordType::A, "NoError [example.org. 93.184.215.14]"),
    ] {
        let answer = udp(&bench, &query(name, kind)).await;
        assert_eq!(summary(&answer), expected, "{name}");
        assert_eq!(answer.queries.len(), 1);
        assert!(answer.metadata.recursion_available);
    }
    let queries = ["web.shop.svc.cluster.local.", "in.shop.svc.cluster.local."].map(|name| query(name, RecordType::A));
    let answers = tcp(&bench, &queries).await;
    let answers: Vec<_> = answers.iter().map(summary).collect();
    assert_eq!(answers, ["NoError [10.96.0.5]", "NoError [web.shop.svc.cluster.local. 10.96.0.5]"]);
}

#[tokio::test]
async fn large_answers_by_what_the_client_takes() {
    let bench = bench().await;
    let plain = query("many.shop.svc.cluster.local.", RecordType::A);
    let bytes = raw_udp(&bench, &plain.to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    // Old resolvers of musl's never ask over TCP: what fits must be in it.
    assert!(bytes.len() <= 512 && answer.metadata.truncation && answer.answers.len() > 25, "{}", answer.answers.len());
    let whole = &tcp(&bench, std::slice::from_ref(&plain)).await[0].answers;
    assert_eq!(whole.len(), 256);
    // Whoever takes the first address alone gets another one each time (by chance the same in 256^3 tries).
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(tcp(&bench, std::slice::from_ref(&plain)).await.swap_remove(0).answers.swap_remove(0));
    }
    assert!(others.iter().any(|first| *first != whole[0]), "always {} first", whole[0]);
    let mut edns = query("web.shop.svc.cluster.local.", RecordType::A);
    let mut option = Edns::new();
    option.set_max_payload(4096);
    edns.set_edns(option);
    assert_eq!(udp(&bench, &edns).await.edns.as_ref().unwrap().max_payload(), UDP_LIMIT);
    edns.queries[0].set_name(plain.queries[0].name().clone());
    let bytes = raw_udp(&bench, &edns.to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.metadata.truncation && answer.edns.is_some(), "the client must know that we know EDNS");
    assert!((usize::from(UDP_LIMIT) - 30..=usize::from(UDP_LIMIT)).contains(&bytes.len()), "{}", bytes.len());
}

#[tokio::test]
async fn nonsense_is_refused_and_the_next_is_served() {
    let bench = bench().await;
    let mut header_only = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let answer = Message::from_vec(&raw_udp(&bench, &header_only).await).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x1234, ResponseCode::FormErr));
    header_only[5] = 0;
    let answer = Message::from_vec(&raw_udp(&bench, &header_only).await).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    let mut newer = query("web.shop.svc.cluster.local.", RecordType::A);
    newer.edns.get_or_insert_default().set_version(1);
    assert_eq!(u16::from(udp(&bench, &newer).await.metadata.response_code), u16::from(ResponseCode::BADVERS));
    let mut update = query("web.shop.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(udp(&bench, &update).await.metadata.response_code, ResponseCode::NotImp);
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(udp(&bench, &chaos).await.metadata.response_code, ResponseCode::Refused);
    // What gets no answer: rubbish, and answers (two servers would answer each other for ever).
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"x", bench.udp).await.unwrap();
    let reply = Message::response(1, OpCode::Query).to_vec().unwrap();
    socket.send_to(&reply, bench.udp).await.unwrap();
    let good = query("web.shop.svc.cluster.local.", RecordType::A);
    socket.send_to(&good.to_vec().unwrap(), bench.udp).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, good.metadata.id);
}

/// Every byte of good queries replaced, and every length: a plan for each, and none that ends the server.
#[test]
fn no_query_is_too_broken() {
    let forwarder = Forwarder::new(Resolvers::new("/nowhere".into(), 53, Vec::new()));
    let server = Server::new(Arc::new(RwLock::new(zone())), forwarder);
    let mut edns = query("_peer._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    edns.set_edns(Edns::new());
    let mut answered = 0;
    for good in [
        edns,
        query("7.0.244.10.in-addr.arpa.", RecordType::PTR),
        query("web.shop.svc.cluster.local.", RecordType::ANY),
    ] {
        let good = good.to_vec().unwrap();
        for at in 0..good.len() {
            let cut = &good[..at];
            let changed = [0, 1, 0x3f, 0x40, 0x7f, 0xc0, 0xff].map(|byte| {
                let mut bytes = good.clone();
                bytes[at] = byte;
                bytes
            });
            for bytes in changed.iter().map(Vec::as_slice).chain([cut]) {
                if let Plan::Answer(message) = server.plan(bytes) {
                    let answer = encode(&message, udp_limit(bytes));
                    assert!(answer.len() >= 12 && answer.len() <= usize::from(UDP_LIMIT), "{bytes:?}");
                    assert_eq!(answer[..2], bytes[..2], "the client's own id");
                    answered += 1;
                }
            }
        }
    }
    assert!(answered > 100, "{answered}");
}
