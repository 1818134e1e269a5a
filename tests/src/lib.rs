//! Throw-away clusters for tests, benchmarks and `cargo xtask run`: real containerd, real eBPF, real kubectl.
//!
//! A cluster's node is a network namespace of its own, joined by a veth pair to a second one that plays the outside world.
//! Nothing leaves the two. Data, control groups and BPF pins carry the cluster's name, which carries the process id of
//! whoever made it: what a killed test left behind is found by that, and swept by the next one ([`sweep`]).
//!
//! Nothing here sleeps. A server says that it is up through systemd's notification protocol; `kubectl wait` watches.

mod cluster;
mod kubectl;
mod namespace;
mod process;

pub use cluster::{Cluster, ClusterOptions, sweep};
pub use kubectl::{Kubectl, KubectlVersion, Output};
pub use namespace::Namespace;
pub use process::{Child, wait_readable};

/// Where a test says that it could not run here, and why; read by `cargo xtask test`.
pub const SKIP_FILE: &str = "KEELSON_TEST_SKIPS";

/// The reason why whole-cluster tests cannot run on this machine, if there is one.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    ["containerd", "runc", "ip", "nsenter", "nft", "kubectl"]
        .into_iter()
        .find(|program| process::find(program).is_none())
        .map(|program| format!("{program} is not installed"))
}

/// Says whether to skip the calling test, and writes that down for the report.
pub fn skip(test: &str) -> bool {
    let Some(reason) = missing() else { return false };
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(file) = std::env::var_os(SKIP_FILE) {
        use std::io::Write;
        let line = format!("{test}: {reason}\n");
        std::fs::File::options()
            .append(true)
            .create(true)
            .open(file)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the skip report can be written");
    }
    true
}
