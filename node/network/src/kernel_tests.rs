//! CNI in this machine's kernel: a network namespace as the node, others as pods, all gone with the test.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use crate::cni::{Command, Request, Response, Server};
use crate::ipam::Ipam;
use crate::{links, nat, netns, routes};

const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 99, 1);

/// Runs `test` on a thread in a namespace of its own, with a runtime and a netlink connection there.
fn as_node<F: Future<Output = ()>>(test: impl FnOnce(Handle) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "the kernel's tests need root, and in CI a skip is a failure");
        eprintln!("skipped: needs root");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().set(LinkMessageBuilder::<LinkUnspec>::new().index(1).up().build()).execute().await.unwrap();
            handle.address().add(1, NODE_IP.into(), 32).execute().await.unwrap();
            netns::sysctl("ipv4/ip_forward", "1").unwrap();
            test(handle).await;
        });
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// A namespace that lives as long as the file.
fn pod() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

fn within<T: Send + 'static>(pod: &File, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let pod = pod.try_clone().unwrap();
    std::thread::spawn(move || {
        setns(&pod, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

fn request(command: Command, container: &str, pod: Option<&File>) -> Request {
    let netns = pod.map(|pod| format!("/proc/self/fd/{}", pod.as_raw_fd())).unwrap_or_default();
    Request {
        command,
        container: container.into(),
        netns,
        interface: "eth0".into(),
        pod: "test/pod".into(),
        ports: Vec::new(),
    }
}

async fn server(handle: &Handle, directory: &tempfile::TempDir) -> std::sync::Arc<Server> {
    let ipam = Ipam::open(directory.path().join("addresses.json")).unwrap();
    let server = Server::new(handle.clone(), ipam, NODE_IP.into(), Some(1400)).await.unwrap();
    server.set_range("10.244.7.0/24".parse().unwrap());
    server
}

async fn add(server: &Server, container: &str, pod: &File) -> Ipv4Addr {
    match server.handle(request(Command::Add, container, Some(pod))).await {
        Response::Attached(attachment) => attachment.address,
        other => panic!("{other:?}"),
    }
}

/// Listens in one namespace at a free port, connects from where `from` does; gives the address that the listener sees. (A port
/// that was listened at a moment ago may not be free: a child that another test is just making holds all sockets until exec.)
fn talk(listener_in: &File, at: IpAddr, from: impl FnOnce(SocketAddr) -> TcpStream) -> IpAddr {
    let (ready, listening) = std::sync::mpsc::channel();
    let listener = within(listener_in, move || {
        let listener = TcpListener::bind((at, 0)).unwrap();
        ready.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip()
    });
    let port = listening.recv_timeout(Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    from(SocketAddr::new(at, port)).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    listener.join().unwrap()
}

/// How many first packets of connections this namespace had to send again.
fn syn_retransmits() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").unwrap().1.parse().unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap()
}

#[test]
fn pods_reach_each_other_and_the_node() {
    as_node(|handle| async move {
        let directory = tempfile::tempdir().unwrap();
        let server = server(&handle, &directory).await;
        let (a, b) = (pod(), pod());
        let (at_a, at_b) = (add(&server, "aaaa", &a).await, add(&server, "bbbb", &b).await);
        assert_eq!((at_a.to_string(), at_b.to_string()), ("10.244.7.2".into(), "10.244.7.3".into()));
        assert_eq!(add(&server, "aaaa", &a).await, at_a, "a retry changes nothing");

        let to_a = at_a.into();
        let from_b = talk(&a, to_a, |to| within(&b, move || connect(to)).join().unwrap());
        assert_eq!(from_b, IpAddr::from(at_b), "no address is translated between pods");
        assert_eq!(within(&b, syn_retransmits).join().unwrap(), 0, "a new pod's first packet arrives");
        assert_eq!(talk(&a, to_a, connect), IpAddr::from(NODE_IP), "the node speaks by its own address");
        assert_eq!(syn_retransmits(), 0, "the node's first packet to a pod arrives");
        let node = File::open("/proc/thread-self/ns/net").unwrap();
        let to_node = |to| within(&a, move || connect(to)).join().unwrap();
        assert_eq!(talk(&node, NODE_IP.into(), to_node), IpAddr::from(at_a));
        let mtu = within(&a, || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).join().unwrap();
        assert!(mtu.contains("eth0"), "{mtu}");

        assert!(matches!(server.handle(request(Command::Check, "aaaa", Some(&a))).await, Response::Done));
        assert!(matches!(server.handle(request(Command::Check, "cccc", Some(&a))).await, Response::Failed(_)));
        // Routes that a network manager takes away are missed and put back.
        let (connection, _keep, messages) =
            rtnetlink::new_multicast_connection(&[rtnetlink::MulticastGroup::Ipv4Route]).unwrap();
        tokio::spawn(connection);
        let mut losses = routes::Losses::new(messages);
        let flush = ["route", "flush", "proto", "108"];
        assert!(std::process::Command::new("ip").args(flush).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(5), losses.next()).await.expect("it is told");
        server.restore_routes().await.unwrap();
        assert_eq!(talk(&a, to_a, connect), IpAddr::from(NODE_IP));
        // A restart finds what was there.
        drop(server);
        let server = self::server(&handle, &directory).await;
        assert_eq!(talk(&a, to_a, connect), IpAddr::from(NODE_IP));
        assert!(matches!(server.handle(request(Command::Check, "bbbb", Some(&b))).await, Response::Done));
        // DEL, also with the namespace gone, also twice.
        drop(b);
        for _ in 0..2 {
            assert!(matches!(server.handle(request(Command::Del, "bbbb", None)).await, Response::Done));
        }
        assert!(matches!(server.handle(request(Command::Check, "aaaa", Some(&a))).await, Response::Done));
        assert!(matches!(server.handle(request(Command::Del, "aaaa", Some(&a))).await, Response::Done));
        assert_eq!(links::ours(&handle).await.unwrap(), BTreeSet::new());
        assert_eq!(add(&server, "dddd", &a).await.to_string(), "10.244.7.4");
    });
}

#[test]
fn pods_get_the_mtu_of_the_nodes_link() {
    as_node(|handle| async move {
        assert_eq!(links::mtu_of(&handle, NODE_IP.into()).await.unwrap(), None, "a loopback's says nothing");
        let uplink: IpAddr = Ipv4Addr::new(192, 168, 98, 1).into();
        assert_eq!(links::mtu_of(&handle, uplink).await.unwrap(), None);
        let link = rtnetlink::LinkVeth::new("uplink", "other").mtu(1380).build();
        handle.link().add(link).execute().await.unwrap();
        let index = nix::net::if_::if_nametoindex("uplink").unwrap();
        handle.address().add(index, uplink, 24).execute().await.unwrap();
        assert_eq!(links::mtu_of(&handle, uplink).await.unwrap(), Some(1380));
    });
}

#[test]
fn half_an_attachment_leaves_nothing() {
    as_node(|handle| async move {
        let directory = tempfile::tempdir().unwrap();
        let server = server(&handle, &directory).await;
        let missing = Request { netns: "/nowhere".into(), ..request(Command::Add, "aaaa", None) };
        assert!(matches!(server.handle(missing).await, Response::Failed(_)));
        // The pod has another eth0 already.
        let a = pod();
        add(&server, "aaaa", &a).await;
        let Response::Failed(error) = server.handle(request(Command::Add, "bbbb", Some(&a))).await else { panic!() };
        assert!(error.details.contains("eth0"), "{error}");
        assert_eq!(links::ours(&handle).await.unwrap().len(), 1);
        // Links that no container has go at the next start.
        drop(server);
        std::fs::remove_file(directory.path().join("addresses.json")).unwrap();
        self::server(&handle, &directory).await;
        assert_eq!(links::ours(&handle).await.unwrap(), BTreeSet::new());
    });
}

#[test]
fn routes_and_rules_are_replaced_whole() {
    as_node(|handle| async move {
        let route = |range: &str, via: Option<&str>| (range.parse().unwrap(), via.map(|via| via.parse().unwrap()));
        let count = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap();
            table.matches("10.244.").count()
        };
        let all = routes::Routes::from([route("10.244.1.0/24", None), route("10.244.2.0/24", None)]);
        for _ in 0..2 {
            routes::apply(&handle, &all).await.unwrap();
        }
        assert!(count() >= 2);
        routes::remove(&handle).await.unwrap();
        assert_eq!(count(), 0);
        let rules = |nodes: &[Ipv4Addr]| {
            let (pods, cluster) = ("10.244.1.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap());
            let port = |protocol, at: &str| ((protocol, at.parse().unwrap()), "10.244.1.2:80".parse().unwrap());
            let ports = [port(6, "0.0.0.0:8080"), port(132, "0.0.0.0:8080"), port(17, "192.168.99.1:53")].into();
            nat::script(&pods, &cluster, &nodes.iter().copied().collect(), &ports)
        };
        nat::apply(&rules(&[])).await.unwrap();
        nat::apply(&rules(&[NODE_IP])).await.unwrap();
        nat::remove().await.unwrap();
        nat::remove().await.unwrap();
        assert!(nat::apply("nonsense").await.is_err());
    });
}

#[test]
fn a_deleted_table_is_noticed() {
    as_node(|_| async {
        let rules = || {
            let (pods, cluster) = ("10.244.1.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap());
            nat::script(&pods, &cluster, &[NODE_IP].into(), &nat::HostPorts::new())
        };
        let mut notices = nat::Notices::open().unwrap();
        assert!(!nat::present().await.unwrap());
        for flushed in [true, false] {
            nat::apply(&rules()).await.unwrap();
            assert!(nat::present().await.unwrap());
            // Our own replacement deletes and makes the table: noticed, and it is there.
            notices.table_deleted().await.unwrap();
            if flushed {
                nat::apply("flush ruleset").await.unwrap();
                notices.table_deleted().await.unwrap();
                assert!(!nat::present().await.unwrap());
            }
        }
    });
}

#[test]
fn conversations_are_forgotten_by_port() {
    as_node(|_| async {
        let (pods, cluster) = ("10.244.1.0/24".parse().unwrap(), "10.244.0.0/16".parse().unwrap());
        // With rules that translate, the kernel remembers who talks.
        nat::apply(&nat::script(&pods, &cluster, &[NODE_IP].into(), &nat::HostPorts::new())).await.unwrap();
        let server = std::net::UdpSocket::bind((NODE_IP, 0)).unwrap();
        let other = std::net::UdpSocket::bind((NODE_IP, 0)).unwrap();
        let port = |socket: &std::net::UdpSocket| socket.local_addr().unwrap().port();
        for to in [&server, &server, &other] {
            std::net::UdpSocket::bind((NODE_IP, 0)).unwrap().send_to(b"?", to.local_addr().unwrap()).unwrap();
        }
        let nodes = "192.168.99.0/24".parse().unwrap();
        for (ports, pods, expected) in [
            (vec![], &pods, 0),
            (vec![port(&server)], &nodes, 0),
            (vec![port(&server)], &pods, 2),
            (vec![port(&server), port(&other)], &pods, 1),
        ] {
            assert_eq!(nat::flows::forget(&ports.into_iter().collect(), pods).await.unwrap(), expected);
        }
    });
}
