//! Throw-away clusters for tests, benchmarks and `cargo xtask run`: real containerd, real eBPF, real kubectl.
//!
//! A cluster's node is a network namespace of its own, joined by a veth pair to a second one that plays the outside world.
//! Nothing leaves the two. Data, control groups and BPF pins carry the cluster's name, which carries the process id of
//! whoever made it: what a killed test left behind is found by that, and swept by the next one ([`sweep`]).
//!
//! Nothing here sleeps. A server says that it is up through systemd's notification protocol; `kubectl wait` watches.

mod cluster;
mod kubectl;
mod machine;
mod namespace;
mod process;
mod traffic;

pub use cluster::{Cluster, ClusterOptions, binary, sweep};
pub use kubectl::{Kubectl, KubectlVersion, Output};
pub use machine::wait_ended;
pub use namespace::Namespace;
pub use process::{Child, Lines, find, output, wait_readable, words};
pub use traffic::Traffic;

use std::path::PathBuf;

/// The directory with the archives of test images; set by `cargo xtask test`.
pub const IMAGES: &str = "KEELSON_TEST_IMAGES";

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

/// A cluster with the test images for the calling test; `None` where whole-cluster tests cannot run.
///
/// # Panics
/// The cluster does not come up.
pub fn cluster(test: &str) -> Option<Cluster> {
    if skip(test) {
        return None;
    }
    let options = ClusterOptions { images: images(), ..ClusterOptions::default() };
    Some(Cluster::start(options).unwrap_or_else(|error| panic!("{test}: no cluster: {error:#}")))
}

/// The archives of the test images.
///
/// # Panics
/// They are not built.
pub fn images() -> Vec<PathBuf> {
    let dir = std::env::var_os(IMAGES).map_or_else(|| cluster::binary().with_file_name("../images"), PathBuf::from);
    let entries =
        std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask image`", dir.display()));
    let mut archives: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort();
    archives
}
