//! Links, addresses and routes of pods, by rtnetlink.
//!
//! A pod's `eth0` and the host's `keelXXXXXXXXXXX` are the two ends of a veth pair. The pod has its address alone (/32)
//! and sends everything to a link-local gateway whose neighbour entry is permanent, so that no ARP is needed in the
//! pod; the host has a route and a permanent neighbour entry for the pod's address.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns;

/// What pods use as their gateway; it is on no interface.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// First letters of the host's ends.
pub const PREFIX: &str = "keel";
/// Marks routes to pods as ours.
pub(crate) const POD_ROUTES: RouteProtocol = RouteProtocol::Other(108);

/// A failed step on links.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The kernel said no.
    #[error("{0}: {1}")]
    Netlink(String, rtnetlink::Error),
    /// A setting or a namespace.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A link that should be there.
    #[error("there is no link {0}")]
    Missing(String),
    /// Something is not as ADD left it.
    #[error("{0}")]
    Wrong(String),
}

fn step(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    |error| LinkError::Netlink(what.into(), error)
}

/// Whether the kernel said that the thing is there already.
fn exists(error: &rtnetlink::Error) -> bool {
    errno(error) == Some(libc::EEXIST)
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

/// What one pod's link looks like. Everything is derived from the container's id, so that a retry makes the same.
#[derive(Clone, Debug)]
pub(crate) struct PodLink {
    /// Name of the host's end.
    pub(crate) host_interface: String,
    /// Hardware address of the host's end.
    pub(crate) host_mac: [u8; 6],
    /// Name of the pod's end.
    pub(crate) interface: String,
    /// Hardware address of the pod's end.
    pub(crate) mac: [u8; 6],
}

impl PodLink {
    /// The link of a container's interface.
    pub(crate) fn of(container: &str, interface: &str) -> Self {
        let hash = fnv(format!("{container}/{interface}").as_bytes());
        // 15 characters are the most that Linux takes.
        let host_interface = format!("{PREFIX}{:011x}", hash >> 20);
        let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
        // Locally administered; the last bit of the first byte (multicast) is clear.
        Self {
            host_interface,
            host_mac: [0x0a, a, b, c, d, e],
            interface: interface.to_owned(),
            mac: [0x0e, a, b, c, d, e],
        }
    }
}

/// FNV-1a: names must stay the same over releases, which std's hasher does not promise.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The text of a hardware address.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Makes the pair and everything on it. A link that an earlier try left is replaced.
pub(crate) async fn attach(
    host: &Handle,
    namespace: File,
    link: &PodLink,
    address: Ipv4Addr,
    node_ip: IpAddr,
    mtu: Option<u32>,
) -> Result<(), LinkError> {
    delete(host, &link.host_interface).await?;
    let mut message = LinkVeth::new(&link.host_interface, &link.interface).address(link.host_mac.to_vec());
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(link.interface.clone())
        .address(link.mac.to_vec())
        .setns_by_fd(namespace.as_raw_fd());
    if let Some(mtu) = mtu {
        message = message.mtu(mtu);
        peer = peer.mtu(mtu);
    }
    let message = message.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    let what = format!("make link {} with {} in the pod", link.host_interface, link.interface);
    host.link().add(message).execute().await.map_err(step(what))?;
    prepare_host(host, link).await?;
    let inner = link.clone();
    netns::inside(namespace, move |handle| async move { configure_pod(&handle, &inner, address).await }).await?;
    finish_host(host, link, address, node_ip).await
}

async fn configure_pod(handle: &Handle, link: &PodLink, address: Ipv4Addr) -> Result<(), LinkError> {
    up(handle, "lo").await?;
    netns::sysctl(&format!("ipv6/conf/{}/disable_ipv6", link.interface), "1")?;
    let index = get(handle, &link.interface).await?.header.index;
    let name = &link.interface;
    match handle.address().add(index, address.into(), 32).execute().await {
        Err(error) if !exists(&error) => return Err(step(format!("add {address} to {name}"))(error)),
        _ => {}
    }
    up(handle, name).await?;
    handle
        .neighbours()
        .add(index, GATEWAY.into())
        .link_layer_address(&link.host_mac)
        .state(NeighbourState::Permanent)
        .replace()
        .execute()
        .await
        .map_err(step(format!("add the gateway's neighbour entry to {name}")))?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(gateway).replace().execute().await.map_err(step("add the route to the gateway"))?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .gateway(GATEWAY)
        .output_interface(index)
        .build();
    handle.route().add(default).replace().execute().await.map_err(step("add the default route"))
}

/// The host's end goes up before the pod's. The end that goes up second can send at once; the first one only after the
/// kernel's link watch has run, which asking for the link waits for. So no packet of a pod's is lost at its start.
async fn prepare_host(handle: &Handle, link: &PodLink) -> Result<(), LinkError> {
    let name = &link.host_interface;
    netns::sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    netns::sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    netns::sysctl(&format!("ipv4/conf/{name}/forwarding"), "1")?;
    up(handle, name).await
}

async fn finish_host(handle: &Handle, link: &PodLink, address: Ipv4Addr, node_ip: IpAddr) -> Result<(), LinkError> {
    let name = &link.host_interface;
    let index = get(handle, name).await?.header.index;
    handle
        .neighbours()
        .add(index, address.into())
        .link_layer_address(&link.mac)
        .state(NeighbourState::Permanent)
        .replace()
        .execute()
        .await
        .map_err(step(format!("add the pod's neighbour entry to {name}")))?;
    route(handle, name, address, node_ip).await
}

/// Leads what is for a pod's address over its link.
pub(crate) async fn route(handle: &Handle, name: &str, address: Ipv4Addr, node_ip: IpAddr) -> Result<(), LinkError> {
    let index = get(handle, name).await?.header.index;
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .protocol(POD_ROUTES);
    if let IpAddr::V4(node_ip) = node_ip {
        route = route.pref_source(node_ip);
    }
    let what = format!("add the route to {address} over {name}");
    handle.route().add(route.build()).replace().execute().await.map_err(step(what))
}

/// Brings the loopback device of a namespace up.
pub(crate) async fn loopback_up(namespace: File) -> Result<(), LinkError> {
    netns::inside(namespace, |handle| async move { up(&handle, "lo").await }).await
}

/// Checks that a pod's link is as [`attach`] left it.
pub(crate) async fn check(host: &Handle, namespace: File, link: &PodLink, address: Ipv4Addr) -> Result<(), LinkError> {
    get(host, &link.host_interface).await?;
    let link = link.clone();
    netns::inside(namespace, move |handle| async move {
        let index = get(&handle, &link.interface).await?.header.index;
        let mut addresses =
            handle.address().get().set_link_index_filter(index).set_address_filter(address.into()).execute();
        match addresses.try_next().await.map_err(step("list addresses"))? {
            Some(_) => Ok(()),
            None => Err(LinkError::Wrong(format!("{} does not have address {address}", link.interface))),
        }
    })
    .await
}

async fn up(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let index = get(handle, name).await?.header.index;
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    handle.link().set(message).execute().await.map_err(step(format!("bring {name} up")))
}

async fn get(handle: &Handle, name: &str) -> Result<LinkMessage, LinkError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(LinkError::Missing(name.to_owned())),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Err(LinkError::Missing(name.to_owned())),
        Err(error) => Err(step(format!("find link {name}"))(error)),
    }
}

/// Whether there is a link of this name.
pub(crate) async fn is_there(handle: &Handle, name: &str) -> Result<bool, LinkError> {
    match get(handle, name).await {
        Ok(_) => Ok(true),
        Err(LinkError::Missing(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a link, and with it its other end and the routes over it. One that is not there is no error.
pub(crate) async fn delete(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let index = match get(handle, name).await {
        Ok(link) => link.header.index,
        Err(LinkError::Missing(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    match handle.link().del(index).execute().await {
        Err(error) if errno(&error) != Some(libc::ENODEV) => Err(step(format!("delete link {name}"))(error)),
        _ => Ok(()),
    }
}

/// The MTU of the link that has an address: the largest packet that leaves the node whole. `None` where no link has it, or
/// where it is a loopback's, which says nothing of the way out.
pub(crate) async fn mtu_of(handle: &Handle, address: IpAddr) -> Result<Option<u32>, LinkError> {
    let mut addresses = handle.address().get().set_address_filter(address).execute();
    let Some(found) = addresses.try_next().await.map_err(step("list addresses"))? else { return Ok(None) };
    let mut links = handle.link().get().match_index(found.header.index).execute();
    let Some(link) = links.try_next().await.map_err(step("find the node's link"))? else { return Ok(None) };
    if link.header.flags.contains(LinkFlags::Loopback) {
        return Ok(None);
    }
    Ok(link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }))
}

/// The names of our links in this namespace. While links come and go, the kernel's list may lack one that stays.
pub(crate) async fn ours(handle: &Handle) -> Result<BTreeSet<String>, LinkError> {
    let mut names = BTreeSet::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(step("list links"))? {
        names.extend(name_of(&link).filter(|name| name.starts_with(PREFIX) && name.len() == 15).map(str::to_owned));
    }
    Ok(names)
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let link = PodLink::of("0123456789abcdef", "eth0");
        assert!(link.host_interface.starts_with(PREFIX));
        assert_eq!(link.host_interface.len(), 15);
        assert_ne!(link.host_interface, PodLink::of("0123456789abcdef", "eth1").host_interface);
        assert_ne!(link.mac, link.host_mac);
        assert!(mac_text(&link.mac).starts_with("0e:"));
    }
}
