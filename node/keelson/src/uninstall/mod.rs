//! `keelson uninstall`: removes every trace of this node.
//!
//! Each step works on what it finds, not on what it remembers, so that the command can be run twice, and after a crash.

mod cgroups;
mod mounts;
mod processes;
mod strays;

use crate::cli::UninstallArgs;
use crate::footprint::Footprint;
use anyhow::{Context, bail};
use network::Network;
use std::io::{BufRead, Write};
use std::path::Path;

/// Removes processes, containers, mounts, links, BPF pins, control groups and files, in this order.
pub(crate) fn run(args: &UninstallArgs) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("uninstall must run as root");
    }
    // As the server had it: the kernel's table of mounts knows no symbolic links.
    let Ok(data_dir) = args.data_dir.canonicalize() else {
        println!("nothing to remove: {} is not there", args.data_dir.display());
        return Ok(());
    };
    let data_dir = &data_dir;
    match Footprint::read(data_dir)? {
        Some(footprint) => remove_node(data_dir, &footprint, args)?,
        None => remove_control_plane(data_dir, args)?,
    }
    if args.data_dir.is_symlink() { remove_file(&args.data_dir) } else { Ok(()) }
}

fn remove_node(data_dir: &Path, footprint: &Footprint, args: &UninstallArgs) -> anyhow::Result<()> {
    if !args.yes && !confirmed(data_dir, footprint)? {
        bail!("nothing removed");
    }
    end_processes(data_dir, footprint)?;
    remove_network(data_dir, footprint)?;
    mounts::unmount_below(data_dir)?;
    cgroups::remove(&footprint.cgroup_root)?;
    if let Some(copy) = &footprint.kubeconfig_copy {
        remove_file(copy)?;
    }
    if footprint.own_containerd {
        strays::Places::of_this_machine().clear(data_dir);
    }
    remove_files(data_dir)?;
    println!("removed node {} and {}", footprint.node_name, data_dir.display());
    Ok(())
}

/// A server with `--no-node`, or one that ended before its node began, leaves nothing but its files.
fn remove_control_plane(data_dir: &Path, args: &UninstallArgs) -> anyhow::Result<()> {
    if !is_ours(data_dir)? {
        bail!("{} does not look like a data directory of keelson, and is left alone", data_dir.display());
    }
    if !args.yes && !ask(&format!("Remove {}?", data_dir.display()))? {
        bail!("nothing removed");
    }
    processes::end_server(data_dir)?;
    // There should be none, but what is mounted is not ours to remove.
    mounts::unmount_below(data_dir)?;
    remove_files(data_dir)?;
    println!("removed {}", data_dir.display());
    Ok(())
}

/// Whether a server ran here, or nothing is here but what the installer or the first moments of a start put here.
fn is_ours(data_dir: &Path) -> anyhow::Result<bool> {
    const FIRST: [&str; 5] = ["db", "images", "manifests", "pki", "run"];
    let mut entries = std::fs::read_dir(data_dir).with_context(|| format!("{}: cannot be read", data_dir.display()))?;
    let known = entries.all(|entry| entry.is_ok_and(|entry| FIRST.iter().any(|name| entry.file_name() == *name)));
    Ok(known || data_dir.join("run/keelson.pid").exists())
}

fn confirmed(data_dir: &Path, footprint: &Footprint) -> anyhow::Result<bool> {
    ask(&format!(
        "Remove node {} with all its containers, and {} with all objects of the cluster?",
        footprint.node_name,
        data_dir.display()
    ))
}

fn ask(question: &str) -> anyhow::Result<bool> {
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn end_processes(data_dir: &Path, footprint: &Footprint) -> anyhow::Result<()> {
    processes::end_server(data_dir)?;
    if footprint.own_containerd {
        // First the one that would start others again, then the shims, which would report to it, then the containers.
        processes::end_by_pid_file(&data_dir.join("containerd/containerd.pid"))?;
        processes::end_shims(data_dir)?;
    }
    cgroups::end_processes(&footprint.cgroup_root)
}

fn remove_network(data_dir: &Path, footprint: &Footprint) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        network::dns::Supervisor::uninstall(data_dir).await.context("cluster DNS stays behind")?;
        Network::uninstall(data_dir).await.context("links or rules stay behind")
    })?;
    let pins = footprint.pin_dir();
    proxy::Proxy::uninstall(&pins).context("BPF pins stay behind")?;
    // The directory of all nodes goes with the last of them; while others are there it cannot.
    let _ = pins.parent().map(std::fs::remove_dir);
    Ok(())
}

fn remove_files(data_dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(data_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", data_dir.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::FileArgs;

    #[test]
    fn only_a_data_directory_is_removed() {
        for (what, entries, ours) in [
            ("empty", &[][..], true),
            ("installed, never started", &["images/web.tar"], true),
            ("a start that failed at once", &["db/state.db", "run/x"], true),
            ("a server's, with a stranger's file", &["run/keelson.pid", "notes"], true),
            ("somebody else's", &["run/other.pid", "lib/x"], false),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let data_dir = parent.path().join("data");
            std::fs::create_dir(&data_dir).unwrap();
            for entry in entries {
                std::fs::create_dir_all(data_dir.join(entry).parent().unwrap()).unwrap();
                std::fs::write(data_dir.join(entry), "").unwrap();
            }
            let args = UninstallArgs { file: FileArgs { config: None }, data_dir: data_dir.clone(), yes: true };
            assert_eq!(remove_control_plane(&data_dir, &args).is_ok(), ours, "{what}");
            assert_eq!(data_dir.exists(), !ours, "{what}");
        }
    }
}
