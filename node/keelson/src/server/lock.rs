//! One server a data directory, and one node a network namespace: locks that the kernel drops with the process.

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// The abstract socket's name that a node takes; such names are of one network namespace.
pub(crate) const NODE: &str = "keelson.node";

/// The held lock; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _lock: Flock<File>,
}

/// Takes the lock of a data directory, and writes our process id into it.
///
/// # Errors
/// Another server has it: names that server's process id.
pub(crate) fn take(data_dir: &Path) -> anyhow::Result<DataDirLock> {
    let path = data_dir.join("run/keelson.pid");
    let at = || format!("{}: cannot be written", path.display());
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).with_context(at)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).with_context(at)?;
            bail!(
                "{} is in use by another keelson server (process {}); stop it, or give another --data-dir",
                data_dir.display(),
                holder.trim()
            );
        }
        Err((_, error)) => return Err(error).with_context(at),
    };
    // Over what an earlier server left, which a full disk has room for, and then cut off.
    let pid = format!("{}\n", std::process::id());
    lock.rewind()
        .and_then(|()| lock.write_all(pid.as_bytes()))
        .and_then(|()| lock.set_len(pid.len() as u64))
        .with_context(at)?;
    Ok(DataDirLock { _lock: lock })
}

/// Takes this network namespace for one node: two would take each other's pods' links for strays.
///
/// # Errors
/// Another node has it.
pub(crate) fn take_network(name: &str) -> anyhow::Result<UnixDatagram> {
    match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(socket),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "another keelson node runs in this network namespace; stop it, give --no-node, or run this one in a \
             namespace of its own (ip netns)"
        ),
        Err(error) => Err(error).context("cannot take this network namespace for a node"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let first = take(dir.path()).unwrap();
        let message = take(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        take(dir.path()).unwrap();
    }

    #[test]
    fn one_node_a_network() {
        let name = format!("keelson.test.{}", std::process::id());
        let first = take_network(&name).unwrap();
        assert!(take_network(&name).unwrap_err().to_string().starts_with("another keelson node"));
        drop(first);
        // A process that another test is starting has a copy of it, until it runs its program.
        assert!((0..100_000).any(|_| take_network(&name).is_ok()));
    }
}
