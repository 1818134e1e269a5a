//! What a process of the node sees: this program runs itself there.

use super::PORT;
use anyhow::{Context, ensure};
use cluster_tests::{Cluster, output};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a Service's translation may take. No measure of speed.
const LIMIT: Duration = Duration::from_secs(120);

/// What the process is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Where to connect to
    address: Ipv4Addr,
    /// Wait until that leads here
    #[arg(long)]
    until: Option<Ipv4Addr>,
    /// Measure so many calls
    #[arg(long, default_value_t = 0)]
    connects: u32,
}

/// Waits until a Service's address leads to this backend.
pub(super) fn wait(cluster: &Cluster, address: Ipv4Addr, backend: Ipv4Addr) -> anyhow::Result<()> {
    on_node(cluster, &[&address.to_string(), "--until", &backend.to_string()]).map(drop)
}

/// Microseconds of CPU that a connect() of a datagram socket takes: no packet is sent, so that little else is measured.
pub(super) fn measure(cluster: &Cluster, address: Ipv4Addr, connects: u32) -> anyhow::Result<f64> {
    let text = on_node(cluster, &[&address.to_string(), "--connects", &connects.to_string()])?;
    text.trim().parse().with_context(|| format!("not a number: {text:?}"))
}

fn on_node(cluster: &Cluster, words: &[&str]) -> anyhow::Result<String> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("a path that is text")?;
    output(cluster.host_command(program).arg("probe").args(words))
}

/// Does it.
///
/// # Errors
/// A socket failed, or the time is up.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let target = (options.address, PORT);
    let begun = Instant::now();
    while let Some(backend) = options.until {
        socket.connect(target)?;
        if peer(&socket)? == backend {
            break;
        }
        // Nobody tells a client of this.
        ensure!(begun.elapsed() < LIMIT, "{} does not lead to {backend}", options.address);
        std::thread::yield_now();
    }
    let before = cpu()?;
    for _ in 0..options.connects {
        socket.connect(target)?;
    }
    println!("{}", (cpu()? - before).num_microseconds() as f64 / f64::from(options.connects.max(1)));
    Ok(())
}

/// Where the socket really leads: getpeername() tells what was asked for.
fn peer(socket: &UdpSocket) -> anyhow::Result<Ipv4Addr> {
    let own = format!(":{:04X}", socket.local_addr()?.port());
    let sockets = std::fs::read_to_string("/proc/self/net/udp")?;
    let mut lines = sockets.lines().map(|line| line.split_whitespace().skip(1));
    let remote = lines.find_map(|mut ends| ends.next()?.ends_with(&own).then(|| ends.next())?);
    let address = remote.and_then(|end| end.split(':').next()).context("the socket is not listed")?;
    Ok(Ipv4Addr::from(u32::from_str_radix(address, 16)?.to_ne_bytes()))
}

fn cpu() -> anyhow::Result<TimeVal> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(usage.user_time() + usage.system_time())
}
