//! Routes to the pods of other nodes, by those nodes' addresses, and what happens to addresses of ours that no pod has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use informer::kinds::Node;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::NetworkError;
use crate::cidr::Cidr;
use crate::links::POD_ROUTES;
use crate::nodes::{addresses, range};

/// Marks these routes as ours.
const NODE_ROUTES: RouteProtocol = RouteProtocol::Other(107);

/// What the kernel tells of routes.
type Message = (NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr);

/// Tells when routes of ours are deleted. systemd-networkd deletes all that are not its own whenever it reloads.
pub(crate) struct Losses(UnboundedReceiver<Message>);

impl Losses {
    /// From a connection that hears of routes.
    pub(crate) fn new(messages: UnboundedReceiver<Message>) -> Self {
        Self(messages)
    }

    /// Returns once some were.
    pub(crate) async fn next(&mut self) {
        while let Some((message, _)) = self.0.next().await {
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) = message.payload else { continue };
            if [NODE_ROUTES, POD_ROUTES].contains(&route.header.protocol) {
                // They go in numbers: what has been told by now is one loss.
                while self.0.next().now_or_never().flatten().is_some() {}
                return;
            }
        }
        // The connection ends with the process.
        std::future::pending::<()>().await;
    }
}

/// Where packets to a range go; `None`: nowhere, and the sender is told.
pub(crate) type Routes = BTreeMap<Cidr, Option<Ipv4Addr>>;

/// The routes that this node should have.
pub(crate) fn wanted(nodes: &[Arc<Node>], own: &str) -> Routes {
    let mut routes = Routes::new();
    for node in nodes {
        let Some(range) = range(node).filter(|range| range.address().is_ipv4()) else { continue };
        if node.metadata.name == own {
            // More precise routes lead to the pods there are. Without this one, packets to the others would take the
            // default route, and come back.
            routes.insert(range, None);
            continue;
        }
        let gateway = addresses(node).find_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None });
        if let Some(gateway) = gateway {
            routes.insert(range, Some(gateway));
        }
    }
    routes
}

/// Makes the routes so. A node that cannot be reached directly is told of, and does not hinder the others.
pub(crate) async fn apply(handle: &Handle, wanted: &Routes) -> Result<(), NetworkError> {
    let found = list(handle).await?;
    for (range, route) in found {
        if !wanted.contains_key(&range) {
            handle.route().del(route).execute().await.map_err(failed("delete", &range))?;
        }
    }
    for (range, gateway) in wanted {
        let IpAddr::V4(address) = range.address() else { continue };
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, range.length()).protocol(NODE_ROUTES);
        let route = match gateway {
            Some(gateway) => route.gateway(*gateway),
            None => route.kind(RouteType::Unreachable),
        };
        if let Err(error) = handle.route().add(route.build()).replace().execute().await {
            let error = failed("add", range)(error);
            tracing::error!(error = &error as &dyn std::error::Error, ?gateway, "pods of a node cannot be reached");
        }
    }
    Ok(())
}

/// Removes every route of ours.
pub(crate) async fn remove(handle: &Handle) -> Result<(), NetworkError> {
    apply(handle, &Routes::new()).await
}

fn failed(action: &'static str, range: &Cidr) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Route { action, range: range.to_string(), source }
}

async fn list(handle: &Handle) -> Result<Vec<(Cidr, RouteMessage)>, NetworkError> {
    let any = "0.0.0.0/0".parse().expect("a valid range");
    let mut found = Vec::new();
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    while let Some(route) = routes.try_next().await.map_err(failed("list", &any))? {
        if route.header.protocol != NODE_ROUTES {
            continue;
        }
        let destination = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
        let length = route.header.destination_prefix_length;
        let range = destination.and_then(|address| format!("{address}/{length}").parse().ok());
        found.extend(range.map(|range| (range, route)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn routes_of_a_cluster() {
        let node = |name: &str, cidr: &str, addresses: Value| -> Arc<Node> {
            let object =
                json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr}, "status": {"addresses": addresses}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let at =
            |address: &str| json!([{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": address}]);
        let nodes = [
            node("a", "10.244.0.0/24", at("192.168.0.1")),
            node("b", "10.244.1.0/24", at("192.168.0.2")),
            node("new", "", at("192.168.0.3")),
            node("no-address", "10.244.3.0/24", json!([])),
            node("six", "fd00:3::/64", at("fd00::3")),
        ];
        let routes: Vec<_> = wanted(&nodes, "a").into_iter().map(|(range, via)| format!("{range} {via:?}")).collect();
        assert_eq!(routes, ["10.244.0.0/24 None", "10.244.1.0/24 Some(192.168.0.2)"]);
    }
}
