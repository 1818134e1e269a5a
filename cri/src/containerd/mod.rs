//! Our own containerd: configured, started, adopted, kept running.
//!
//! containerd, its shims and the pods outlive us: it has a session, a log and (where given) control groups of its own,
//! and whoever starts next adopts it by pid file and pidfd. It ends only by [`Containerd::stop`].

mod config;
mod process;
mod proxy;
mod registries;
mod spawn;
mod supervise;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Version;
pub use proxy::ProxyEnv;
pub use registries::{Mirror, Registries, RegistriesError, RegistryAuth, RegistryConfig, RegistryTls, registry_of};

use crate::endpoint::{EndpointError, check_socket_path};
use config::Paths;

/// How to run containerd.
#[derive(Debug, Clone)]
pub struct ContainerdConfig {
    /// keelson's data directory; containerd's own is `containerd` below it.
    pub data_dir: PathBuf,
    /// The program: a path, or a name to be found in PATH.
    pub binary: PathBuf,
    /// The image of sandboxes; the embedded pause unless changed.
    pub sandbox_image: String,
    /// Where CNI plug-ins are.
    pub cni_bin_dir: PathBuf,
    /// Where CNI configurations are.
    pub cni_conf_dir: PathBuf,
    /// The cgroup driver: systemd rather than cgroupfs.
    pub systemd_cgroup: bool,
    /// Directories of a control group for containerd itself, one a hierarchy, made where missing. Empty: it stays in ours.
    pub cgroup_dirs: Vec<PathBuf>,
    /// Mirrors, credentials, certificates.
    pub registries: Registries,
    /// Proxies for pulls.
    pub proxy: ProxyEnv,
    /// containerd's log level.
    pub log_level: String,
}

impl ContainerdConfig {
    /// The usual settings below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        ContainerdConfig {
            binary: "containerd".into(),
            sandbox_image: crate::images::PAUSE_IMAGE.into(),
            cni_bin_dir: data_dir.join("cni/bin"),
            cni_conf_dir: data_dir.join("cni/conf"),
            systemd_cgroup: false,
            cgroup_dirs: Vec::new(),
            registries: Registries::default(),
            proxy: ProxyEnv::default(),
            log_level: "warn".into(),
            data_dir,
        }
    }
}

/// Why containerd does not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// The program is not there or does not start.
    #[error("run {binary} (is containerd installed?)")]
    Binary {
        /// The program.
        binary: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to run containers with.
    #[error("neither runc nor crun is in {path}: install one of them")]
    NoOciRuntime {
        /// The PATH that was searched.
        path: String,
    },
    /// `containerd --version` said something else.
    #[error("{binary} --version answered {output:?}, which is no containerd release")]
    UnknownVersion {
        /// The program.
        binary: PathBuf,
        /// What it said.
        output: String,
    },
    /// Older than what is supported.
    #[error("{binary} is containerd {version}; 1.6 or newer is needed")]
    TooOld {
        /// The program.
        binary: PathBuf,
        /// Its release.
        version: Version,
    },
    /// A file cannot be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The socket's path is not usable.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Somebody else listens on our socket.
    #[error("{socket} belongs to process {pid}, which keelson did not start: end it or choose another data directory")]
    SocketTaken {
        /// The socket.
        socket: PathBuf,
        /// Its owner.
        pid: i32,
    },
    /// It ended before it was ready.
    #[error("containerd ended before it was ready ({status}); last of {log}:\n{tail}")]
    Died {
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of the log.
        tail: String,
    },
    /// It runs but does not answer.
    #[error("containerd (pid {pid}) did not become ready in {seconds} s: {reason}; see {log}")]
    NotReady {
        /// The process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
        /// What it answered last.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The sandbox image cannot be brought in.
    #[error("import the sandbox image: {0}")]
    Pause(#[from] crate::images::ImportError),
    /// It cannot be signalled.
    #[error("end containerd (pid {pid}): {source}")]
    Signal {
        /// The process.
        pid: i32,
        /// Why not.
        source: std::io::Error,
    },
}

impl ContainerdError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ContainerdError {
        let path = path.to_owned();
        move |source| ContainerdError::Io { action, path, source }
    }
}

/// What supervision tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// This process serves.
    Running {
        /// The process.
        pid: i32,
    },
    /// It ended and is being started again.
    Down,
    /// It was stopped for good.
    Stopped,
}

/// Our containerd. Dropping this leaves it running.
#[derive(Debug, Clone)]
pub struct Containerd {
    endpoint: String,
    version: Version,
    adopted: bool,
    state: watch::Receiver<State>,
    stop: CancellationToken,
}

impl Containerd {
    /// Adopts the containerd that a former keelson started with the same settings, restarts one with other settings,
    /// starts one where none runs; then keeps it running until `shutdown`, which leaves it running.
    ///
    /// On return CRI answers and the sandbox image is there.
    pub async fn start_or_adopt(
        config: ContainerdConfig,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Containerd, ContainerdError> {
        let paths = Paths::new(&config.data_dir);
        check_socket_path(&paths.socket)?;
        let version = spawn::version(&config.binary).await?;
        version.check(&config.binary)?;
        let plan = spawn::Plan::prepare(config, paths, version)?;
        let endpoint = format!("unix://{}", plan.paths.socket.display());
        let (running, adopted) = spawn::adopt_or_start(&plan).await?;
        if plan.config.sandbox_image == crate::images::PAUSE_IMAGE {
            crate::images::import_pause(&endpoint).await?;
        }
        let (sender, state) = watch::channel(State::Running { pid: running.pid() });
        let stop = CancellationToken::new();
        let kept = supervise::Kept { plan, running, state: sender, stop: stop.clone(), shutdown: shutdown.clone() };
        ::supervise::spawn("containerd", tasks, &shutdown, kept, |kept| Box::pin(supervise::supervise(kept)));
        Ok(Containerd { endpoint, version, adopted, state, stop })
    }

    /// Where CRI and containerd's own API answer: `unix://…`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it ran before us.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Changes whenever containerd ends or is up again.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends containerd (not the containers) for good. Remove the pods first: nobody else will.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut state = self.state.clone();
        // The sender is gone if supervision ended by shutdown before: then containerd runs on, as documented there.
        let _ = state.wait_for(|state| *state == State::Stopped).await;
    }
}

/// How long containerd may take to answer: it walks all containers before it does.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take to end.
const TERM_GRACE: Duration = Duration::from_secs(15);
