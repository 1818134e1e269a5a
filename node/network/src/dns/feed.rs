//! How the supervisor tells the DNS process what the cluster's Services are: one JSON update a line over a unix socket,
//! each acknowledged once it is in effect.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::zone::{Services, Update, Zone};
use crate::{NetworkError, files};

/// The largest update: a snapshot of far more Services than a cluster has.
const MAX_UPDATE: u64 = 256 << 20;
/// What acknowledges an update.
const DONE: &[u8] = b"done\n";

/// How long changes are collected before they are kept.
const COLLECT: Duration = Duration::from_secs(1);

/// The DNS process's end: takes updates of one supervisor after the other.
pub(super) async fn receive(
    listener: &UnixListener,
    zone: &RwLock<Zone>,
    changed: &Notify,
    shutdown: &CancellationToken,
) {
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take the feed of Services");
                tokio::time::sleep(supervise::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(stream, zone, changed);
        match shutdown.run_until_cancelled(connection).await {
            Some(Err(error)) => tracing::warn!(%error, "the feed of Services broke"),
            Some(Ok(())) => tracing::info!("the feed of Services ended; answering from what is known"),
            None => return,
        }
    }
}

async fn connection(stream: UnixStream, zone: &RwLock<Zone>, changed: &Notify) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_UPDATE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let update: Update = serde_json::from_slice(&line)?;
        if matches!(update, Update::Snapshot(_)) {
            line = Vec::new(); // a large buffer that will not be needed again
        }
        zone.write().unwrap_or_else(PoisonError::into_inner).apply(update);
        changed.notify_one();
        write.write_all(DONE).await?;
    }
}

/// Keeps what is known in a file, so that a DNS process that starts while the supervisor is away can answer.
pub(super) async fn keep(
    zone: &Arc<RwLock<Zone>>,
    path: &std::path::Path,
    changed: &Notify,
    shutdown: &CancellationToken,
) {
    while shutdown.run_until_cancelled(changed.notified()).await.is_some() {
        let (zone, path) = (zone.clone(), path.to_owned());
        // Everything is written each time: what changes within a moment is written at once.
        let _ = shutdown.run_until_cancelled(tokio::time::sleep(COLLECT)).await;
        let write = move || {
            let text = serde_json::to_vec(zone.read().unwrap_or_else(PoisonError::into_inner).services());
            let text = text.map_err(|source| NetworkError::Malformed { path: path.clone(), source })?;
            files::replace(&path, &text)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "Services are not kept for a restart");
            }
            Err(error) => tracing::error!(%error, "Services are not kept for a restart"),
            Ok(Ok(())) => {}
        }
    }
}

/// What [`keep`] kept. A file that cannot be used is left out: the feed brings everything again.
pub(super) fn kept(path: &std::path::Path) -> Services {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "kept Services cannot be read");
            Services::new()
        }),
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "no kept Services");
            Services::new()
        }
    }
}

/// The supervisor's end.
pub(super) struct Feeder {
    stream: BufReader<UnixStream>,
}

impl Feeder {
    /// Connects to a DNS process.
    pub(super) async fn connect(path: &std::path::Path) -> std::io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path).await?) })
    }

    /// Sends an update and waits until it is in effect.
    pub(super) async fn send(&mut self, update: &Update) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(update)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await?;
        let mut done = Vec::new();
        (&mut self.stream).take(64).read_until(b'\n', &mut done).await?;
        if done == DONE { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
}
