//! Connected UDP sockets whose backend is gone.
//!
//! A connected socket was translated once, and whatever becomes of its Service, the kernel sends to that backend. So it is
//! ended, as `ss --kill` does: its program gets an error from the call that it is in or from the next one (ECONNABORTED;
//! EDESTADDRREQ from send, since the socket is connected no more), and its next connect() leads to a backend that is there.
//! (TCP needs none of it: a peer that is gone ends the connection.)
//!
//! linux/sock_diag.h and linux/inet_diag.h: a netlink socket lists and ends the sockets of one network namespace. Programs
//! hang in a cgroup, so the namespaces are those of its threads. Which Service a socket meant is kept with the socket, and is
//! told to whoever has a descriptor of it: one is copied from its process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::kernel::Maps;
use crate::lost::Lost;
use crate::state::family_of;
use crate::sys;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: where it is in an `inet_diag_msg`, its length, and where its parts are.
const ID_AT: usize = 4;
const ID: usize = 48;
const OWN_AT: usize = 4;
const PEER_AT: usize = 20;
const COOKIE_AT: usize = 40;
/// Where the number that /proc names a socket by is in an `inet_diag_msg`.
const INODE_AT: usize = 68;
/// `TCP_ESTABLISHED`, which a connected UDP socket is, too.
const ESTABLISHED: u32 = 1 << 1;
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// What one read takes; the kernel fills at most 32 KiB.
const BUFFER: usize = 1 << 16;

/// A socket's identity as the kernel tells it, opaque to us but for its peer and its cookie.
type Id = [u8; ID];

/// Whether this kernel ends UDP sockets, tried with one of our own: `ErrorKind::NotFound` where it has no
/// CONFIG_INET_UDP_DIAG, `ErrorKind::Unsupported` where it has no CONFIG_INET_DIAG_DESTROY.
pub fn can_abort() -> io::Result<()> {
    let victim = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = victim.local_addr()?;
    victim.connect(own)?;
    let (port, address) = (own.port().to_be_bytes(), Ipv4Addr::LOCALHOST.octets());
    let mut id = [0; ID];
    id[..2].copy_from_slice(&port);
    id[2..4].copy_from_slice(&port);
    id[OWN_AT..OWN_AT + 4].copy_from_slice(&address);
    id[PEER_AT..PEER_AT + 4].copy_from_slice(&address);
    id[COOKIE_AT..].copy_from_slice(&NO_COOKIE);
    destroy(&open()?, libc::AF_INET, &id)
}

/// Ends the sockets below the cgroup that are connected by lost ways. Returns how many; a namespace where it fails does not
/// spare the others.
pub(crate) fn abort(maps: &Maps, cgroup: &Path, lost: &Lost) -> io::Result<usize> {
    if lost.is_empty() {
        return Ok(0);
    }
    let work = || {
        let (mut count, mut failure) = (0, None);
        for Namespace { file, processes } in namespaces(cgroup).into_values() {
            let entered = setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            match entered.and_then(|()| abort_here(maps, &processes, lost)) {
                Ok(ended) => count += ended,
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(count), Err)
    };
    // A thread of its own, which no other work shares: it ends in another namespace.
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A network namespace, and processes that may have sockets in it.
struct Namespace {
    file: File,
    processes: BTreeSet<u32>,
}

/// The network namespaces of the threads in a cgroup and below it, by what the kernel calls them. What ends meanwhile is
/// left out.
fn namespaces(cgroup: &Path) -> BTreeMap<PathBuf, Namespace> {
    let mut found = BTreeMap::<PathBuf, Namespace>::new();
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        let processes = numbers(&directory.join("cgroup.procs"));
        for thread in numbers(&directory.join("cgroup.threads")) {
            let path = PathBuf::from(format!("/proc/{thread}/ns/net"));
            let Ok(name) = fs::read_link(&path) else { continue };
            if let Some(namespace) = found.get_mut(&name) {
                namespace.processes.extend(&processes);
            } else if let Ok(file) = File::open(&path) {
                found.insert(name, Namespace { file, processes: processes.clone() });
            }
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let below = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.extend(below.map(|entry| entry.path()));
    }
    found
}

/// The numbers in a file, one a line; none where it cannot be read, as the processes of a threaded cgroup.
fn numbers(path: &Path) -> BTreeSet<u32> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

/// A netlink socket into the namespace of this thread.
fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?)
}

fn abort_here(maps: &Maps, processes: &BTreeSet<u32>, lost: &Lost) -> io::Result<usize> {
    let netlink = open()?;
    let mut count = 0;
    // An IPv6 socket may be connected to an IPv4 address.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut sockets = HashMap::new();
        let take = |message: &[u8]| {
            let found = id_and_inode(message);
            sockets.extend(found.filter(|(id, _)| lost.ended_at(&peer(family, id))).map(|(id, inode)| (inode, id)));
        };
        exchange(&netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &request(family, ESTABLISHED, &[0; ID]), take)?;
        for (socket, id) in held(processes, sockets) {
            let backend = peer(family, &id);
            let way = maps.connected(family_of(&backend.ip()), &socket);
            if way.is_none_or(|way| way.backend != backend || !lost.has(way.frontend, backend)) {
                continue;
            }
            match destroy(&netlink, family, &id) {
                Ok(()) => count += 1,
                // Its program was faster; another socket may be in its place.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(count)
}

fn id_and_inode(message: &[u8]) -> Option<(Id, u32)> {
    let id = *message.get(ID_AT..)?.first_chunk()?;
    Some((id, u32::from_ne_bytes(*message.get(INODE_AT..)?.first_chunk()?)))
}

/// Those of the sockets, given by inode, that the processes have descriptors of, each with a copy of one.
fn held(processes: &BTreeSet<u32>, mut sockets: HashMap<u32, Id>) -> Vec<(OwnedFd, Id)> {
    let mut found = Vec::new();
    for process in processes {
        if sockets.is_empty() {
            break;
        }
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Some((number, inode)) = descriptor(&entry) else { continue };
            let Some(id) = sockets.get(&inode).copied() else { continue };
            // By now the number may be another file's.
            if let Ok(socket) = sys::descriptor_of(*process, number)
                && sys::socket_cookie(&socket).is_ok_and(|found| found == cookie(&id))
            {
                sockets.remove(&inode);
                found.push((socket, id));
            }
        }
    }
    found
}

/// The number of a descriptor, and which socket it is.
fn descriptor(entry: &fs::DirEntry) -> Option<(RawFd, u32)> {
    let target = fs::read_link(entry.path()).ok()?;
    let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
    Some((entry.file_name().to_str()?.parse().ok()?, inode))
}

fn destroy(netlink: &OwnedFd, family: i32, id: &Id) -> io::Result<()> {
    exchange(netlink, SOCK_DESTROY, NLM_F_ACK, &request(family, 0, id), |_| ())
}

/// `struct inet_diag_req_v2`.
fn request(family: i32, states: u32, id: &Id) -> Vec<u8> {
    let family = u8::try_from(family).expect("a small number");
    [&[family, abi::proto::UDP, 0, 0][..], &states.to_ne_bytes(), id].concat()
}

/// Sends a request and takes what comes back, up to the end or an error.
fn exchange(netlink: &OwnedFd, kind: u16, flags: u16, body: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let flags = NLM_F_REQUEST | flags;
    let message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat();
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, next)) = message_of(rest) {
            match kind {
                SOCK_DIAG_BY_FAMILY => take(body),
                NLMSG_DONE | NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => {}
            }
            rest = next;
        }
    }
}

/// The first message: its type, what is in it, and what follows it.
fn message_of(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*messages.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
    let body = messages.get(HEADER..length)?;
    Some((kind, body, messages.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn cookie(id: &Id) -> u64 {
    let word = |at: usize| u64::from(u32::from_ne_bytes(*id[at..].first_chunk().expect("an id is longer")));
    word(COOKIE_AT) | word(COOKIE_AT + 4) << 32
}

/// Whom a socket is connected to.
fn peer(family: i32, id: &Id) -> SocketAddr {
    let bytes: [u8; 16] = *id[PEER_AT..].first_chunk().expect("an id is longer");
    let [a, b, c, d, ..] = bytes;
    let address = match family {
        libc::AF_INET => Ipv4Addr::from([a, b, c, d]).into(),
        _ => Ipv6Addr::from(bytes).to_canonical(),
    };
    (address, u16::from_be_bytes([id[2], id[3]])).into()
}
