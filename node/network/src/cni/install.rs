//! The files by which a runtime finds the plugin: its program, and the list that names it.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{NetworkError, files};

/// Names the plugin is called by. containerd before 2.0 wants a plugin `loopback` as well.
pub(super) const PLUGIN: &str = "keelson-cni";
pub(super) const LOOPBACK: &str = "loopback";

/// The version that the list is written for; plugin and runtime may use others.
const CNI_VERSION: &str = "1.0.0";

fn conflist(data_dir: &Path) -> PathBuf {
    data_dir.join("cni/conf/10-keelson.conflist")
}

/// The node's socket for the plugin.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/cni.sock")
}

/// Makes the directories and the program's links. Returns the socket's path.
pub(crate) fn install(data_dir: &Path) -> Result<PathBuf, NetworkError> {
    let program = files::current_program()?;
    for directory in ["cni/bin", "cni/conf", "run"] {
        files::directory(&data_dir.join(directory))?;
    }
    for name in [PLUGIN, LOOPBACK] {
        files::link(&program, &data_dir.join("cni/bin").join(name))?;
    }
    Ok(socket(data_dir))
}

/// Writes the list, which tells the runtime that the network is ready.
pub(crate) fn publish(data_dir: &Path) -> Result<(), NetworkError> {
    let content = json!({
        "cniVersion": CNI_VERSION,
        "name": "keelson",
        "plugins": [{"type": PLUGIN, "socket": socket(data_dir), "capabilities": {"portMappings": true}}],
    });
    let path = conflist(data_dir);
    let text = format!("{content:#}\n");
    if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    files::replace(&path, text.as_bytes())
}

/// Takes the list and the program's links away.
pub(crate) fn uninstall(data_dir: &Path) -> Result<(), NetworkError> {
    for path in [data_dir.join("cni"), socket(data_dir)] {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(files::failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
