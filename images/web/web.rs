//! A small web server. `PORT` (8080) is served over TCP with HTTP/1.1 and over UDP with an echo.
//!
//! - `/` answers the pod's name and a line end.
//! - `/healthz` answers `ok`, from SIGTERM on 503, so that a readiness probe sees it go.
//! - `/sleep/MS` answers after so many milliseconds; `/env` answers the environment; `/headers` the request's head; `/peer` the
//!   address that asks.
//!
//! On SIGTERM it goes on serving for `DRAIN_MS` (3000), until Services have forgotten it, then ends with 0 once
//! no request is being answered.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static DRAINING: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn drain(_: i32) {
    DRAINING.store(true, Ordering::SeqCst);
}

fn main() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let port = number("PORT", 8080) as u16;
    let drain_for = Duration::from_millis(number("DRAIN_MS", 3000));
    for signal_number in [15, 2] {
        // SAFETY: the handler only sets a flag.
        unsafe { signal(signal_number, drain) };
    }
    let any = |port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = any(port).expect("listen");
    if let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port))) {
        std::thread::spawn(move || echo(&socket));
    }
    println!("{} listens on {port}", name());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    while !DRAINING.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("draining");
    let end = Instant::now() + drain_for;
    while Instant::now() < end || BUSY.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 65536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let mut answer = format!("{} ", name()).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, from);
    }
}

fn name() -> String {
    let own = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    own.or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default().trim().to_owned()
}

fn serve(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let (Ok(mut out), Ok(peer)) = (stream.try_clone(), stream.peer_addr()) else { return };
    let mut input = BufReader::new(stream);
    let mut head = String::new();
    loop {
        head.clear();
        loop {
            match input.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) if head.ends_with("\r\n\r\n") || head.ends_with("\n\n") => break,
                Ok(_) if head.len() > 64 << 10 => return,
                Ok(_) => {}
            }
        }
        BUSY.fetch_add(1, Ordering::SeqCst);
        let draining = DRAINING.load(Ordering::SeqCst);
        let (status, body) = answer(&head, draining, peer.ip());
        // While draining, a kept connection would be cut in the middle of the next request.
        let close = draining || head.to_ascii_lowercase().contains("connection: close") || head.contains(" HTTP/1.0");
        let connection = if close { "close" } else { "keep-alive" };
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        let body = if head.starts_with("HEAD ") { String::new() } else { body };
        let sent = out.write_all((text + &body).as_bytes());
        BUSY.fetch_sub(1, Ordering::SeqCst);
        if sent.is_err() || close {
            return;
        }
    }
}

fn answer(head: &str, draining: bool, peer: IpAddr) -> (&'static str, String) {
    let path = head.split(' ').nth(1).unwrap_or("/");
    let path = path.split('?').next().unwrap_or(path);
    match path {
        "/" => ("200 OK", name() + "\n"),
        "/healthz" if draining => ("503 Service Unavailable", "draining\n".into()),
        "/healthz" => ("200 OK", "ok\n".into()),
        "/peer" => ("200 OK", format!("{}\n", peer.to_canonical())),
        "/headers" => ("200 OK", head.to_owned()),
        "/env" => ("200 OK", std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        _ => match path.strip_prefix("/sleep/").and_then(|text| text.parse().ok()) {
            Some(wait) => {
                std::thread::sleep(Duration::from_millis(wait));
                ("200 OK", name() + "\n")
            }
            None => ("404 Not Found", "not found\n".into()),
        },
    }
}
