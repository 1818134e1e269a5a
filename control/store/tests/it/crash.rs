//! kill -9 under write load: nothing acknowledged or shown is lost, and a watch goes on where it was.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::{EventKind, Expect, Revision, SqliteOptions, SqliteStore, Store};

use crate::{soon, text};

const KILLS: usize = 50;
const WRITERS: usize = 6;
/// Set in the process that is to be killed: the directory, and the round.
const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const ROUND: &str = "STORE_CRASH_ROUND";

/// What one write did: its key, and the value, `None` for a deletion.
type Done = (String, Option<String>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_fifty_times() {
    let directory = tempfile::tempdir().unwrap();
    let mut history: BTreeMap<Revision, Done> = BTreeMap::new();
    let mut last = 1;
    let mut acknowledged = 0;
    for round in 0..KILLS {
        let said = run_and_kill(directory.path(), round);
        let store = SqliteStore::open(directory.path().join("state.db"), &SqliteOptions::default()).unwrap();
        let revision = store.current_revision().await.unwrap();
        assert!(revision >= last, "round {round}: revision {revision} after {last}");
        // The watcher resumes from its last revision: every revision since is one write, so a gap or a repeat shows.
        let stream = store.watch("/crash/", last).await.unwrap();
        while last < revision {
            for event in soon(stream.next()).await.unwrap() {
                assert_eq!(event.revision(), last + 1, "round {round}");
                last = event.revision();
                let value = (event.kind != EventKind::Deleted).then(|| utf8(&event.object.value));
                history.insert(last, (event.object.key.to_string(), value));
            }
        }
        acknowledged += said.len();
        for (revision, done) in said {
            assert_eq!(history.get(&revision), Some(&done), "round {round}: revision {revision} was told, and is gone");
        }
        check_state(&store, &history).await;
        store.close().await;
    }
    assert!(acknowledged > KILLS * 10, "only {acknowledged} writes and events were told: too little load");
}

/// The objects are what the history makes of them.
async fn check_state(store: &SqliteStore, history: &BTreeMap<Revision, Done>) {
    let mut expected = BTreeMap::new();
    for (revision, (key, value)) in history {
        match value {
            Some(value) => expected.insert(key.clone(), (value.clone(), *revision)),
            None => expected.remove(key),
        };
    }
    let page = store.list("/crash/", None, 0, None).await.unwrap();
    let found: BTreeMap<_, _> =
        page.items.iter().map(|kv| (kv.key.to_string(), (utf8(&kv.value), kv.mod_revision))).collect();
    assert_eq!(found, expected);
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Starts the process below, kills it after a random number of lines, and answers what it told of until then.
fn run_and_kill(directory: &Path, round: usize) -> Vec<(Revision, Done)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::process_to_be_killed", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines_to_live = 1 + RandomState::new().hash_one(round) % 150;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut line) = (Vec::new(), String::new());
    while output.read_line(&mut line).unwrap() > 0 {
        // A line without its end was cut off by the kill: it tells nothing.
        if let (Some(fields), true) = (line.strip_prefix("told "), line.ends_with('\n')) {
            let fields: Vec<_> = fields.split_whitespace().collect();
            let [revision, key, value] = fields[..] else { panic!("{line}") };
            let value = (value != "-").then(|| value.to_owned());
            said.push((revision.parse().unwrap(), (key.to_owned(), value)));
            if said.len() as u64 == lines_to_live {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    said
}

/// Not a test by itself: writes, and tells of each acknowledgement and each event, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_to_be_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let round = std::env::var(ROUND).unwrap();
    println!();
    let path = Path::new(&directory).join("state.db");
    let store = Arc::new(SqliteStore::open(path, &SqliteOptions::default()).unwrap());
    let stream = store.watch("/crash/", store.current_revision().await.unwrap()).await.unwrap();
    for writer in 0..WRITERS {
        tokio::spawn(write(store.clone(), round.clone(), writer));
    }
    // What a watcher was shown must not be lost either.
    loop {
        for event in stream.next().await.unwrap() {
            let value = if event.kind == EventKind::Deleted { "-".to_owned() } else { utf8(&event.object.value) };
            tell(event.revision(), &event.object.key, &value);
        }
    }
}

async fn write(store: Arc<SqliteStore>, round: String, writer: usize) {
    for n in 0.. {
        let key = format!("/crash/{writer}/{}", n % 13);
        if n % 10 == 9 {
            if let Ok((_, revision)) = store.delete(&key, Expect::Any).await {
                tell(revision, &key, "-");
            }
            continue;
        }
        let value = format!("{round}-{writer}-{n}-{}", "x".repeat(n * 37 % 3_000));
        let revision = store.put(&key, text(value.clone()), Expect::Any, None).await.unwrap();
        tell(revision, &key, &value);
    }
}

fn tell(revision: Revision, key: &str, value: &str) {
    // One write a line: the parent's end may close at any time, and then this process is dead.
    let line = format!("told {revision} {key} {value}\n");
    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
        std::process::exit(0);
    }
}
