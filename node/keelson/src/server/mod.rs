//! `keelson server`: control plane and node in one process.
//!
//! The order of the start is what the time to the first running pod depends on: containerd takes longest, so it is
//! started first and waited for last.

mod control;
mod lock;
mod manifests;
mod node;
mod notify;
mod settings;

use anyhow::{Context, ensure};
pub(crate) use settings::Settings;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the parts may take to end after SIGTERM.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Runs until SIGTERM or SIGINT. Containers, containerd, eBPF programs and cluster DNS go on.
pub(crate) fn run(mut settings: Settings) -> anyhow::Result<()> {
    crate::logging::init(&settings.args.log);
    ensure!(
        settings.args.no_node || nix::unistd::geteuid().is_root(),
        "a node must be run as root; --no-node runs the control plane alone"
    );
    make_directories(settings.data_dir())?;
    // The kernel's table of mounts knows no symbolic links.
    settings.args.data_dir = settings.data_dir().canonicalize().context("--data-dir")?;
    let _data_dir = lock::take(settings.data_dir())?;
    let _network = if settings.args.no_node { None } else { Some(lock::take_network(lock::NODE)?) };
    install_crypto_provider()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let begun = Instant::now();
    let shutdown = shutdown_on_signal()?;
    let tasks = TaskTracker::new();
    let store = control::open_store(&settings)?;
    let outcome = tokio::select! {
        started = start(&settings, store.clone(), &tasks, &shutdown) => started,
        () = shutdown.cancelled() => Ok(()),
    };
    if outcome.is_ok() && !shutdown.is_cancelled() {
        tracing::info!(took = ?begun.elapsed(), "started");
        notify::notify("READY=1");
        notify::watchdog(&tasks, shutdown.clone());
        shutdown.cancelled().await;
    }
    shutdown.cancel();
    notify::notify("STOPPING=1");
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!(remaining = tasks.len(), "tasks did not end in time; leaving them");
    }
    store.close().await;
    tracing::info!("stopped; containers go on");
    outcome
}

async fn start(
    settings: &Settings,
    store: Arc<dyn Store>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let runtime = async {
        if settings.args.no_node { Ok(None) } else { node::start_runtime(settings, tasks, shutdown).await.map(Some) }
    };
    let control = control::start(settings, store, tasks, shutdown);
    // Side by side: neither needs the other until the kubelet starts.
    let (control, runtime) = tokio::try_join!(control, runtime)?;
    if let Some(runtime) = runtime {
        node::start(settings, &control, runtime, tasks, shutdown).await?;
    }
    Ok(())
}

/// A token that SIGTERM and SIGINT cancel.
pub(crate) fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // Ends with the process: it is what ends all others.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// The one crypto provider of the process, before anything speaks TLS.
pub(crate) fn install_crypto_provider() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a crypto provider is installed already"))
}

fn make_directories(data_dir: &Path) -> anyhow::Result<()> {
    for (below, mode) in [("", 0o700), ("run", 0o700), ("db", 0o700), ("images", 0o755), ("manifests", 0o700)] {
        let path = data_dir.join(below);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
            .with_context(|| {
                format!("{}: cannot be made; give a --data-dir on a writable file system", path.display())
            })?;
    }
    Ok(())
}
