//! A client for tests: looks a name up as a pod's resolver does, connects, asks once, prints the answer.
//!
//! `fetch URL [TIMES]` prints what each request answers. `fetch --count URL` asks until its input ends, `fetch --while FILE URL` until
//! the file is gone; both print `ok N failed M`. Each request is a look-up and a connection of its own; `--keep FILE URL` is
//! `--while` over one connection. `fetch --udp HOST:PORT TEXT` sends a datagram over a connected socket, `--sendto` over one that is
//! not; both print who answered, and what. (A statically linked C library cannot look names up, which is why busybox's wget
//! does not serve.)

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);
/// Bound of every loop.
const MOST: u32 = 1_000_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--count", url] => {
            let stop = Arc::new(AtomicBool::new(false));
            let flag = stop.clone();
            std::thread::spawn(move || {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                flag.store(true, Ordering::SeqCst);
            });
            count(url, || !stop.load(Ordering::SeqCst));
        }
        ["--while", file, url] => count(url, || std::path::Path::new(file).exists()),
        ["--keep", file, url] => keep(url, || std::path::Path::new(file).exists()),
        ["--udp", to, text] => datagram(to, text, true),
        ["--sendto", to, text] => datagram(to, text, false),
        [url] => ask(url, 1),
        [url, times] => ask(url, times.parse().unwrap_or(1)),
        _ => {
            eprintln!("usage: fetch [--count | --while FILE | --keep FILE] URL, fetch --udp|--sendto HOST:PORT TEXT, or fetch URL [TIMES]");
            std::process::exit(2);
        }
    }
}

fn ask(url: &str, times: u32) {
    for _ in 0..times.min(MOST) {
        match get(url) {
            Ok(body) => print!("{body}"),
            Err(error) => {
                eprintln!("fetch: {url}: {error}");
                std::process::exit(1);
            }
        }
    }
}

fn count(url: &str, go_on: impl Fn() -> bool) {
    let (mut ok, mut failed) = (0, 0);
    while go_on() && ok + failed < MOST {
        match get(url) {
            Ok(_) => {
                ok += 1;
                if ok == 1 {
                    println!("started");
                }
            }
            Err(error) => {
                failed += 1;
                println!("failed after {ok}: {error}");
            }
        }
    }
    println!("ok {ok} failed {failed}");
}

/// Says what failed.
fn told(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Asks again and again over one connection; a connection that breaks is not made again.
fn keep(url: &str, go_on: impl Fn() -> bool) {
    let mut ok = 0;
    let result = open(url).and_then(|(mut stream, host, path)| {
        println!("started with {}", stream.peer_addr().map_err(told("peer"))?);
        while go_on() && ok < MOST {
            write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").map_err(told("write"))?;
            let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
            while !whole(&answer) {
                match stream.read(&mut buffer).map_err(told("read"))? {
                    0 => return Err("closed".to_owned()),
                    length => answer.extend_from_slice(&buffer[..length]),
                }
            }
            ok += 1;
        }
        Ok(())
    });
    if let Err(error) = &result {
        println!("failed after {ok}: {error}");
    }
    println!("ok {ok} failed {}", u32::from(result.is_err()));
}

/// Whether an answer has all the bytes that its head promises.
fn whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

fn datagram(to: &str, text: &str, connected: bool) {
    match exchange(to, text, connected) {
        Ok(answer) => println!("{answer}"),
        Err(error) => {
            eprintln!("fetch: {to}: {error}");
            std::process::exit(1);
        }
    }
}

fn exchange(to: &str, text: &str, connected: bool) -> Result<String, String> {
    let (name, port) = to.split_once(':').ok_or("no port")?;
    let to = SocketAddr::new(address(name)?, port.parse().map_err(|_| format!("port {port}"))?);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(told("socket"))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(told("socket"))?;
    if connected {
        socket.connect(to).map_err(told("connect"))?;
        socket.send(text.as_bytes()).map_err(told("send"))?;
    } else {
        socket.send_to(text.as_bytes(), to).map_err(told("send"))?;
    }
    let mut answer = [0; 1500];
    let (length, from) = socket.recv_from(&mut answer).map_err(told("answer"))?;
    Ok(format!("{from} {}", String::from_utf8_lossy(&answer[..length])))
}

fn address(name: &str) -> Result<IpAddr, String> {
    name.parse().or_else(|_| look_up(name))
}

/// A connection to the URL's host, and the URL's host and path.
fn open(url: &str) -> Result<(TcpStream, &str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is spoken")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let port = port.parse().map_err(|_| format!("port {port}"))?;
    let at = SocketAddr::new(address(name)?, port);
    let stream = TcpStream::connect_timeout(&at, PATIENCE).map_err(told("connect"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told("socket"))?;
    Ok((stream, host, path))
}

fn get(url: &str) -> Result<String, String> {
    let (mut stream, host, path) = open(url)?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told("write"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(told("read"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer was cut")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(head.lines().next().unwrap_or("no status").to_owned());
    }
    Ok(body.to_owned())
}

/// The first address by the rules of resolv.conf(5): names with fewer dots than `ndots` are tried with each search path first.
fn look_up(name: &str) -> Result<IpAddr, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|error| format!("resolv.conf: {error}"))?;
    let word = |key: &str| text.lines().filter_map(|line| line.strip_prefix(key)).map(str::trim).collect::<Vec<_>>();
    let server: IpAddr = word("nameserver").first().and_then(|text| text.parse().ok()).ok_or("no nameserver")?;
    let ndots = text.split("ndots:").nth(1).and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(1);
    let mut tries: Vec<String> = word("search").iter().flat_map(|line| line.split_whitespace()).map(|path| format!("{name}.{path}")).collect();
    let at = if name.matches('.').count() < ndots { tries.len() } else { 0 };
    tries.insert(at, name.trim_end_matches('.').to_owned());
    let mut last = format!("{name}: not found");
    for each in tries {
        match query(server, &each) {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One A query (RFC 1035); `None` where the name has no address.
fn query(server: IpAddr, name: &str) -> Result<Option<IpAddr>, String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(told("DNS socket"))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(told("DNS socket"))?;
    socket.connect((server, 53)).map_err(told("DNS connect"))?;
    let id = (std::process::id() as u16).wrapping_add(name.len() as u16);
    let mut packet = vec![(id >> 8) as u8, id as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    socket.send(&packet).map_err(told("DNS send"))?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).map_err(told("DNS answer"))?;
    Ok(first_address(&answer[..length], packet.len()))
}

fn first_address(answer: &[u8], mut at: usize) -> Option<IpAddr> {
    let records = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    for _ in 0..records {
        // A name: labels until a zero, or a pointer.
        loop {
            match *answer.get(at)? {
                0 => break at += 1,
                length if length >= 0xc0 => break at += 2,
                length => at += usize::from(length) + 1,
            }
        }
        let fixed = answer.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if fixed[..2] == [0, 1] && data.len() == 4 {
            return Some(Ipv4Addr::new(data[0], data[1], data[2], data[3]).into());
        }
        at += 10 + length;
    }
    None
}
