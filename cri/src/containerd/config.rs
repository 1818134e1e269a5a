//! The configuration containerd is given: version 2 for containerd 1.6 and 1.7, version 3 for 2.x.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{ContainerdConfig, ContainerdError};

/// Plug-ins nobody uses here. They cost start time and memory; unknown names are ignored by containerd.
const DISABLED: &[&str] = &[
    "io.containerd.differ.v1.erofs",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// CRI's settings: all of them in version 2, the streaming server's in version 3.
const CRI: &str = "plugins.\"io.containerd.grpc.v1.cri\"";
/// Those of containers in version 3.
const RUNTIME: &str = "plugins.\"io.containerd.cri.v1.runtime\"";

/// A containerd release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 or 2.
    pub major: u32,
    /// 6 for 1.6.
    pub minor: u32,
}

impl Version {
    /// Reads the output of `containerd --version`.
    pub fn parse(output: &str) -> Option<Version> {
        let word = output.split_whitespace().nth(2)?;
        let mut numbers = word.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
        Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }

    /// 1.6 is the first with a stable CRI v1.
    pub(super) fn check(self, binary: &Path) -> Result<(), ContainerdError> {
        if self < (Version { major: 1, minor: 6 }) {
            return Err(ContainerdError::TooOld { binary: binary.to_owned(), version: self });
        }
        Ok(())
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where containerd's files are.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) ttrpc: PathBuf,
    pub(super) notify: PathBuf,
    pub(super) pid: PathBuf,
    pub(super) log: PathBuf,
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) runc: PathBuf,
    pub(super) certs: PathBuf,
}

impl Paths {
    pub(super) fn new(data_dir: &Path) -> Self {
        let dir = data_dir.join("containerd");
        Paths {
            config: dir.join("config.toml"),
            socket: dir.join("containerd.sock"),
            ttrpc: dir.join("ttrpc.sock"),
            notify: dir.join("notify.sock"),
            pid: dir.join("containerd.pid"),
            log: dir.join("containerd.log"),
            root: dir.join("root"),
            state: dir.join("state"),
            runc: dir.join("runc"),
            certs: dir.join("certs.d"),
            dir,
        }
    }
}

/// The text of config.toml.
pub(super) fn render(
    config: &ContainerdConfig,
    paths: &Paths,
    version: Version,
    oci_runtime: &str,
    may_lower_oom_score: bool,
) -> String {
    let mut out = String::from("# Written by keelson at every start; changes here are lost.\n");
    let newer = version.major >= 2;
    let disabled: Vec<String> = DISABLED.iter().map(|name| quoted(name)).collect();
    let _ = writeln!(out, "version = {}", if newer { 3 } else { 2 });
    let _ = writeln!(out, "root = {}\nstate = {}", path(&paths.root), path(&paths.state));
    let _ = writeln!(out, "oom_score = {}", if may_lower_oom_score { -999 } else { 0 });
    let _ = writeln!(out, "disabled_plugins = [{}]", disabled.join(", "));
    let _ = writeln!(out, "\n[grpc]\naddress = {}", path(&paths.socket));
    let _ = writeln!(out, "\n[ttrpc]\naddress = {}", path(&paths.ttrpc));
    let _ = writeln!(out, "\n[debug]\nlevel = {}", quoted(&config.log_level));
    // Where a user may install runtimes and libraries: made at every start, by default in /opt.
    let _ = writeln!(out, "\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {}", path(&paths.dir.join("opt")));
    // A snapshot is recorded as whole at once and for good: its files must not wait in the page cache for a power cut.
    // Since 1.7.26; those before ignore it.
    out.push_str("\n[plugins.\"io.containerd.service.v1.diff-service\"]\nsync_fs = true\n");
    if newer {
        cri_v3(&mut out, config, paths, version, may_lower_oom_score);
    } else {
        cri_v2(&mut out, config, paths, may_lower_oom_score);
    }
    runc(&mut out, if newer { RUNTIME } else { CRI }, config, paths, oci_runtime);
    out
}

fn cri_v2(out: &mut String, config: &ContainerdConfig, paths: &Paths, may_lower_oom_score: bool) {
    let _ = writeln!(out, "\n[{CRI}]\nsandbox_image = {}", quoted(&config.sandbox_image));
    // What sync_fs does above, for pulls with the earlier 1.7.
    out.push_str("image_pull_with_sync_fs = true\n");
    streaming(out);
    runtime_settings(out, may_lower_oom_score);
    let (bin, conf) = (path(&config.cni_bin_dir), path(&config.cni_conf_dir));
    let _ = writeln!(out, "\n[{CRI}.cni]\nbin_dir = {bin}\nconf_dir = {conf}");
    let _ = writeln!(out, "\n[{CRI}.containerd]\ndefault_runtime_name = \"runc\"\nsnapshotter = \"overlayfs\"");
    let _ = writeln!(out, "\n[{CRI}.registry]\nconfig_path = {}", path(&paths.certs));
}

fn cri_v3(out: &mut String, config: &ContainerdConfig, paths: &Paths, version: Version, may_lower_oom_score: bool) {
    let images = "plugins.\"io.containerd.cri.v1.images\"";
    let _ = writeln!(out, "\n[{images}]\nsnapshotter = \"overlayfs\"");
    let _ = writeln!(out, "\n[{images}.pinned_images]\nsandbox = {}", quoted(&config.sandbox_image));
    let _ = writeln!(out, "\n[{images}.registry]\nconfig_path = {}", path(&paths.certs));
    let _ = writeln!(out, "\n[{RUNTIME}]");
    runtime_settings(out, may_lower_oom_score);
    let (bin, conf) = (path(&config.cni_bin_dir), path(&config.cni_conf_dir));
    let bin = if version >= (Version { major: 2, minor: 1 }) {
        format!("bin_dirs = [{bin}]")
    } else {
        format!("bin_dir = {bin}")
    };
    let _ = writeln!(out, "\n[{RUNTIME}.cni]\n{bin}\nconf_dir = {conf}");
    let _ = writeln!(out, "\n[{RUNTIME}.containerd]\ndefault_runtime_name = \"runc\"");
    let _ = writeln!(out, "\n[{CRI}]");
    streaming(out);
    let _ = writeln!(out, "\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true");
}

fn streaming(out: &mut String) {
    out.push_str("stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\ndisable_tcp_service = true\n");
}

fn runtime_settings(out: &mut String, may_lower_oom_score: bool) {
    // Lines are never cut: what a container writes is what `kubectl logs` shows.
    out.push_str("max_container_log_line_size = -1\n");
    out.push_str("enable_unprivileged_ports = true\nenable_unprivileged_icmp = true\n");
    out.push_str("netns_mounts_under_state_dir = true\n");
    // runc dies with "can't get final child's PID from pipe: EOF" where it may not lower the score.
    let _ = writeln!(out, "restrict_oom_score_adj = {}", !may_lower_oom_score);
}

/// The one runtime handler; crun serves containerd's shim for runc as well.
fn runc(out: &mut String, plugin: &str, config: &ContainerdConfig, paths: &Paths, oci_runtime: &str) {
    let _ = writeln!(out, "\n[{plugin}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"");
    let _ = writeln!(
        out,
        "\n[{plugin}.containerd.runtimes.runc.options]\nBinaryName = {}\nRoot = {}\nSystemdCgroup = {}",
        quoted(oci_runtime),
        path(&paths.runc),
        config.systemd_cgroup
    );
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (output, want) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some((1, 6))),
            ("containerd github.com/containerd/containerd v1.7.27 05044ec0", Some((1, 7))),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", Some((2, 1))),
            ("containerd github.com/containerd/containerd/v2 2.0.5-1.fc42", Some((2, 0))),
            ("containerd", None),
            ("containerd x unknown", None),
        ] {
            assert_eq!(Version::parse(output).map(|v| (v.major, v.minor)), want, "{output}");
        }
        let old = Version { major: 1, minor: 5 };
        assert!(old.check(Path::new("containerd")).is_err());
    }

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n\u{1}ä"), "\"a\\\"b\\\\c\\n\\u0001ä\"");
    }

    #[test]
    fn a_release_gets_its_config_version() {
        let config = ContainerdConfig::new("/d");
        let paths = Paths::new(Path::new("/d"));
        for (major, minor, want, not) in [
            (
                1,
                6,
                &["version = 2\n", "sandbox_image = \"keelson.dev/pause:1\"", "bin_dir = \"/d/cni/bin\""][..],
                "bin_dirs",
            ),
            (1, 7, &["version = 2\n", "\nimage_pull_with_sync_fs = true\n"], "pinned_images"),
            (
                2,
                0,
                &[
                    "version = 3\n",
                    "diff-service\"]\nsync_fs = true\n",
                    "bin_dir = \"/d/cni/bin\"",
                    "sandbox = \"keelson.dev/pause:1\"",
                ],
                "sandbox_image",
            ),
            (2, 1, &["version = 3\n", "bin_dirs = [\"/d/cni/bin\"]"], "sandbox_image"),
        ] {
            let text = render(&config, &paths, Version { major, minor }, "crun", false);
            for line in want {
                assert!(text.contains(line), "{major}.{minor}: {line}\n{text}");
            }
            assert!(!text.contains(not), "{major}.{minor}: {not}");
            assert!(text.contains("restrict_oom_score_adj = true") && text.contains("oom_score = 0"));
            assert!(text.contains(".containerd.runtimes.runc.options]\nBinaryName = \"crun\"\n"), "{text}");
        }
        let privileged = render(&config, &paths, Version { major: 1, minor: 6 }, "runc", true);
        assert!(privileged.contains("restrict_oom_score_adj = false") && privileged.contains("oom_score = -999"));
    }
}
