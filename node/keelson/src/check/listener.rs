//! Who listens on a TCP port of this network namespace: `/proc/net/tcp` names the socket, `/proc/PID/fd` its holder.

use std::fs;

/// A process that holds a listening socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) pid: u32,
    /// The process's name, as the kernel cuts it.
    pub(super) name: String,
}

/// The process that listens on the port; none where nobody does, or where this process may not see who.
pub(super) fn on(port: u16) -> Option<Listener> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let held = tables.iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        Some(format!("socket:[{}]", listening_socket(&table, port)?))
    })?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        descriptors.find(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == held.as_str()))?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim().to_owned();
        Some(Listener { pid, name })
    })
}

/// The inode of the socket that listens on the port, from a table of the kernel's `proc(5)` format.
fn listening_socket(table: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let listens = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == LISTEN;
        if listens { fields.get(9).copied() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_listener_is_found_by_its_port() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(on(port).map(|listener| listener.pid), Some(std::process::id()));
        drop(socket);
        // A child that another test is just making may hold it until exec.
        assert_ne!(on(port).map(|listener| listener.pid), Some(std::process::id()));
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:192B 0100007F:9999 01 0:0 00:0 0 0 0 11 1\n\
             1: 00000000:192B 00000000:0000 0A 0:0 00:0 0 0 0 22 1\n";
        assert_eq!(listening_socket(table, 0x192B), Some("22"));
        assert_eq!(listening_socket(table, 0x9999), None);
        assert_eq!(listening_socket("garbage\n1 2\n", 1), None);
    }
}
