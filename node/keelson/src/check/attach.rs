//! Asks the kernel for each attach type that the datapath uses, by loading the smallest program for it: `r0 = 1; exit`.
#![expect(unsafe_code, reason = "aya probes program types, not attach types; bpf(2) has no safe wrapper")]

use proxy::datapath::HOOKS;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const CGROUP_SOCK_ADDR: u32 = 18;

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The attach types that the kernel refuses, with its reason.
pub(super) fn missing() -> Vec<String> {
    let refused = HOOKS.iter().filter_map(|(name, number)| load(*number).err().map(|error| (name, error)));
    refused.map(|(name, error)| format!("attach type {name} ({error})")).collect()
}

fn load(attach_type: u32) -> io::Result<OwnedFd> {
    // mov64 r0, 1; exit
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let attr = Load {
        prog_type: CGROUP_SOCK_ADDR,
        insn_cnt: 2,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..Load::default()
    };
    // SAFETY: attr is a valid prefix of union bpf_attr of the given size; what it points at outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Load>()) };
    match i32::try_from(fd) {
        // SAFETY: the call gave a new descriptor, which nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
