//! Bytes passed both ways between a client and a backend, such as kubectl and a container runtime.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const BUFFER: usize = 32 << 10;
/// How long a client may take to hang up once its backend has.
pub const LINGER: Duration = Duration::from_secs(10);

/// Passes bytes until both sides have ended, or the client is gone, or the backend is and [`LINGER`] has passed.
///
/// What the backend said reaches the client, however the backend ended: it may take nothing more while its answer is still on
/// its way (`yes | kubectl exec -i POD -- head -c 6`), and a client that is cut off while it sends loses what it has not read.
pub async fn relay(client: impl AsyncRead + AsyncWrite, backend: impl AsyncRead + AsyncWrite) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_backend, to_backend) = tokio::io::split(backend);
    let mut up = pin!(pass(from_client, to_backend, Taken::OrDropped));
    let mut down = pin!(pass(from_backend, to_client, Taken::OrOver));
    tokio::select! {
        () = &mut up => down.await,
        () = &mut down => drop(tokio::time::timeout(LINGER, up).await),
    }
}

/// What becomes of bytes that nobody takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    OrDropped,
    OrOver,
}

/// Passes bytes one way until they end, and tells the other side of that end.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, wanted: Taken) {
    let mut buffer = vec![0; BUFFER];
    let mut open = true;
    loop {
        let read = match from.read(&mut buffer).await {
            // A side that breaks off has said what it had to say, too.
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        open = open && to.write_all(&buffer[..read]).await.is_ok() && to.flush().await.is_ok();
        if !open && wanted == Taken::OrOver {
            return;
        }
    }
    // The other side may be gone by now.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    /// A relay at work: the client's end, the backend's, and the task.
    fn relayed() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<()>) {
        let (client, ours) = duplex(64);
        let (backend, theirs) = duplex(64);
        (client, backend, tokio::spawn(relay(ours, theirs)))
    }

    async fn said(side: &mut DuplexStream) -> String {
        let mut all = String::new();
        side.read_to_string(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn ends_are_passed_on() {
        let (mut client, mut backend, relay) = relayed();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(said(&mut backend).await, "question");
        backend.write_all(b"answer").await.unwrap();
        drop(backend);
        assert_eq!(said(&mut client).await, "answer");
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn a_backend_that_takes_nothing_more_is_heard_to_the_end() {
        let (mut words, backend) = duplex(1 << 20);
        words.write_all(&[b'x'; 100_000]).await.unwrap();
        drop(words);
        let (mut client, ours) = duplex(64);
        let relay = tokio::spawn(relay(ours, Closed(backend)));
        client.write_all(b"more").await.unwrap();
        assert_eq!(said(&mut client).await.len(), 100_000);
        client.write_all(b"and more").await.unwrap();
        drop(client);
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_client_it_is_over() {
        let (client, mut backend, relay) = relayed();
        drop(client);
        assert_eq!(said(&mut backend).await, "");
        let _ = backend.write_all(&[0; 1000]).await;
        relay.await.unwrap();
    }

    /// Can be read but not written to.
    struct Closed(DuplexStream);

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            self.poll_flush(cx)
        }
    }
}
