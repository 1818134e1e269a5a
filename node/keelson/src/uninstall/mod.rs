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
    let data_dir = &args.data_dir;
    if !nix::unistd::geteuid().is_root() {
        bail!("uninstall must run as root");
    }
    if !data_dir.exists() {
        println!("nothing to remove: {} is not there", data_dir.display());
        return Ok(());
    }
    let Some(footprint) = Footprint::read(data_dir)? else {
        return remove_control_plane(args);
    };
    if !args.yes && !confirmed(data_dir, &footprint)? {
        bail!("nothing removed");
    }
    end_processes(data_dir, &footprint)?;
    remove_network(data_dir, &footprint)?;
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
fn remove_control_plane(args: &UninstallArgs) -> anyhow::Result<()> {
    let data_dir = &args.data_dir;
    let ours = ["db", "pki", "run"].iter().any(|name| data_dir.join(name).exists());
    if !ours && !args.yes {
        bail!("{} does not look like a data directory of keelson; --yes removes it all the same", data_dir.display());
    }
    if !args.yes && !ask(&format!("Remove {}?", data_dir.display()))? {
        bail!("nothing removed");
    }
    processes::end_server(data_dir)?;
    remove_files(data_dir)?;
    println!("removed {}", data_dir.display());
    Ok(())
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
