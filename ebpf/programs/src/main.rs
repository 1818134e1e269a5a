//! The eBPF programs of a node: translation of Services at the socket hooks.
//!
//! A program sees a socket's destination before the kernel routes it. Where it is a Service's address, the program
//! writes a backend's address in its place; where a program in user space asks for the peer's address later, the
//! Service's address is put back. Packets are never touched, so an established connection costs nothing.

#![no_std]
#![no_main]

mod balance;
mod connect;
mod family;
mod maps;
mod reverse;
mod sendmsg;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could come here.
    loop {}
}

/// The kernel lets only programs under a GPL-compatible licence use some of the helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
