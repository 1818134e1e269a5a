//! System calls that aya has no function for: cgroup links that are updated in place, grace periods, mounts.
#![expect(unsafe_code, reason = "raw bpf(2) and membarrier(2)")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_PROG_LOAD: i32 = 5;
const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_LINK_CREATE: i32 = 28;
const BPF_LINK_UPDATE: i32 = 29;
const BPF_LINK_DETACH: i32 = 34;

const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const MEMBARRIER_CMD_GLOBAL: i32 = 1;
const SO_NETNS_COOKIE: i32 = 71;
const BPF_FS_MAGIC: libc::__fsword_t = 0xcafe_4a11;

/// Where a cgroup link hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// Inode of the cgroup directory; zero once the cgroup is gone.
    pub(crate) cgroup: u64,
    /// `BPF_CGROUP_*`.
    pub(crate) attach_type: u32,
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: `attributes` is a live `repr(C)` prefix of `union bpf_attr` of the length given.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}

fn new_fd(result: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// Loads a program for a socket's addresses; for asking what the kernel knows.
fn load(instructions: &[u64], attach_type: u32) -> io::Result<OwnedFd> {
    let mut load = Load {
        kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_type,
        ..Load::default()
    };
    bpf(BPF_PROG_LOAD, &mut load).and_then(new_fd)
}

/// Asks for an attach type by the smallest program for it.
pub(crate) fn knows(attach_type: u32) -> io::Result<()> {
    // r0 = 1; exit
    load(&[1 << 32 | 0xb7, 0x95], attach_type).map(drop)
}

/// Whether a program may say with which error a call ends: `bpf_set_retval`, of Linux 5.18.
pub(crate) fn sets_errors() -> bool {
    // r1 = -111; call 187; r0 = 1; exit
    load(&[0xffff_ff91_0000_01b7, 187 << 32 | 0x85, 1 << 32 | 0xb7, 0x95], BPF_CGROUP_INET4_CONNECT).is_ok()
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 6],
}

/// Attaches a program to a cgroup. Links are always stacked with others; no flag says so.
pub(crate) fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let (program, target) = (program.as_raw_fd().cast_unsigned(), cgroup.as_raw_fd().cast_unsigned());
    new_fd(bpf(BPF_LINK_CREATE, &mut LinkCreate { program, target, attach_type, ..LinkCreate::default() })?)
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program in a link: each event runs exactly one of the two.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned());
    bpf(BPF_LINK_UPDATE, &mut LinkUpdate { link, program, ..LinkUpdate::default() }).map(drop)
}

/// Ends a link for every holder.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut link.as_raw_fd().cast_unsigned()).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
    directory: u32,
    pad: u32,
}

/// Gives a BPF object a name on a bpffs, which keeps it alive.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let fd = object.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_PIN, &mut Object { path: path.as_ptr() as u64, fd, ..Object::default() }).map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    new_fd(bpf(BPF_OBJ_GET, &mut Object { path: path.as_ptr() as u64, ..Object::default() })?)
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info` of a cgroup link, with room for a later kernel's additions.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach_type: u32,
    rest: [u32; 9],
}

/// Where a link hangs; an error for one that is not a cgroup's.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut raw = RawLinkInfo::default();
    let length = u32::try_from(size_of::<RawLinkInfo>()).expect("a small struct");
    let fd = link.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut InfoByFd { fd, length, info: std::ptr::from_mut(&mut raw) as u64 })?;
    if raw.kind != BPF_LINK_TYPE_CGROUP {
        return Err(io::Error::other(format!("link {} is of type {}, not a cgroup's", raw.id, raw.kind)));
    }
    Ok(LinkInfo { cgroup: raw.cgroup, attach_type: raw.attach_type })
}

/// Waits until no program can still be using a map entry that it read before this call: an RCU grace period.
pub(crate) fn grace_period() -> io::Result<()> {
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The cookie of the network namespace that this thread is in.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    cookie(&std::net::UdpSocket::bind("127.0.0.1:0")?, SO_NETNS_COOKIE)
}

/// A socket's own cookie.
pub(crate) fn socket_cookie(socket: &OwnedFd) -> io::Result<u64> {
    cookie(socket, libc::SO_COOKIE)
}

/// A copy of another process's descriptor.
pub(crate) fn descriptor_of(process: u32, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let process = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) }).and_then(new_fd)?;
    // SAFETY: takes integers only.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) }).and_then(new_fd)
}

fn checked(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn cookie(socket: &impl AsRawFd, option: i32) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight");
    // SAFETY: `cookie` has room for the `length` bytes that the option is long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Hands memory that loading needed for a moment back to the system.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether a path is on a bpffs.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let found = nix::sys::statfs::statfs(path)?;
    Ok(found.filesystem_type().0 == BPF_FS_MAGIC)
}

/// Mounts a bpffs.
pub(crate) fn mount_bpffs(at: &Path) -> io::Result<()> {
    Ok(nix::mount::mount(Some("bpf"), at, Some("bpf"), nix::mount::MsFlags::empty(), Some("mode=0700"))?)
}
