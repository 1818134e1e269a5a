//! What containerd, its shims and CNI keep outside every directory that they are given.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where they keep it.
pub(super) struct Places {
    /// containerd's, with the sockets of shims.
    pub(super) run: PathBuf,
    /// libcni's copies of what plugins answered, `NETWORK-SANDBOX-LINK` each.
    pub(super) results: PathBuf,
}

impl Places {
    pub(super) fn of_this_machine() -> Self {
        Self { run: "/run/containerd".into(), results: "/var/lib/cni/results".into() }
    }

    /// Removes what belongs to the sandboxes of this data directory, whose containerd and shims have ended; and the
    /// directories, where nobody else keeps anything in them.
    pub(super) fn clear(&self, data_dir: &Path) {
        let containerd = data_dir.join("containerd");
        for socket in sockets(&containerd.join("state/io.containerd.runtime.v2.task")) {
            // The data directory names it, but only one that containerd made is ours to remove.
            if socket.parent() == Some(&self.run.join("s")) {
                let _ = fs::remove_file(socket);
            }
        }
        let sandboxes = names(&containerd.join("root/io.containerd.grpc.v1.cri/sandboxes"));
        for result in names(&self.results) {
            if result.split('-').any(|part| sandboxes.contains(part)) {
                let _ = fs::remove_file(self.results.join(result));
            }
        }
        let shared = ["s", "fifo", "runc/k8s.io", "runc", ""].map(|below| self.run.join(below));
        // crun makes one whatever it is given.
        let crun = self.run.with_file_name("crun");
        let others = [Some(crun.as_path()), Some(&self.results), self.results.parent()];
        for directory in shared.iter().map(PathBuf::as_path).chain(others.into_iter().flatten()) {
            // Not where it is another's too: then it is not empty.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The sockets that the shims of these tasks served: `NAMESPACE/TASK/address`, or `bootstrap.json` since 1.7.
fn sockets(tasks: &Path) -> BTreeSet<PathBuf> {
    let namespaces = names(tasks).into_iter().map(|namespace| tasks.join(namespace));
    let bundles = namespaces.flat_map(|dir| names(&dir).into_iter().map(move |task| dir.join(task)));
    let socket = |bundle: PathBuf| {
        let text = ["address", "bootstrap.json"].iter().find_map(|file| fs::read_to_string(bundle.join(file)).ok())?;
        let (_, path) = text.split_once("unix://")?;
        Some(PathBuf::from(path.split('"').next()?.trim()))
    };
    bundles.filter_map(socket).collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_this_nodes_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let put = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        let run = at("run/containerd").display().to_string();
        let tasks = "data/containerd/state/io.containerd.runtime.v2.task/k8s.io";
        put(&format!("{tasks}/b0/address"), &format!("unix://{run}/s/old"));
        put(&format!("{tasks}/b1/bootstrap.json"), &format!("{{\"address\":\"unix://{run}/s/new\",\"version\":3}}"));
        put(&format!("{tasks}/b2/address"), &format!("unix://{}", at("elsewhere").display()));
        fs::create_dir_all(at("data/containerd/root/io.containerd.grpc.v1.cri/sandboxes/b0")).unwrap();
        for file in ["run/containerd/s/old", "run/containerd/s/new", "elsewhere"] {
            put(file, "");
        }
        put("cni/results/keelson-b0-eth0", "");
        put("cni/results/cni-loopback-b0-lo", "");
        fs::create_dir_all(at("run/containerd/runc/k8s.io")).unwrap();
        fs::create_dir(at("run/crun")).unwrap();
        let places = Places { run: at("run/containerd"), results: at("cni/results") };

        put("cni/results/other-b00-eth0", "");
        put("run/containerd/containerd.sock", "");
        places.clear(&at("data"));
        assert_eq!(names(&at("cni/results")), BTreeSet::from(["other-b00-eth0".to_owned()]));
        assert_eq!(names(&at("run/containerd")), BTreeSet::from(["containerd.sock".to_owned()]));
        assert!(at("elsewhere").exists());

        fs::remove_file(at("cni/results/other-b00-eth0")).unwrap();
        fs::remove_file(at("run/containerd/containerd.sock")).unwrap();
        places.clear(&at("data"));
        assert_eq!((names(&at("run")), at("cni").exists()), (BTreeSet::new(), false));
    }
}
