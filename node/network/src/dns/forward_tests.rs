//! Resolvers of the tests' own on the loopback device, which answer as they are told, or do not.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::TcpListener;

use super::*;

/// What a resolver does with a query.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Answers with this code.
    Says(ResponseCode),
    /// Answers only what it is asked a second time.
    SaysLater,
    /// Nothing, as a host that is gone.
    Nothing,
    /// Nobody listens.
    Refuses,
    /// Somebody else is faster, with three answers of their own.
    IsForged,
}

use Does::{IsForged, Nothing, Refuses, Says, SaysLater};

const GOOD: Does = Says(ResponseCode::NoError);
const FAILS: Does = Says(ResponseCode::ServFail);

struct Bench {
    forwarder: Forwarder,
    _directory: tempfile::TempDir,
}

/// A forwarder to resolvers at 127.0.0.2, 127.0.0.3 …, on one port.
async fn bench(resolvers: &[Does]) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let at = |index: usize| std::net::Ipv4Addr::from([127, 0, 0, u8::try_from(index + 2).unwrap()]);
    let lines = (0..resolvers.len()).map(|index| format!("nameserver {}\n", at(index)));
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    // An ephemeral port that is free at each of the addresses, over both protocols.
    'port: loop {
        let any = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = any.local_addr().unwrap().port();
        let mut sockets = Vec::new();
        for (index, does) in resolvers.iter().enumerate() {
            let address = SocketAddr::from((at(index), port));
            let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address).await, TcpListener::bind(address).await) else {
                continue 'port;
            };
            sockets.extend((*does != Refuses).then_some((*does, udp, tcp)));
        }
        for (does, udp, tcp) in sockets {
            tokio::spawn(serve_udp(does, udp));
            tokio::spawn(serve_tcp(does, tcp));
        }
        return Bench { forwarder: Forwarder::new(Resolvers::new(path, port, Vec::new())), _directory: directory };
    }
}

fn answer(query: &[u8], code: ResponseCode) -> Message {
    let mut answer = Message::from_vec(query).unwrap();
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    answer.metadata.response_code = code;
    answer
}

async fn serve_udp(does: Does, socket: UdpSocket) {
    let mut buffer = [0; 512];
    let mut count = 0;
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let query = &buffer[..length];
        let code = match does {
            Says(code) => code,
            SaysLater if count > 0 => ResponseCode::NoError,
            Nothing | Refuses | SaysLater => {
                count += 1;
                continue;
            }
            IsForged => {
                let mut other_id = answer(query, ResponseCode::NXDomain);
                other_id.metadata.id ^= 1;
                let mut other_name = answer(query, ResponseCode::NXDomain);
                other_name.queries[0].set_name(Name::from_ascii("example.com.").unwrap());
                let mut other_type = answer(query, ResponseCode::NXDomain);
                other_type.queries[0].set_query_type(RecordType::AAAA);
                let mut no_question = answer(query, ResponseCode::NoError);
                no_question.queries.clear();
                for forged in [other_id, other_name, other_type, no_question] {
                    socket.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
                }
                socket.send_to(query, from).await.unwrap();
                ResponseCode::NoError
            }
        };
        socket.send_to(&answer(query, code).to_vec().unwrap(), from).await.unwrap();
    }
}

async fn serve_tcp(does: Does, listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut query = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut query).await.unwrap();
        let Says(code) = does else {
            tokio::spawn(async move { stream.read_u16().await });
            continue;
        };
        let answer = answer(&query, code).to_vec().unwrap();
        let length = u16::try_from(answer.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.unwrap();
    }
}

/// What comes of a query, and within how many moments.
async fn ask(bench: &Bench, transport: Transport) -> (Option<ResponseCode>, u128) {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("Example.org.").unwrap(), RecordType::A));
    let begun = Instant::now();
    let answer = bench.forwarder.ask(&query.to_vec().unwrap(), transport).await;
    let moments = begun.elapsed().as_millis() / MOMENT.as_millis();
    let answer = answer.map(|bytes| Message::from_vec(&bytes).unwrap());
    assert!(answer.as_ref().is_none_or(|answer| answer.metadata.id == query.metadata.id));
    (answer.map(|answer| answer.metadata.response_code), moments)
}

#[tokio::test]
async fn a_dead_resolver_costs_a_moment() {
    let (ok, fails) = (Some(ResponseCode::NoError), Some(ResponseCode::ServFail));
    // What the resolvers do, what is answered, and in which moment.
    let cases: &[(&[Does], Option<ResponseCode>, u128)] = &[
        (&[GOOD], ok, 0),
        (&[Says(ResponseCode::NXDomain), GOOD], Some(ResponseCode::NXDomain), 0),
        (&[Nothing, GOOD], ok, 1),
        (&[Nothing, Nothing, GOOD], ok, 2),
        (&[Refuses, Refuses, GOOD], ok, 0),
        (&[FAILS, Says(ResponseCode::Refused), GOOD], ok, 0),
        (&[FAILS], fails, 0),
        (&[FAILS, Nothing], fails, 2),
        (&[Nothing, FAILS], fails, 3),
        (&[SaysLater], ok, 2),
        (&[IsForged], ok, 0),
        (&[Refuses, Refuses], None, 0),
        (&[Nothing, Nothing, Nothing], None, 10),
        (&[], None, 0),
    ];
    let all = cases.iter().map(|(resolvers, expected, moment)| async move {
        let bench = bench(resolvers).await;
        let (answer, moments) = ask(&bench, Transport::Udp).await;
        assert_eq!(answer, *expected, "{resolvers:?}");
        assert!(moments == *moment || moments == moment + 1, "{resolvers:?}: {moments}, not {moment}");
    });
    futures::future::join_all(all).await;
}

#[tokio::test]
async fn so_it_is_over_tcp() {
    for (resolvers, moment) in [(&[GOOD][..], 0), (&[Refuses, GOOD], 0), (&[Nothing, GOOD], 1)] {
        let (answer, moments) = ask(&bench(resolvers).await, Transport::Tcp).await;
        assert_eq!(answer, Some(ResponseCode::NoError), "{resolvers:?}");
        assert!(moments == moment || moments == moment + 1, "{resolvers:?}: {moments}");
    }
}

#[tokio::test]
async fn dead_ones_are_remembered() {
    let bench = bench(&[Nothing, Nothing, GOOD]).await;
    let mut waited = Vec::new();
    for _ in 0..5 {
        waited.push(ask(&bench, Transport::Udp).await.1 > 0);
    }
    assert_eq!(waited, [true, true, true, false, false]);
}

#[test]
fn no_message_is_too_broken() {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A));
    let good = query.to_vec().unwrap();
    let answer = answer(&good, ResponseCode::NoError).to_vec().unwrap();
    assert!(answers(&good, &answer));
    for length in 0..answer.len() {
        assert!(!answers(&good, &answer[..length]), "{length}");
        assert_eq!(question(&good[..length]), None);
    }
    for byte in [0x40, 0xc0, 0xff] {
        let mut other = answer.clone();
        other[HEADER] = byte;
        assert!(!answers(&good, &other));
    }
}
