//! gRPC probes: `grpc.health.v1.Health/Check`, whose two messages are small enough to write here.

use tonic::transport::Endpoint;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Asks once.
pub(crate) async fn check(target: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|e| e.to_string())?;
    let unreachable = |error: &dyn std::fmt::Display| format!("timeout: failed to connect service {target:?}: {error}");
    let channel = endpoint.connect().await.map_err(|e| unreachable(&e))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| unreachable(&e))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    match client.unary(request, path, codec).await {
        Ok(answer) if answer.get_ref().status == SERVING => Ok(()),
        Ok(answer) => {
            let said = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"].get(answer.get_ref().status as usize);
            Err(format!("service unhealthy (responded with {:?})", said.unwrap_or(&"?")))
        }
        Err(status) if status.code() == tonic::Code::Unimplemented => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Err(format!("error: health rpc probe failed: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    // HTTP/2, as much of it as one answer takes.
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn header(name: &str, value: &str) -> Vec<u8> {
        let part = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        [vec![0], part(name), part(value)].concat()
    }

    /// Answers one request: with a message of this status, or with a code alone.
    async fn serve(mut stream: TcpStream, status: Option<u8>, code: &str) {
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap(),
                (DATA, flags) => {
                    if !payload.is_empty() {
                        assert_eq!(payload, b"\0\0\0\0\x03\x0a\x01s", "the service's name");
                    }
                    if flags & END_STREAM != 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
        let first = [vec![0x88], header("content-type", "application/grpc")].concat();
        let last = header("grpc-status", code);
        let answer = match status {
            Some(status) => [
                frame(HEADERS, END_HEADERS, 1, &first),
                frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 8, status]),
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &last),
            ]
            .concat(),
            None => frame(HEADERS, END_STREAM | END_HEADERS, 1, &[first, last].concat()),
        };
        stream.write_all(&answer).await.unwrap();
        // Until the client leaves.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    #[tokio::test]
    async fn what_a_server_says_of_its_health() {
        for (status, code, expected) in [
            (Some(1), "0", Ok(())),
            (Some(2), "0", Err("service unhealthy (responded with \"NOT_SERVING\")")),
            (None, "12", Err("error: this server does not implement the grpc health protocol")),
            (None, "5", Err("error: health rpc probe failed: ")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap().to_string();
            let server = async { serve(listener.accept().await.unwrap().0, status, code).await };
            let ((), got) = tokio::join!(server, check(&target, "s"));
            match expected {
                Ok(()) => assert_eq!(got, Ok(())),
                Err(words) => assert!(got.as_ref().is_err_and(|e| e.starts_with(words)), "{status:?} {code}: {got:?}"),
            }
        }
        let closed = check("127.0.0.1:1", "").await.unwrap_err();
        assert!(closed.starts_with("timeout: failed to connect service \"127.0.0.1:1\""), "{closed}");
    }
}
