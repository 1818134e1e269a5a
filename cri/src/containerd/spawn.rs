//! Finding, starting and awaiting the process.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::{UnixDatagram, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::config::{self, Paths, Version};
use super::process::{self, Process};
use super::{ContainerdConfig, ContainerdError, READY_WITHIN, TERM_GRACE};
use crate::Runtime;

/// Beyond this the log is set aside when containerd starts.
const LOG_MAX: u64 = 16 << 20;
/// How often a containerd that says it is ready is asked whether CRI is, too; it tells nobody.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Everything decided before containerd is touched.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: ContainerdConfig,
    pub(super) paths: Paths,
    /// Of everything a running containerd would have to be restarted for.
    fingerprint: String,
}

/// A containerd that serves.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
    /// Set where it is our child and has to be reaped.
    child: Option<Child>,
}

impl Running {
    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits for its end and says how it ended.
    pub(super) async fn exited(&mut self) -> String {
        self.process.exited().await;
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "it was not our child".into(),
        }
    }

    pub(super) async fn terminate(&mut self) -> Result<(), ContainerdError> {
        let pid = self.pid();
        self.process.terminate(TERM_GRACE).await.map_err(|source| ContainerdError::Signal { pid, source })?;
        self.exited().await;
        Ok(())
    }
}

/// Asks the program for its release.
pub(super) async fn version(binary: &Path) -> Result<Version, ContainerdError> {
    let output = tokio::process::Command::new(binary)
        .arg("--version")
        .output()
        .await
        .map_err(|source| ContainerdError::Binary { binary: binary.to_owned(), source })?;
    let output = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Version::parse(&output).ok_or_else(|| ContainerdError::UnknownVersion { binary: binary.to_owned(), output })
}

impl Plan {
    /// Makes directories and files.
    pub(super) fn prepare(config: ContainerdConfig, paths: Paths, version: Version) -> Result<Plan, ContainerdError> {
        for (dir, mode) in [(&paths.dir, 0o711), (&paths.root, 0o711), (&paths.state, 0o711), (&paths.runc, 0o700)] {
            fs::create_dir_all(dir).map_err(ContainerdError::io("create", dir))?;
            fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(ContainerdError::io("chmod", dir))?;
        }
        for dir in [&config.cni_bin_dir, &config.cni_conf_dir] {
            fs::create_dir_all(dir).map_err(ContainerdError::io("create", dir))?;
        }
        let text = config::render(&config, &paths, version, oci_runtime(&search_path())?, has_cap_sys_resource());
        write_if_changed(&paths.config, &text)?;
        write_hosts(&config, &paths)?;
        let mut hasher = DefaultHasher::new();
        (&text, config.proxy.variables(), version.to_string()).hash(&mut hasher);
        Ok(Plan { fingerprint: format!("{:016x}", hasher.finish()), config, paths })
    }

    fn config_argument(&self) -> String {
        self.paths.config.to_string_lossy().into_owned()
    }
}

/// Where programs are looked for, by us and by containerd.
fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
}

/// What containers are run with: runc, or crun where that alone is installed, as on distributions that come with podman.
fn oci_runtime(search: &OsStr) -> Result<&'static str, ContainerdError> {
    ["runc", "crun"]
        .into_iter()
        .find(|name| std::env::split_paths(search).any(|dir| dir.join(name).is_file()))
        .ok_or_else(|| ContainerdError::NoOciRuntime { path: search.to_string_lossy().into_owned() })
}

/// CAP_SYS_RESOURCE (24) among the effective capabilities: without it no process may lower its oom_score_adj.
fn has_cap_sys_resource() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|mask| mask & (1 << 24) != 0)
}

fn write_if_changed(path: &Path, text: &str) -> Result<(), ContainerdError> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    // Mirrors' credentials may be in here.
    let part = path.with_extension("part");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&part, path))
        .map_err(ContainerdError::io("write", path))
}

/// certs.d as registries.yaml has it now. containerd reads it with each pull: no restart for this.
fn write_hosts(config: &ContainerdConfig, paths: &Paths) -> Result<(), ContainerdError> {
    let hosts = config.registries.hosts();
    let certs = &paths.certs;
    fs::create_dir_all(certs).map_err(ContainerdError::io("create", certs))?;
    for entry in fs::read_dir(certs).map_err(ContainerdError::io("list", certs))? {
        let entry = entry.map_err(ContainerdError::io("list", certs))?;
        if !entry.file_name().to_str().is_some_and(|name| hosts.contains_key(name)) {
            fs::remove_dir_all(entry.path()).map_err(ContainerdError::io("remove", &entry.path()))?;
        }
    }
    for (name, text) in hosts {
        let dir = certs.join(name);
        fs::create_dir_all(&dir).map_err(ContainerdError::io("create", &dir))?;
        write_if_changed(&dir.join("hosts.toml"), &text)?;
    }
    Ok(())
}

/// A containerd that serves, and whether it ran before.
pub(super) async fn adopt_or_start(plan: &Plan) -> Result<(Running, bool), ContainerdError> {
    if let Some((process, fingerprint)) = find(plan).await? {
        let mut running = Running { process, child: None };
        if fingerprint.as_deref() == Some(&plan.fingerprint) {
            await_cri(plan, &mut running, Instant::now() + READY_WITHIN).await?;
            tracing::info!(pid = running.pid(), "adopted containerd");
            return Ok((running, true));
        }
        tracing::info!(pid = running.pid(), "containerd runs with other settings and is restarted");
        running.terminate().await?;
    } else {
        forget_former_boot(&plan.paths, &boot_id())?;
    }
    Ok((start(plan).await?, false))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Removes what was kept of tasks that ended with the boot they ran in, as the tmpfs does that containerd and runc expect it
/// in. After a power cut half of it is blank, and runc never lets go of a container whose state it cannot read.
fn forget_former_boot(paths: &Paths, boot: &str) -> Result<(), ContainerdError> {
    let Ok(note) = fs::read_to_string(&paths.pid) else { return Ok(()) };
    let same = match note.lines().nth(3) {
        Some(noted) => noted == boot,
        // Whole without a boot: by a version whose containers may still run. Else it lost its text with the power.
        None => note.lines().nth(2).is_some(),
    };
    if same {
        return Ok(());
    }
    for dir in [&paths.state, &paths.runc] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ContainerdError::io("remove", dir)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes what a containerd was removing when it was killed: it renames a task's directory to `.ID` first, and none that
/// comes after it looks at that again.
fn finish_removals(state: &Path) {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for bundle in below(state.join("io.containerd.runtime.v2.task")).flat_map(below) {
        let hidden = bundle.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // The container's root was unmounted and removed before; where it was not, there may be a file system in it.
        if hidden
            && !bundle.join("rootfs").exists()
            && let Err(error) = fs::remove_dir_all(&bundle)
        {
            tracing::warn!(bundle = %bundle.display(), %error, "what is left of a task cannot be removed");
        }
    }
}

/// The containerd of this data directory, if it runs, with the fingerprint it was started with.
async fn find(plan: &Plan) -> Result<Option<(Process, Option<String>)>, ContainerdError> {
    let argument = plan.config_argument();
    let file = fs::read_to_string(&plan.paths.pid).unwrap_or_default();
    let mut lines = file.lines();
    let noted = (|| Some((lines.next()?.parse::<i32>().ok()?, lines.next()?.parse::<u64>().ok()?, lines.next()?)))();
    if let Some((pid, start_time, fingerprint)) = noted
        && let Ok(process) = Process::open(pid)
        && process.start_time() == start_time
        && process::has_argument(pid, &argument)
    {
        return Ok(Some((process, Some(fingerprint.to_owned()))));
    }
    // No use in the pid file. If the socket answers all the same, its owner is either ours or in the way.
    let Ok(stream) = UnixStream::connect(&plan.paths.socket).await else { return Ok(None) };
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
    match Process::open(pid) {
        Ok(process) if process::has_argument(pid, &argument) => Ok(Some((process, None))),
        _ => Err(ContainerdError::SocketTaken { socket: plan.paths.socket.clone(), pid }),
    }
}

/// Starts containerd and waits until CRI answers.
pub(super) async fn start(plan: &Plan) -> Result<Running, ContainerdError> {
    let deadline = Instant::now() + READY_WITHIN;
    finish_removals(&plan.paths.state);
    let notify = notify_socket(&plan.paths)?;
    let mut child = spawn(plan)?;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(source) => {
            let _ = child.kill();
            return Err(ContainerdError::Signal { pid, source });
        }
    };
    let note = format!("{pid}\n{}\n{}\n{}\n", process.start_time(), plan.fingerprint, boot_id());
    write_if_changed(&plan.paths.pid, &note)?;
    join_cgroups(plan, pid);
    let mut running = Running { process, child: Some(child) };
    let ready = match await_notify(plan, &mut running, &notify, deadline).await {
        Ok(()) => await_cri(plan, &mut running, deadline).await,
        Err(error) => Err(error),
    };
    // Best effort; the next start removes it as well.
    let _ = fs::remove_file(&plan.paths.notify);
    if let Err(error) = ready {
        running.terminate().await?;
        return Err(error);
    }
    tracing::info!(pid, socket = %plan.paths.socket.display(), "containerd serves");
    Ok(running)
}

/// containerd says READY=1 here once it listens, as it would to systemd.
fn notify_socket(paths: &Paths) -> Result<UnixDatagram, ContainerdError> {
    match fs::remove_file(&paths.notify) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ContainerdError::io("remove", &paths.notify)(error));
        }
        _ => {}
    }
    UnixDatagram::bind(&paths.notify).map_err(ContainerdError::io("bind", &paths.notify))
}

fn spawn(plan: &Plan) -> Result<Child, ContainerdError> {
    let paths = &plan.paths;
    if fs::metadata(&paths.log).is_ok_and(|meta| meta.len() > LOG_MAX) {
        fs::rename(&paths.log, paths.log.with_extension("log.old"))
            .map_err(ContainerdError::io("rename", &paths.log))?;
    }
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&paths.log)
        .map_err(ContainerdError::io("open", &paths.log))?;
    let errors = log.try_clone().map_err(ContainerdError::io("open", &paths.log))?;
    let mut command = Command::new(&plan.config.binary);
    // A clean environment: our own NOTIFY_SOCKET, LISTEN_FDS and the like are not containerd's.
    command
        .arg("--config")
        .arg(&paths.config)
        .env_clear()
        .env("PATH", search_path())
        .env("NOTIFY_SOCKET", &paths.notify)
        .envs(plan.config.proxy.variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    process::own_session(&mut command);
    command.spawn().map_err(|source| ContainerdError::Binary { binary: plan.config.binary.clone(), source })
}

/// Best effort: a containerd in our group works, it is only counted (and, by a careless supervisor, killed) with us.
fn join_cgroups(plan: &Plan, pid: i32) {
    for dir in &plan.config.cgroup_dirs {
        let joined = fs::create_dir_all(dir).and_then(|()| fs::write(dir.join("cgroup.procs"), pid.to_string()));
        if let Err(error) = joined {
            tracing::warn!(dir = %dir.display(), %error, "containerd cannot have this control group");
        }
    }
}

async fn await_notify(
    plan: &Plan,
    running: &mut Running,
    socket: &UnixDatagram,
    deadline: Instant,
) -> Result<(), ContainerdError> {
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            status = running.exited() => return Err(died(plan, status)),
            got = timeout_at(deadline, socket.recv(&mut buffer)) => match got {
                Ok(Ok(n)) if buffer[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1") => return Ok(()),
                Ok(Ok(_)) => {}
                Ok(Err(source)) => return Err(ContainerdError::io("receive from", &plan.paths.notify)(source)),
                Err(_) => return Err(not_ready(plan, running, "it never said READY=1".into())),
            },
        }
    }
}

/// CRI registers a moment after the socket listens.
async fn await_cri(plan: &Plan, running: &mut Running, deadline: Instant) -> Result<(), ContainerdError> {
    let runtime = Runtime::connect(&plan.paths.socket.to_string_lossy())?;
    let mut reason = String::new();
    let answer = async {
        let mut ticks = tokio::time::interval(ASK_EVERY);
        loop {
            ticks.tick().await;
            match runtime.status(false).await {
                Ok(_) => return true,
                // Its socket answers but this plug-in was not loaded: waiting does not help.
                Err(error) if error.is_unimplemented() => return false,
                Err(error) => reason = error.to_string(),
            }
        }
    };
    let ready = tokio::select! {
        status = running.exited() => return Err(died(plan, status)),
        ready = timeout_at(deadline, answer) => ready,
    };
    match ready {
        Ok(true) => Ok(()),
        Ok(false) => Err(died(plan, "it runs without its CRI plug-in".into())),
        Err(_) => Err(not_ready(plan, running, reason)),
    }
}

fn not_ready(plan: &Plan, running: &Running, reason: String) -> ContainerdError {
    let log = plan.paths.log.clone();
    ContainerdError::NotReady { pid: running.pid(), seconds: READY_WITHIN.as_secs(), reason, log }
}

fn died(plan: &Plan, status: String) -> ContainerdError {
    let text = fs::read(&plan.paths.log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(5)..].join("\n");
    ContainerdError::Died { status, log: plan.paths.log.clone(), tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_run_with_what_is_there() {
        let dirs = tempfile::tempdir().unwrap();
        for (name, programs, want) in
            [("none", &[][..], None), ("podman", &["crun"], Some("crun")), ("both", &["crun", "runc"], Some("runc"))]
        {
            let dir = dirs.path().join(name);
            fs::create_dir(&dir).unwrap();
            programs.iter().for_each(|program| fs::write(dir.join(program), "").unwrap());
            assert_eq!(oci_runtime(dir.as_os_str()).ok(), want, "{name}");
        }
    }

    #[test]
    fn removals_that_were_interrupted_are_finished() {
        let state = tempfile::tempdir().unwrap();
        let tasks = state.path().join("io.containerd.runtime.v2.task/k8s.io");
        let files = ["running/config.json", ".half/work", ".mounted/rootfs/etc"].map(|file| tasks.join(file));
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        finish_removals(state.path());
        finish_removals(&state.path().join("none"));
        assert_eq!(files.map(|file| file.exists()), [true, false, true]);
        assert!(!tasks.join(".half").exists());
    }

    #[test]
    fn what_a_former_boot_ran_is_forgotten() {
        for (note, kept) in [
            (None, true),
            (Some("7\n99\nsettings\nthis\n"), true),
            (Some("7\n99\nsettings\n"), true),
            (Some("7\n99\nsettings\nanother\n"), false),
            (Some(""), false),
            (Some("\0\0\0"), false),
        ] {
            let data = tempfile::tempdir().unwrap();
            let paths = Paths::new(data.path());
            let task = paths.state.join("io.containerd.runtime.v2.task/k8s.io/b0");
            let (container, image) = (paths.runc.join("k8s.io/b0"), paths.root.join("image"));
            for dir in [&task, &container, &image] {
                fs::create_dir_all(dir).unwrap();
            }
            if let Some(note) = note {
                fs::write(&paths.pid, note).unwrap();
            }
            forget_former_boot(&paths, "this").unwrap();
            assert_eq!((task.exists(), container.exists(), image.exists()), (kept, kept, true), "{note:?}");
        }
    }
}
