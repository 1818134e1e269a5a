//! Where a node leaves traces outside of its data directory. Written down there, so that `uninstall` finds them all
//! whatever flags the server had.

use crate::server::Settings;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file below the data directory.
const FILE: &str = "run/footprint.json";

/// The names by which a node's traces are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Footprint {
    pub node_name: String,
    pub cgroup_root: String,
    /// False where somebody else's container runtime was used.
    pub own_containerd: bool,
    /// A copy of the administrator's kubeconfig outside of the data directory.
    pub kubeconfig_copy: Option<PathBuf>,
}

impl Footprint {
    /// What a server with these settings leaves.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            node_name: settings.node_name.clone(),
            cgroup_root: settings.args.cgroup_root.clone(),
            own_containerd: settings.args.container_runtime_endpoint.is_none(),
            kubeconfig_copy: settings.args.write_kubeconfig.clone(),
        }
    }

    /// Writes it down, before the first trace is made. What is there already stays as it is: on a full disk it could be lost.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        if matches!(Self::read(data_dir), Ok(Some(there)) if there == *self) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(self)?;
        Ok(apiserver::pki::write_private(&data_dir.join(FILE), text.as_bytes())?)
    }

    /// Reads it back; `None` where no server ever ran with this data directory.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{}: not what keelson server writes", path.display()))
    }

    /// The node's directory on the BPF file system, which takes no dots in names; a node's name has no underscore.
    pub(crate) fn pin_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/keelson").join(self.node_name.replace('.', "_"))
    }

    /// The node's cgroup2 directory: the whole hierarchy for the default root.
    pub(crate) fn cgroup2_dir(&self) -> Option<PathBuf> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|dir| dir.join("cgroup.procs").exists() && dir.join("cgroup.controllers").exists())?;
        Some(root.join(self.cgroup_root.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_any_name() {
        let footprint = |name: &str| Footprint {
            node_name: name.into(),
            cgroup_root: "/".into(),
            own_containerd: true,
            kubeconfig_copy: None,
        };
        assert_eq!(footprint("one").pin_dir(), Path::new("/sys/fs/bpf/keelson/one"));
        assert_eq!(footprint("one.example.com").pin_dir(), Path::new("/sys/fs/bpf/keelson/one_example_com"));
    }
}
