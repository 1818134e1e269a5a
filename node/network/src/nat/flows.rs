//! Conversations over UDP that the kernel's connection tracking remembers. Every datagram of one goes where the first one
//! went: to a pod that is gone by now, or to none if none was there then. A peer that keeps its port and goes on sending
//! keeps such a conversation alive for ever; so they are forgotten when a host port leads elsewhere.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::sys::constants::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::HostPorts;
use crate::cidr::Cidr;

/// linux/netfilter/nfnetlink_conntrack.h: types of messages, and their attributes.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
/// linux/netlink.h.
const NESTED: u16 = 1 << 15;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// `struct nfgenmsg` for IPv4.
const FAMILY: [u8; 4] = [2, 0, 0, 0];
/// IANA's number.
const UDP: u8 = 17;

/// The UDP ports of the node that lead elsewhere than before.
pub(crate) fn changed(before: &HostPorts, now: &HostPorts) -> BTreeSet<u16> {
    let differs = |one: &HostPorts, other: &HostPorts| -> Vec<u16> {
        let of_udp = one.iter().filter(|((protocol, _), _)| *protocol == UDP);
        of_udp.filter(|(port, to)| other.get(*port) != Some(to)).map(|((_, at), _)| at.port()).collect()
    };
    differs(before, now).into_iter().chain(differs(now, before)).collect()
}

/// Forgets the conversations that others than `pods` have begun with one of these ports; gives how many.
pub(crate) async fn forget(ports: &BTreeSet<u16>, pods: &Cidr) -> io::Result<usize> {
    if ports.is_empty() {
        return Ok(0);
    }
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    let mut stale = Vec::new();
    ask(&mut socket, message(GET, REQUEST | DUMP, &[]), |body| {
        let tuple = find(body, TUPLE_ORIGINAL).filter(|tuple| is_begun_with(tuple, ports, pods));
        stale.extend(tuple.map(<[u8]>::to_vec));
    })
    .await?;
    for tuple in &stale {
        let gone = ask(&mut socket, message(DELETE, REQUEST | ACKNOWLEDGE, tuple), |_| {}).await;
        // One that has ended meanwhile is as well.
        gone.or_else(|error| if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })?;
    }
    Ok(stale.len())
}

/// Sends a message and takes what comes back, up to the end or an error.
async fn ask(socket: &mut TokioSocket, message: Vec<u8>, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send_to(&message, &SocketAddr::new(0, 0)).await?;
    loop {
        let (datagram, _) = socket.recv_from_full().await?;
        let mut rest = &datagram[..];
        while let Some((length, kind)) = head(rest) {
            let body = rest.get(HEADER..length).unwrap_or_default();
            match kind {
                NEW => take(body.get(FAMILY.len()..).unwrap_or_default()),
                DONE => return Ok(()),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length and type of the message that comes first.
fn head(messages: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(u32::from_ne_bytes(*messages.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
    (HEADER..=messages.len()).contains(&length).then_some((length, kind))
}

fn message(kind: u16, flags: u16, tuple: &[u8]) -> Vec<u8> {
    let attribute = if tuple.is_empty() { 0 } else { ATTRIBUTE_HEADER + tuple.len() };
    let length = u32::try_from(HEADER + FAMILY.len() + attribute).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(FAMILY);
    if attribute != 0 {
        message.extend(u16::try_from(attribute).unwrap_or(u16::MAX).to_ne_bytes());
        message.extend((TUPLE_ORIGINAL | NESTED).to_ne_bytes());
        message.extend(tuple);
    }
    message
}

fn is_begun_with(tuple: &[u8], ports: &BTreeSet<u16>, pods: &Cidr) -> bool {
    let read = || {
        let protocol = find(tuple, TUPLE_PROTOCOL)?;
        let number = *find(protocol, PROTOCOL_NUMBER)?.first()?;
        let port = u16::from_be_bytes(*find(protocol, PROTOCOL_DESTINATION_PORT)?.first_chunk()?);
        let source: [u8; 4] = *find(find(tuple, TUPLE_IP)?, IP_V4_SOURCE)?.first_chunk()?;
        Some(number == UDP && ports.contains(&port) && !pods.contains(&IpAddr::from(Ipv4Addr::from(source))))
    };
    read().unwrap_or(false)
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if kind & !NESTED == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_lead_elsewhere() {
        let port = |protocol, at: &str, to: &str| ((protocol, at.parse().unwrap()), to.parse().unwrap());
        let before = HostPorts::from([
            port(17, "0.0.0.0:53", "10.0.0.1:53"),
            port(17, "0.0.0.0:54", "10.0.0.1:53"),
            port(17, "0.0.0.0:55", "10.0.0.1:53"),
            port(6, "0.0.0.0:80", "10.0.0.1:80"),
        ]);
        let now = HostPorts::from([
            port(17, "0.0.0.0:53", "10.0.0.1:53"),
            port(17, "0.0.0.0:54", "10.0.0.2:53"),
            port(17, "192.0.2.1:56", "10.0.0.2:53"),
        ]);
        assert_eq!(changed(&before, &now), BTreeSet::from([54, 55, 56]));
        assert_eq!(changed(&now, &now), BTreeSet::new());
    }

    /// The tuple in a message that the kernel sent: 192.0.2.9:5000 → 192.0.2.1:53 over UDP.
    #[test]
    fn whose_conversation() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let addresses = [attribute(1, &[192, 0, 2, 9]), attribute(2, &[192, 0, 2, 1])].concat();
        let protocol =
            [attribute(1, &[17]), attribute(2, &5000_u16.to_be_bytes()), attribute(3, &53_u16.to_be_bytes())].concat();
        let tuple = [attribute(1 | NESTED, &addresses), attribute(2 | NESTED, &protocol)].concat();
        let (pods, here) = ("10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap());
        assert!(is_begun_with(&tuple, &[53].into(), &pods));
        assert!(!is_begun_with(&tuple, &[5000].into(), &pods));
        assert!(!is_begun_with(&tuple, &[53].into(), &here), "pods never come by a host port");
        for cut in 0..tuple.len() {
            assert!(!is_begun_with(&tuple[..cut], &[53].into(), &pods), "{cut}");
        }
    }
}
