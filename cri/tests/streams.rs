//! exec through the runtime's streaming server, as a SPDY and as a WebSocket client see it.

#![allow(missing_docs, clippy::unwrap_used, clippy::large_futures, reason = "a test")]

mod fixture;

use std::collections::BTreeMap;

use bytes::BytesMut;
use cri::spdy::{Decoder, Encoder, Frame};
use cri::streams::{Streams, connect};
use cri::v1::ExecRequest;
use cri::websocket::{Protocol, REMOTE_COMMAND};
use fixture::{Fixture, in_netns};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

#[test]
fn exec_over_spdy_and_websocket() {
    in_netns(|| async {
        let fixture = Fixture::start().await;
        let sandbox = fixture.sandbox("a").await;
        let id = fixture.container(&sandbox, "c", &["sh", "-c", "while :; do sleep 1; done"], |_| {}).await;

        let v5 = named("v5.channel.k8s.io");
        let got = websocket(&fixture, &id, "cat; echo err >&2; exit 7", ALL, v5, &[b"\0hello", b"\xff\0"]).await;
        assert_eq!((&got[&1][..], &got[&2][..]), (&b"hello"[..], &b"err\n"[..]));
        let status: serde_json::Value = serde_json::from_slice(&got[&3]).unwrap();
        assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
        assert_eq!(status["details"]["causes"][0]["message"], "7");

        let got = websocket(&fixture, &id, "exit 0", ALL, v5, &[]).await;
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&got[&3]).unwrap()["status"], "Success");

        // Of the oldest protocol, nothing on channel 3 but the words of a failure.
        let v1 = named("channel.k8s.io");
        let out = Streams { stdin: false, ..ALL };
        let got = websocket(&fixture, &id, "echo one", out, v1, &[]).await;
        assert_eq!((&got[&1][..], got.get(&3)), (&b"one\n"[..], None));
        let got = websocket(&fixture, &id, "exit 3", out, v1, &[]).await;
        assert!(String::from_utf8_lossy(&got[&3]).contains("exit code 3"), "{got:?}");
        let coded = named("base64.channel.k8s.io");
        let got = websocket(&fixture, &id, "head -c 5", ALL, coded, &[b"0aGVsbG8="]).await;
        assert_eq!((&got[&b'1'][..], got.get(&b'3')), (&b"aGVsbG8="[..], None));

        // Much output, and more input than any buffer holds.
        let got = websocket(&fixture, &id, "yes | head -c 3000000", ALL, v5, &[]).await;
        assert_eq!(got[&1].len(), 3_000_000);
        let chunk = [&[0u8][..], &[b'x'; 30_000]].concat();
        let chunks: Vec<&[u8]> = std::iter::repeat_n(&chunk[..], 50).chain([&b"\xff\0"[..]]).collect();
        let got = websocket(&fixture, &id, "cat", ALL, v5, &chunks).await;
        assert_eq!(got[&1].len(), 1_500_000);

        let tty = Streams { tty: true, stderr: false, ..ALL };
        let resize = b"\x04{\"Width\":123,\"Height\":45}";
        // The size and the input come on streams of their own: either may be first.
        // (Without a size, busybox's stty complains, and succeeds.)
        let sized =
            "read x; i=0; until stty size 2>&1 | grep -q 123 || [ $i = 1000 ]; do i=$((i + 1)); done; stty size";
        let got = websocket(&fixture, &id, sized, tty, v5, &[resize, b"\0\n"]).await;
        assert!(String::from_utf8_lossy(&got[&1]).contains("45 123"), "{got:?}");

        assert_eq!(spdy(&fixture, &id, "cat", b"through the tunnel").await, b"through the tunnel");
        fixture.end().await;
    });
}

fn named(name: &str) -> Protocol {
    REMOTE_COMMAND.iter().copied().find(|protocol| protocol.name == name).unwrap()
}

async fn url(fixture: &Fixture, id: &str, script: &str, streams: Streams) -> String {
    let Streams { stdin, stdout, stderr, tty } = streams;
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    fixture.runtime.exec(ExecRequest { container_id: id.into(), cmd, tty, stdin, stdout, stderr }).await.unwrap()
}

/// Sends the messages; answers what came on each channel.
async fn websocket(
    fixture: &Fixture,
    id: &str,
    script: &str,
    streams: Streams,
    protocol: Protocol,
    messages: &[&[u8]],
) -> BTreeMap<u8, Vec<u8>> {
    let url = url(fixture, id, script, streams).await;
    let connected = connect(&url, &["v4.channel.k8s.io"]).await.unwrap();
    assert_eq!(connected.response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let (ours, theirs) = tokio::io::duplex(4096);
    let server = connected.remote_command(theirs, protocol, streams);
    let client = async {
        let (mut sink, mut source) = WebSocketStream::from_raw_socket(ours, Role::Client, None).await.split();
        let send = async {
            for message in messages {
                sink.send(Message::binary(message.to_vec())).await.unwrap();
            }
        };
        let receive = async {
            let mut got = BTreeMap::<u8, Vec<u8>>::new();
            while let Some(message) = source.next().await {
                match message.unwrap() {
                    message @ (Message::Binary(_) | Message::Text(_)) => {
                        let data = message.into_data();
                        got.entry(data[0]).or_default().extend_from_slice(&data[1..]);
                    }
                    Message::Close(frame) => {
                        assert_eq!(u16::from(frame.unwrap().code), 1000);
                        break;
                    }
                    _ => {}
                }
            }
            got
        };
        tokio::join!(send, receive).1
    };
    let (served, got) = tokio::join!(server, client);
    served.unwrap();
    got
}

/// Speaks SPDY through the tunnel, as an old kubectl does; answers stdout.
async fn spdy(fixture: &Fixture, id: &str, script: &str, input: &[u8]) -> Vec<u8> {
    let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
    let url = url(fixture, id, script, streams).await;
    let connected = connect(&url, &["v4.channel.k8s.io"]).await.unwrap();
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let tunnel = tokio::spawn(connected.tunnel(theirs));
    let mut encoder = Encoder::default();
    for (number, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        ours.write_all(&encoder.open(number, &[("streamtype", kind)])).await.unwrap();
    }
    ours.write_all(&Encoder::data(3, true, input)).await.unwrap();
    let (mut decoder, mut buffer, mut out) = (Decoder::default(), BytesMut::new(), Vec::new());
    loop {
        while let Some(frame) = decoder.next(&mut buffer).unwrap() {
            if let Frame::Data { stream: 5, fin, data } = frame {
                out.extend_from_slice(&data);
                if fin {
                    drop(ours);
                    tunnel.await.unwrap();
                    return out;
                }
            }
        }
        assert_ne!(ours.read_buf(&mut buffer).await.unwrap(), 0, "the tunnel ended early");
    }
}
