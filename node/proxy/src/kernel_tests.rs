//! The programs in this machine's kernel: a network namespace and a cgroup of the test's own, real sockets.
//!
//! Addresses of backends are on the loopback device; those of services exist nowhere, so that only translation can
//! make a connection to them succeed.
#![expect(unsafe_code, reason = "a test's own network namespace needs an interface flag set by ioctl")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use informer::ObjectKey;

use crate::datapath;
use crate::dump::dump;
use crate::kernel::Maps;
use crate::reconcile::Reconciler;
use crate::state::{self, Desired, Family, Frontend, HostPorts, Owner, Protocol, SetKey, Target};

/// One test at a time: the whole process moves into the test's cgroup.
static TURN: Mutex<()> = Mutex::new(());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A cgroup and a pin directory, taken away when dropped.
struct Bench {
    cgroup: PathBuf,
    home: PathBuf,
    pins: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
        let root = PathBuf::from(root.expect("cgroup2 is mounted")[1]);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
        let name = format!("keelson-proxy-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = root.join(&name);
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        Self { cgroup, home: root.join(own), pins: Path::new("/sys/fs/bpf").join(name), _turn: turn }
    }

    /// What a starting proxy does before the first reconciliation.
    fn load(&self) -> (datapath::Programs, Reconciler<Maps>) {
        let (programs, maps) = datapath::load(&self.pins).unwrap();
        (programs, Reconciler::new(maps).unwrap())
    }

    /// A proxy that has started with these services and then died.
    fn run(&self, services: &[Service]) -> u64 {
        let (programs, mut reconciler) = self.load();
        let nodes = BTreeMap::from([("127.0.0.1".parse().unwrap(), abi::node_address::LOOPBACK)]);
        reconciler.apply_nodes(&nodes).unwrap();
        for service in services {
            reconciler.apply(&owner(service.name), &service.desired()).unwrap();
        }
        reconciler.finish_adoption().unwrap();
        let _links = attach(programs, self);
        crate::sys::grace_period().unwrap();
        reconciler.clean().unwrap();
        reconciler.writes()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = datapath::uninstall(&self.pins);
        let _ = fs::write(self.home.join("cgroup.procs"), std::process::id().to_string());
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            eprintln!("{}: {error}", self.cgroup.display());
        }
    }
}

struct Service {
    name: &'static str,
    protocol: Protocol,
    /// `None` for a node port.
    address: Option<&'static str>,
    port: u16,
    backends: Vec<SocketAddr>,
    affinity: u32,
}

impl Service {
    fn desired(&self) -> Desired {
        let address: Option<IpAddr> = self.address.map(|text| text.parse().unwrap());
        let family = address.as_ref().map_or(Family::V4, crate::state::family_of);
        let set = SetKey { family, port: String::new(), protocol: self.protocol, local: false };
        let frontend = Frontend { family, address, port: self.port, protocol: self.protocol };
        Desired {
            sets: BTreeMap::from([(set.clone(), self.backends.clone())]),
            frontends: BTreeMap::from([(frontend, Target { set, flags: 0, affinity: self.affinity })]),
            draining: BTreeSet::new(),
        }
    }
}

fn attach(programs: datapath::Programs, bench: &Bench) -> datapath::Links {
    programs.attach(&bench.cgroup).unwrap_or_else(|failure| panic!("{:?}", failure.1))
}

fn owner(name: &str) -> Owner {
    Owner::Service(ObjectKey::new("test", name))
}

fn service(
    name: &'static str,
    protocol: Protocol,
    address: &'static str,
    port: u16,
    backends: &[SocketAddr],
) -> Service {
    Service { name, protocol, address: Some(address), port, backends: backends.to_vec(), affinity: 0 }
}

/// Runs the test on a thread in a network namespace of its own with the loopback device up; says why where it cannot.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "the kernel's tests need root, and in CI a skip is a failure");
        eprintln!("skipped: needs root");
        return;
    }
    let result = std::thread::spawn(|| {
        enter_namespace();
        test();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn enter_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: a zeroed ifreq is valid; the ioctl reads the name and the flags.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        assert_eq!(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request), 0);
    }
}

/// Answers every connection and datagram with its name. Ends when the test's sockets are gone.
fn tcp_server(address: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(name.as_bytes());
        }
    });
    at
}

fn udp_server(address: &str, name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
    at
}

fn ask_tcp(address: &str) -> std::io::Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))?;
    let peer = stream.peer_addr()?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text, peer))
}

/// Sends unconnected, and returns the answer and whom it came from.
fn ask_udp(local: &str, address: &str) -> std::io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn ask_connected_udp(local: &str, address: &str) -> std::io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(socket.peer_addr()?, from);
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

fn answer(name: &str, from: &str) -> (String, SocketAddr) {
    (name.to_owned(), from.parse().unwrap())
}

#[test]
fn sockets_reach_services() {
    in_namespace(|| {
        let bench = Bench::new();
        let tcp4 = tcp_server("127.0.0.2:0", "tcp4");
        let tcp6 = tcp_server("[::1]:0", "tcp6");
        let udp4 = udp_server("127.0.0.2:0", "udp4");
        let udp6 = udp_server("[::1]:0", "udp6");
        bench.run(&[
            service("tcp4", Protocol::Tcp, "10.96.0.1", 80, &[tcp4]),
            service("tcp6", Protocol::Tcp, "fd00:96::1", 80, &[tcp6]),
            service("udp4", Protocol::Udp, "10.96.0.1", 53, &[udp4]),
            service("udp6", Protocol::Udp, "fd00:96::1", 53, &[udp6]),
            service("empty", Protocol::Tcp, "10.96.0.2", 80, &[]),
            service("empty-udp", Protocol::Udp, "10.96.0.2", 53, &[]),
            Service { address: None, ..service("port", Protocol::Tcp, "0.0.0.0", 30080, &[tcp4]) },
        ]);
        assert_eq!(ask_tcp("10.96.0.1:80").unwrap(), answer("tcp4", "10.96.0.1:80"));
        assert_eq!(ask_tcp("[::ffff:10.96.0.1]:80").unwrap(), answer("tcp4", "[::ffff:10.96.0.1]:80"));
        assert_eq!(ask_tcp("[fd00:96::1]:80").unwrap(), answer("tcp6", "[fd00:96::1]:80"));
        assert_eq!(ask_udp("0.0.0.0:0", "10.96.0.1:53").unwrap(), answer("udp4", "10.96.0.1:53"));
        assert_eq!(ask_udp("[::]:0", "[::ffff:10.96.0.1]:53").unwrap(), answer("udp4", "[::ffff:10.96.0.1]:53"));
        assert_eq!(ask_udp("[::]:0", "[fd00:96::1]:53").unwrap(), answer("udp6", "[fd00:96::1]:53"));
        assert_eq!(ask_connected_udp("0.0.0.0:0", "10.96.0.1:53").unwrap(), answer("udp4", "10.96.0.1:53"));
        assert_eq!(ask_connected_udp("[::]:0", "[fd00:96::1]:53").unwrap(), answer("udp6", "[fd00:96::1]:53"));
        // Straight to the backend: nothing is translated, forth or back.
        assert_eq!(ask_tcp(&tcp4.to_string()).unwrap(), ("tcp4".to_owned(), tcp4));
        assert_eq!(ask_udp("0.0.0.0:0", &udp4.to_string()).unwrap(), ("udp4".to_owned(), udp4));
        // No backends: as if nobody listened.
        for refused in [
            ask_tcp("10.96.0.2:80"),
            ask_udp("0.0.0.0:0", "10.96.0.2:53"),
            ask_connected_udp("0.0.0.0:0", "10.96.0.2:53"),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        // A node port answers on the node's loopback, but a pod's loopback is the pod's own.
        assert_eq!(ask_tcp("127.0.0.1:30080").unwrap(), answer("tcp4", "127.0.0.1:30080"));
        let pod = std::thread::spawn(|| {
            enter_namespace();
            ask_tcp("127.0.0.1:30080").unwrap_err().kind()
        });
        assert_eq!(pod.join().unwrap(), ErrorKind::ConnectionRefused);
        let found = dump(&bench.pins).unwrap();
        assert_eq!(found.services.len(), 7);
        assert_eq!((found.metrics.no_backend, found.metrics.broken), (3, 0));
        assert!(found.metrics.connected >= 6 && found.metrics.sent >= 3, "{:?}", found.metrics);
    });
}

#[test]
fn host_ports_are_the_nodes_own() {
    in_namespace(|| {
        let bench = Bench::new();
        let (any, one, own) =
            (tcp_server("127.0.0.2:0", "any"), tcp_server("127.0.0.3:0", "one"), udp_server("127.0.0.4:0", "own"));
        let (programs, mut reconciler) = bench.load();
        let port = |protocol, at: &str, to| ((protocol, at.parse().unwrap()), to);
        let ports = HostPorts::from([
            port(6, "0.0.0.0:80", any),
            port(6, "127.0.0.1:81", one),
            port(6, "127.9.9.1:81", any),
            port(17, "127.9.9.1:81", own),
        ]);
        // The node, itself and another.
        let nodes = [
            ("127.0.0.1", abi::node_address::LOOPBACK),
            ("127.9.9.1", abi::node_address::LOCAL),
            ("127.9.9.2", abi::node_address::REMOTE),
        ];
        let nodes = nodes.map(|(address, kind)| (address.parse().unwrap(), kind)).into();
        reconciler.apply_nodes(&nodes).unwrap();
        reconciler.apply(&Owner::HostPorts, &state::host_ports(&ports)).unwrap();
        let _links = attach(programs, &bench);
        let asks = || {
            ["127.0.0.1:80", "127.9.9.1:80", "127.9.9.2:80", "127.0.0.1:81", "127.9.9.1:81"]
                .map(|at| ask_tcp(at).map_or_else(|error| error.kind().to_string(), |(text, _)| text))
        };
        let refused = ErrorKind::ConnectionRefused.to_string();
        assert_eq!(asks(), ["any", "any", &refused, "one", "any"], "on the node");
        assert_eq!(ask_udp("0.0.0.0:0", "127.9.9.1:81").unwrap(), answer("own", "127.9.9.1:81"));
        // The backends' addresses are there in the pod, too; its loopback is its own.
        let pod = std::thread::spawn(move || {
            enter_namespace();
            let _servers = [tcp_server(&any.to_string(), "any"), tcp_server(&one.to_string(), "one")];
            asks()
        });
        assert_eq!(pod.join().unwrap(), [&refused, "any", &refused, &refused, "any"], "in a pod");
        reconciler.apply(&Owner::HostPorts, &Desired::default()).unwrap();
        assert_eq!(ask_tcp("127.9.9.1:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn kernels_without_error_values_refuse_too() {
    in_namespace(|| {
        let bench = Bench::new();
        let (programs, maps) = datapath::load_for(&bench.pins, false).unwrap();
        let mut reconciler = Reconciler::new(maps).unwrap();
        for empty in [
            service("four", Protocol::Tcp, "10.96.0.2", 80, &[]),
            service("six", Protocol::Tcp, "fd00:96::2", 80, &[]),
            service("udp", Protocol::Udp, "10.96.0.2", 53, &[]),
        ] {
            reconciler.apply(&owner(empty.name), &empty.desired()).unwrap();
        }
        let _links = attach(programs, &bench);
        for at in ["10.96.0.2:80", "[::ffff:10.96.0.2]:80", "[fd00:96::2]:80"] {
            assert_eq!(ask_tcp(at).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{at}");
        }
        assert_eq!(ask_connected_udp("0.0.0.0:0", "10.96.0.2:53").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(ask_udp("0.0.0.0:0", "10.96.0.2:53").is_err());
    });
}

#[test]
fn a_socket_stays_with_its_backend() {
    in_namespace(|| {
        let bench = Bench::new();
        let backends = [udp_server("127.0.0.2:0", "a"), udp_server("127.0.0.3:0", "b"), udp_server("127.0.0.4:0", "c")];
        let talk = |backends: &[SocketAddr]| service("talk", Protocol::Udp, "10.96.0.1", 443, backends);
        let (programs, mut reconciler) = bench.load();
        reconciler.apply(&owner("talk"), &talk(&backends).desired()).unwrap();
        let _links = attach(programs, &bench);
        for (local, service) in [("0.0.0.0:0", "10.96.0.1:443"), ("[::]:0", "[::ffff:10.96.0.1]:443")] {
            let sockets: Vec<_> = (0..30).map(|_| UdpSocket::bind(local).unwrap()).collect();
            let asked = |socket: &UdpSocket| {
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send_to(b"?", service).unwrap();
                let mut name = [0];
                assert_eq!(socket.recv_from(&mut name).unwrap().1.to_string(), service);
                char::from(name[0])
            };
            let first: Vec<_> = sockets.iter().map(asked).collect();
            let mut seen = first.clone();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, ['a', 'b', 'c'], "sockets are spread");
            for _ in 0..5 {
                assert_eq!(sockets.iter().map(asked).collect::<Vec<_>>(), first, "a conversation has one peer");
            }
            // A backend more moves nobody; one that goes moves its own.
            let more = [&backends[..], &[udp_server("127.0.0.5:0", "d")]].concat();
            reconciler.apply(&owner("talk"), &talk(&more).desired()).unwrap();
            crate::sys::grace_period().unwrap();
            reconciler.clean().unwrap();
            assert_eq!(sockets.iter().map(asked).collect::<Vec<_>>(), first);
            reconciler.apply(&owner("talk"), &talk(&backends[1..]).desired()).unwrap();
            crate::sys::grace_period().unwrap();
            reconciler.clean().unwrap();
            for (before, after) in first.iter().zip(sockets.iter().map(asked)) {
                assert!(if *before == 'a' { "bc".contains(after) } else { *before == after }, "{before} then {after}");
            }
            reconciler.apply(&owner("talk"), &talk(&backends).desired()).unwrap();
        }
    });
}

/// A UDP socket in the namespace of its maker, connected; it says what its next datagram comes to.
struct Client(UdpSocket);

impl Client {
    fn new(local: &str, to: &str) -> Self {
        let socket = UdpSocket::bind(local).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(to).unwrap();
        Self(socket)
    }

    fn ask(&self) -> String {
        let mut buffer = [0; 64];
        let asked = self.0.send(b"?").and_then(|_| self.0.recv(&mut buffer));
        asked.map_or_else(|error| error.to_string(), |length| String::from_utf8_lossy(&buffer[..length]).into())
    }

    /// Whether the call that it is in ends with an error, and the next one, too.
    fn is_ended(&self) -> bool {
        let error = |result: std::io::Result<usize>| result.err().and_then(|error| error.raw_os_error());
        error(self.0.recv(&mut [0; 64])) == Some(libc::ECONNABORTED)
            && error(self.0.send(b"?")) == Some(libc::EDESTADDRREQ)
    }
}

#[test]
fn sockets_of_gone_backends_are_ended() {
    in_namespace(|| {
        crate::sockets::can_abort().expect("the kernel's tests need CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY");
        let bench = Bench::new();
        let (one, two) = (udp_server("127.0.0.2:0", "one"), udp_server("127.0.0.3:0", "two"));
        let (six, seven) = (udp_server("[::1]:0", "six"), udp_server("[::1]:0", "seven"));
        let (programs, mut reconciler) = bench.load();
        let nodes = BTreeMap::from([("127.9.9.1".parse().unwrap(), abi::node_address::LOCAL)]);
        reconciler.apply_nodes(&nodes).unwrap();
        let four = |backends: &[SocketAddr]| service("four", Protocol::Udp, "10.96.0.1", 53, backends);
        let port =
            |backends: &[SocketAddr]| Service { address: None, ..service("port", Protocol::Udp, "", 30053, backends) };
        let six_of = |backends: &[SocketAddr]| service("six", Protocol::Udp, "fd00:96::1", 53, backends);
        let services =
            [four(&[one]), port(&[one]), six_of(&[six]), service("other", Protocol::Udp, "10.96.0.2", 53, &[one])];
        for service in &services {
            reconciler.apply(&owner(service.name), &service.desired()).unwrap();
        }
        let _links = attach(programs, &bench);
        let clients = |one: SocketAddr, six: SocketAddr| {
            let doomed = [
                ("0.0.0.0:0", "10.96.0.1:53"),
                ("[::]:0", "[::ffff:10.96.0.1]:53"),
                ("[::]:0", "[fd00:96::1]:53"),
                ("0.0.0.0:0", "127.9.9.1:30053"),
            ];
            let spared = [
                ("0.0.0.0:0".to_owned(), "10.96.0.2:53".to_owned()),
                ("0.0.0.0:0".to_owned(), one.to_string()),
                ("[::]:0".to_owned(), six.to_string()),
            ];
            (doomed.map(|(local, to)| Client::new(local, to)), spared.map(|(local, to)| Client::new(&local, &to)))
        };
        let (doomed, spared) = clients(one, six);
        let (ready, started) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        // A pod: another namespace, the same addresses behind it.
        let pod = std::thread::spawn(move || {
            enter_namespace();
            let _servers = (udp_server(&one.to_string(), "one"), udp_server(&six.to_string(), "six"));
            let (doomed, spared) = clients(one, six);
            let before = doomed.each_ref().map(Client::ask);
            ready.send(()).unwrap();
            wait.recv().unwrap();
            (before, doomed.map(|client| client.is_ended()), spared.map(|client| client.ask()))
        });
        started.recv().unwrap();
        let names = ["one", "one", "six", "one"].map(String::from);
        assert_eq!(doomed.each_ref().map(Client::ask), names);
        for service in [four(&[two]), port(&[two]), six_of(&[seven])] {
            reconciler.apply(&owner(service.name), &service.desired()).unwrap();
        }
        crate::sys::grace_period().unwrap();
        let lost = reconciler.clean().unwrap();
        assert_eq!(crate::sockets::abort(reconciler.kernel(), &bench.cgroup, &lost).unwrap(), 8);
        assert_eq!(doomed.each_ref().map(Client::is_ended), [true; 4]);
        assert_eq!(spared.map(|client| client.ask()), ["one", "one", "six"]);
        go_on.send(()).unwrap();
        let (before, after, others) = pod.join().unwrap();
        assert_eq!((before, others), (names, ["one", "one", "six"].map(String::from)));
        assert_eq!(after, [true; 4], "in a pod");
        // Whoever connects again is served.
        doomed[0].0.connect("10.96.0.1:53").unwrap();
        assert_eq!(doomed[0].ask(), "two");
        // With the Service its sockets go, too; nothing else changes.
        reconciler.apply(&owner("four"), &Desired::default()).unwrap();
        reconciler.apply(&owner("other"), &services[3].desired()).unwrap();
        crate::sys::grace_period().unwrap();
        let lost = reconciler.clean().unwrap();
        assert_eq!(crate::sockets::abort(reconciler.kernel(), &bench.cgroup, &lost).unwrap(), 1);
        assert!(doomed[0].is_ended());
    });
}

#[test]
fn backends_share_and_affinity_stays() {
    in_namespace(|| {
        let bench = Bench::new();
        let backends = [tcp_server("127.0.0.2:0", "a"), tcp_server("127.0.0.3:0", "b"), tcp_server("127.0.0.4:0", "c")];
        let sticky = |backends: &[SocketAddr]| Service {
            affinity: 60,
            ..service("sticky", Protocol::Tcp, "10.96.0.3", 80, backends)
        };
        bench.run(&[service("spread", Protocol::Tcp, "10.96.0.1", 80, &backends), sticky(&backends)]);
        let mut seen = BTreeMap::<String, u32>::new();
        for _ in 0..300 {
            *seen.entry(ask_tcp("10.96.0.1:80").unwrap().0).or_default() += 1;
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.values().all(|count| (50..=150).contains(count)), "{seen:?}");
        let first = ask_tcp("10.96.0.3:80").unwrap().0;
        for _ in 0..30 {
            assert_eq!(ask_tcp("10.96.0.3:80").unwrap().0, first);
        }
        // The backend goes: clients move on at once.
        let rest: Vec<_> =
            backends.iter().zip(["a", "b", "c"]).filter(|(_, name)| *name != first).map(|(at, _)| *at).collect();
        let (_programs, mut reconciler) = bench.load();
        let key = owner("sticky");
        reconciler.apply(&key, &sticky(&backends).desired()).unwrap();
        reconciler.apply(&key, &sticky(&rest).desired()).unwrap();
        crate::sys::grace_period().unwrap();
        reconciler.clean().unwrap();
        assert_ne!(ask_tcp("10.96.0.3:80").unwrap().0, first);
    });
}

#[test]
fn translation_outlives_its_loader_and_is_replaced_without_a_gap() {
    in_namespace(|| {
        let bench = Bench::new();
        let server = tcp_server("127.0.0.2:0", "tcp");
        let services = || vec![service("tcp", Protocol::Tcp, "10.96.0.1", 80, &[server])];
        assert!(bench.run(&services()) > 0);
        // The loader is gone; a connection from before and new ones know the service's address.
        let before = TcpStream::connect("10.96.0.1:80").unwrap();
        assert_eq!(ask_tcp("10.96.0.1:80").unwrap(), answer("tcp", "10.96.0.1:80"));
        let stop = Arc::new(AtomicBool::new(false));
        let ns = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let (stop, ns) = (stop.clone(), ns.try_clone().unwrap());
                std::thread::spawn(move || {
                    nix::sched::setns(&ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    let mut asked = 0_u32;
                    while !stop.load(Ordering::Relaxed) || asked < 10 {
                        assert_eq!(ask_tcp("10.96.0.1:80").unwrap().0, "tcp");
                        asked += 1;
                    }
                })
            })
            .collect();
        let writes: Vec<_> = (0..5).map(|_| bench.run(&services())).collect();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(writes, [0; 5], "a restart rewrites nothing");
        assert_eq!(before.peer_addr().unwrap().to_string(), "10.96.0.1:80");
        // Somebody clears the pins away: what is attached stays so for as long as the proxy runs.
        let (programs, reconciler) = bench.load();
        let links = attach(programs, &bench);
        fs::remove_dir_all(&bench.pins).unwrap();
        assert_eq!(ask_tcp("10.96.0.1:80").unwrap(), answer("tcp", "10.96.0.1:80"));
        drop((links, reconciler));
        assert!(bench.run(&services()) > 0);
        assert_eq!(ask_tcp("10.96.0.1:80").unwrap(), answer("tcp", "10.96.0.1:80"));
        // The node gets another name: what is pinned goes along, and goes on.
        let mut former = bench.pins.clone().into_os_string();
        former.push("-former");
        let former = PathBuf::from(former);
        datapath::rename(&bench.pins, &former).unwrap();
        assert_eq!(ask_tcp("10.96.0.1:80").unwrap(), answer("tcp", "10.96.0.1:80"));
        datapath::rename(&former, &bench.pins).unwrap();
        datapath::rename(&former, &bench.pins).unwrap();
        assert_eq!((bench.run(&services()), former.exists()), (0, false));
        // Where another node's are, it is the former name's that go.
        datapath::load(&former).map(drop).unwrap();
        datapath::rename(&former, &bench.pins).unwrap();
        assert_eq!((bench.run(&services()), former.exists()), (0, false));
        // Maps of another version go, once nothing uses them.
        fs::create_dir(bench.pins.join("v0")).unwrap();
        fs::hard_link(bench.pins.join(abi::VERSION).join("METRICS"), bench.pins.join("v0/METRICS")).unwrap();
        datapath::forget_versions(&bench.pins);
        assert!(!bench.pins.join("v0").exists() && bench.pins.join(abi::VERSION).exists());
        // What is gone from the cluster goes from the maps at the next start.
        bench.run(&[]);
        assert_eq!(dump(&bench.pins).unwrap().services, []);
        datapath::uninstall(&bench.pins).unwrap();
        assert!(!bench.pins.exists());
    });
}
