//! systemd's readiness and watchdog protocol: datagrams to the socket in `NOTIFY_SOCKET` (`sd_notify(3)`).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tells systemd, where it listens, that the service has reached a state such as `READY=1`.
pub(crate) fn notify(state: &str) {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&path, state) {
        tracing::warn!(%error, socket = path, "systemd cannot be told our state");
    }
}

fn send(path: &str, state: &str) -> std::io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Keeps systemd's watchdog content while this process's runtime turns, where the unit asks for one.
pub(crate) fn watchdog(tasks: &TaskTracker, shutdown: CancellationToken) {
    let Some(limit) = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    let mut tick = tokio::time::interval(Duration::from_micros(limit / 2).max(Duration::from_millis(100)));
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => notify("WATCHDOG=1"),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_arrives_as_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), "READY=1").unwrap();
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
