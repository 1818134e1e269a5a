//! What the store costs: CPU and latency a put with 1 and with 32 writers, and CPU a delivered watch event with 100 watchers.
//!
//! `cargo run --release -p store --example throughput [DIRECTORY]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use store::{CacheOptions, Expect, Extractor, Selectable, SqliteOptions, SqliteStore, Store, WatchCache};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PODS: usize = 5_000;
const WATCHERS: usize = 100;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned()))?;
    let path = directory.path().join("state.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, &SqliteOptions::default())?);
    for (name, writers, count) in [("1 writer", 1, 2_000), ("32 writers", 32, PODS)] {
        let (cpu, start) = (cpu_time()?, Instant::now());
        let mut latencies = write(&store, &format!("/registry/core/bench{writers}"), writers, count).await;
        let (wall, cpu) = (start.elapsed(), cpu_time()? - cpu);
        latencies.sort_unstable();
        let at = |part: usize| latencies[(latencies.len() - 1) * part / 100];
        println!(
            "put, {name}: {:.0}/s, {:.3} ms CPU, p50 {:?}, p99 {:?}",
            count as f64 / wall.as_secs_f64(),
            cpu.as_secs_f64() * 1e3 / count as f64,
            at(50),
            at(99)
        );
    }
    watch(&store).await?;
    let memory = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", memory.lines().find(|line| line.starts_with("RssAnon")).unwrap_or_default());
    store.close().await;
    let start = Instant::now();
    SqliteStore::open(&path, &SqliteOptions::default())?.close().await;
    println!("open and close: {:?}", start.elapsed());
    Ok(())
}

/// 5,000 pods, each seen by 100 watchers that copy its frame as a connection would.
async fn watch(store: &Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let extract: Extractor = Arc::new(|_: &[u8]| Selectable::default());
    let options = CacheOptions::new(Vec::new(), extract, store::Budget::new(16 << 20), tasks.clone(), shutdown.clone());
    let cache = WatchCache::start(store.clone(), "/registry/core/pods/", options).await?;
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let mut watcher = cache.subscribe(cache.prefix()).1;
            tokio::spawn(async move {
                let (mut seen, mut wakes, mut buffer) = (0, 0, BytesMut::new());
                while seen < PODS {
                    let Ok(events) = watcher.next().await else { break };
                    (seen, wakes) = (seen + events.len(), wakes + 1);
                    for event in events {
                        event.write_frame(&mut buffer);
                    }
                    buffer.clear();
                }
                (seen, wakes)
            })
        })
        .collect();
    let (cpu, start) = (cpu_time()?, Instant::now());
    write(store, "/registry/core/pods/default", 32, PODS).await;
    let (mut seen, mut wakes) = (0, 0);
    for watcher in watchers {
        let (events, times) = watcher.await?;
        (seen, wakes) = (seen + events, wakes + times);
    }
    let (wall, cpu) = (start.elapsed(), cpu_time()? - cpu);
    println!(
        "watch: {seen} events to {WATCHERS} watchers in {wall:?}, {wakes} wake-ups, {:.4} ms CPU an event (the writes included)",
        cpu.as_secs_f64() * 1e3 / seen as f64
    );
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn write(store: &Arc<dyn Store>, prefix: &str, writers: usize, count: usize) -> Vec<Duration> {
    let value = format!(r#"{{"kind":"Pod","metadata":{{"name":"p"}},"spec":"{}"}}"#, "x".repeat(2_650));
    let value = Bytes::from(value);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, value, prefix) = (store.clone(), value.clone(), prefix.to_owned());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for n in (writer..count).step_by(writers) {
                    let start = Instant::now();
                    let put = store.put(&format!("{prefix}/{n}"), value.clone(), Expect::Absent, None).await;
                    put.expect("the benchmark's keys are new");
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.expect("writers do not panic"));
    }
    all
}

/// User and system time of this process; the kernel counts in hundredths of a second.
fn cpu_time() -> Result<Duration, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
