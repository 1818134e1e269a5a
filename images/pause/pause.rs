//! The first process of a pod: waits to be told to go, reaps orphans where the pod shares its process namespace.
//!
//! No libc, only system calls: the whole program is a few hundred bytes of code.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const SET_SIZE: usize = 8;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    result
}

/// The kernel enters here with an aligned stack that a call would misalign.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    #[cfg(target_arch = "x86_64")]
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {run}", "ud2", run = sym run);
    #[cfg(target_arch = "aarch64")]
    naked_asm!("mov x29, #0", "mov x30, #0", "b {run}", run = sym run);
}

extern "C" fn run() -> ! {
    // Blocked signals are delivered by sigtimedwait, even to a process 1, which would ignore them otherwise.
    let set: u64 = (1 << (SIGINT - 1)) | (1 << (SIGTERM - 1)) | (1 << (SIGCHLD - 1));
    let set = &raw const set as usize;
    // SAFETY: `set` outlives all calls, the other pointers are null where the kernel allows it.
    unsafe {
        syscall(nr::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SET_SIZE);
        loop {
            match syscall(nr::RT_SIGTIMEDWAIT, set, 0, 0, SET_SIZE) as u64 {
                SIGINT | SIGTERM => {
                    syscall(nr::EXIT_GROUP, 0, 0, 0, 0);
                }
                SIGCHLD => while syscall(nr::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
                _ => {}
            }
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
