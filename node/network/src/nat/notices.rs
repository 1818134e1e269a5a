//! The kernel's notices of deleted tables: whoever flushes the whole rule set, as nftables' own service does when it is
//! restarted, takes ours along.

use std::io;

use rtnetlink::sys::constants::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

/// linux/netfilter/nfnetlink.h: the multicast group of nftables, and its part of a message's type.
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// linux/netfilter/nf_tables.h.
const NFT_MSG_DELTABLE: u16 = 2;
/// Length and type of a message lead it (linux/netlink.h), and each begins at a multiple of four bytes.
const HEADER: usize = 16;

/// A subscription in the network namespace it was opened in.
pub(crate) struct Notices(TokioSocket);

impl Notices {
    /// Subscribes.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().add_membership(NFNLGRP_NFTABLES)?;
        Ok(Self(socket))
    }

    /// Waits until a table may have been deleted: some table, or one in notices that came too fast to be kept.
    pub(crate) async fn table_deleted(&mut self) -> io::Result<()> {
        loop {
            match self.0.recv_from_full().await {
                Ok((datagram, _)) if deletes_table(&datagram) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn deletes_table(mut datagram: &[u8]) -> bool {
    const DELETED: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE;
    while let Some((length, rest)) = datagram.split_first_chunk::<4>()
        && let Some(kind) = rest.first_chunk::<2>()
    {
        if u16::from_ne_bytes(*kind) == DELETED {
            return true;
        }
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        datagram = datagram.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, kind: u16) -> Vec<u8> {
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(usize::try_from(length).unwrap().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn one_deletion_among_messages() {
        for (messages, expected) in [
            (vec![], false),
            (vec![message(20, 0x0a02)], true),
            (vec![message(20, 0x0a00), message(33, 0x0a08), message(20, 0x0a02)], true),
            (vec![message(20, 0x0a00), message(20, 0x0b02)], false),
            (vec![vec![0; 5]], false),
            (vec![vec![0; 64]], false),
        ] {
            assert_eq!(deletes_table(&messages.concat()), expected, "{messages:?}");
        }
    }
}
