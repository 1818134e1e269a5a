//! A cluster of one node in its own network namespace.

use crate::kubectl::Kubectl;
use crate::namespace::Namespace;
use crate::process::{self, Child, wait_readable};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a server may take to come up before the test fails. No measure of speed.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Free space of the disk, in percent. A kubelet takes no pods below ten: without this, they would stay Pending.
const DISK_NEEDED: u64 = 12;
/// Where clusters keep their data.
const HOME: &str = "/tmp";
/// Before each cluster's name: names are how leftovers are found.
const PREFIX: &str = "kst";
/// The node's and the outside's address on the link between them.
const NODE_IP: &str = "10.89.0.2";
const OUTSIDE_IP: &str = "10.89.0.1";

/// What a test may want different.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Further flags of `keelson server`.
    pub flags: Vec<String>,
    /// Image archives to import at start, beside the built-in ones.
    pub images: Vec<PathBuf>,
}

/// A running cluster; removed with every trace when dropped.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    data_dir: PathBuf,
    node: Option<Namespace>,
    outside: Option<Namespace>,
    server: Option<Child>,
    options: ClusterOptions,
}

impl Cluster {
    /// Founds a cluster and waits until its node is Ready.
    ///
    /// # Errors
    /// What failed, with the end of the server's log.
    pub fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.start_server()?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Makes the namespaces and directories, without a server.
    ///
    /// # Errors
    /// What failed.
    pub fn prepare(options: ClusterOptions) -> anyhow::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let disk = nix::sys::statvfs::statvfs(HOME)?;
        enough_room(disk.blocks_available(), disk.blocks())?;
        // Short: unix socket paths end at 108 bytes, interface names at 15.
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let data_dir = PathBuf::from(HOME).join(&name);
        std::fs::create_dir_all(data_dir.join("images"))?;
        let mut cluster = Self { name, data_dir, node: None, outside: None, server: None, options };
        cluster.new_network()?;
        for archive in &cluster.options.images {
            let file = archive.file_name().context("an image archive has a name")?;
            std::fs::copy(archive, cluster.data_dir.join("images").join(file))
                .with_context(|| format!("{}: run `cargo xtask image`", archive.display()))?;
        }
        Ok(cluster)
    }

    /// Makes the network namespaces; what is in their way goes.
    pub(crate) fn new_network(&mut self) -> anyhow::Result<()> {
        (self.node, self.outside) = (None, None);
        let node = Namespace::new(&self.name)?;
        let outside = Namespace::new(&format!("{}-ext", self.name))?;
        node.join(&format!("{NODE_IP}/24"), &outside, &format!("{OUTSIDE_IP}/24"))?;
        node.ip(&["route", "add", "default", "via", OUTSIDE_IP])?;
        (self.node, self.outside) = (Some(node), Some(outside));
        Ok(())
    }

    /// Starts the server and waits until it says that it is up.
    ///
    /// # Errors
    /// It ended or took too long; the message has the end of its log.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let notify = self.data_dir.join("notify");
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.server_command();
        command.env("NOTIFY_SOCKET", &notify).stdout(log.try_clone()?).stderr(log);
        let mut child = Child::spawn(&mut command)?;
        if !wait_readable(socket.as_fd(), START_LIMIT)? {
            bail!("the server is not up after {START_LIMIT:?}:\n{}", self.log_end());
        }
        let mut state = [0; 64];
        let length = socket.recv(&mut state)?;
        if &state[..length] != b"READY=1" {
            let status = child.wait(STOP_LIMIT)?;
            bail!("the server ended with {status}:\n{}", self.log_end());
        }
        self.server = Some(child);
        Ok(())
    }

    /// The command that runs the server in the node's namespace.
    pub fn server_command(&self) -> Command {
        let mut command = self.node().command(binary());
        command
            .args(["server", "--node-name", &self.name, "--node-ip", NODE_IP, "--cgroup-root", &self.cgroup_root()])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--config", "/dev/null", "-v"])
            .args(&self.options.flags);
        command
    }

    /// Another command of the program under test, in the node's namespace.
    pub fn keelson(&self, args: &[&str]) -> Command {
        let mut command = self.node().command(binary());
        command.args(args);
        command
    }

    /// Waits until the node is Ready.
    ///
    /// # Errors
    /// The deadline passed.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        // Not kubectl, which does not wait for a node that is not there yet.
        let mut ready = self.keelson(&["await", "--timeout=90", "--kubeconfig"]);
        process::output(ready.arg(self.data_dir.join("kubeconfig")))
            .with_context(|| format!("the node is not Ready:\n{}", self.log_end()))?;
        let kubectl = self.kubectl();
        kubectl.wait("serviceaccount/default", "jsonpath={.metadata.uid}").or_else(|_| {
            // kubectl 1.27 cannot wait for a path without a value; the account exists within moments of the namespace.
            kubectl.run(&["get", "serviceaccount", "default"]).map(drop)
        })
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.node(), &self.data_dir.join("kubeconfig"))
    }

    /// The node's network namespace.
    pub fn node(&self) -> &Namespace {
        self.node.as_ref().expect("made by prepare()")
    }

    /// The namespace that plays the world outside of the cluster.
    pub fn outside(&self) -> &Namespace {
        self.outside.as_ref().expect("made by prepare()")
    }

    /// The name of the cluster, which is its node's too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's address.
    pub fn node_ip(&self) -> &'static str {
        NODE_IP
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The control group below which this node's pods run.
    pub fn cgroup_root(&self) -> String {
        format!("/{}", self.name)
    }

    /// The cgroup2 directory of the node, below which sockets are translated.
    pub fn cgroup2_dir(&self) -> PathBuf {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
        root.join(&self.name)
    }

    /// A command on the node itself, in its network and its control group: what a host process of that machine would see.
    pub fn host_command(&self, program: &str) -> Command {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.cgroup2_dir().display());
        let mut command = self.node().command("sh");
        command.args(["-c", &enter, "sh", program]);
        command
    }

    /// The server's process id.
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Stops the server as systemd would; containers go on.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn stop_server(&mut self) -> anyhow::Result<ExitStatus> {
        self.end_server(Signal::SIGTERM)
    }

    /// Kills the server without warning.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn kill_server(&mut self) -> anyhow::Result<ExitStatus> {
        self.end_server(Signal::SIGKILL)
    }

    fn end_server(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        let mut server = self.server.take().context("no server runs")?;
        server.signal(signal);
        server.wait(STOP_LIMIT)
    }

    /// The server's log.
    pub fn log_path(&self) -> PathBuf {
        self.data_dir.join("keelson.log")
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_log(self);
        }
        if self.server.is_some() {
            let _ = self.stop_server();
        }
        let removed = process::output(
            self.node().command(binary()).args(["uninstall", "--yes", "--data-dir"]).arg(&self.data_dir),
        );
        if let Err(error) = removed {
            eprintln!("cluster {} stays behind: {error:#}", self.name);
        }
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}

/// A failed test's log outlives its cluster, where the report can point at it.
fn keep_log(cluster: &Cluster) {
    let kept = std::env::temp_dir().join(format!("keelson-{}.log", cluster.name));
    match std::fs::copy(cluster.log_path(), &kept) {
        Ok(_) => eprintln!("the server's log is kept in {}\n{}", kept.display(), cluster.log_end()),
        Err(error) => eprintln!("the server's log cannot be kept: {error}"),
    }
}

/// The program under test: `KEELSON_BIN`, else the one that cargo built beside the test.
///
/// # Panics
/// A running program has no path.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("KEELSON_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    test.ancestors()
        .find(|dir| dir.join("keelson").is_file())
        .map_or_else(|| "keelson".into(), |dir| dir.join("keelson"))
}

/// Removes what clusters of processes that are gone left behind.
///
/// # Errors
/// The directory of network namespaces cannot be read.
pub fn sweep() -> anyhow::Result<()> {
    let leftovers = std::fs::read_dir(HOME)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    for name in leftovers {
        eprintln!("sweeping what cluster {name} left behind");
        let data_dir = Path::new(HOME).join(&name);
        let netns = Path::new("/run/netns").join(&name);
        let mut command = Command::new("nsenter");
        if netns.exists() {
            command.arg(format!("--net={}", netns.display()));
        }
        command.arg("--").arg(binary()).args(["uninstall", "--yes", "--data-dir"]).arg(&data_dir);
        if let Err(error) = process::output(&mut command) {
            eprintln!("{name}: {error:#}");
        }
        for namespace in [name.clone(), format!("{name}-ext")] {
            let _ = process::output(Command::new("ip").args(["netns", "delete", &namespace]));
        }
        let _ = std::fs::remove_dir_all(data_dir);
    }
    Ok(())
}

fn enough_room(free: u64, size: u64) -> anyhow::Result<()> {
    let percent = free * 100 / size.max(1);
    if percent < DISK_NEEDED {
        bail!(
            "{HOME}: {percent} % of the disk is free; a node takes no pods below 10 %, and tests need {DISK_NEEDED} %"
        );
    }
    Ok(())
}

/// The process that made a cluster of this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{enough_room, owner};

    #[test]
    fn a_name_tells_its_owner() {
        assert_eq!(owner("kst123-0"), Some(123));
        assert_eq!(owner("kst-0"), None);
        assert_eq!(owner("other"), None);
    }

    #[test]
    fn a_full_disk_is_said_at_once() {
        enough_room(12, 100).unwrap();
        let error = enough_room(119, 1000).unwrap_err().to_string();
        assert!(error.starts_with("/tmp: 11 % of the disk is free"), "{error}");
        enough_room(0, 0).unwrap_err();
    }
}
