//! The watch cache over a store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::{
    Budget, CacheError, CacheOptions, EventKind, Expect, Extractor, MemoryStore, Revision, Selectable, Snapshot, Store,
    WatchCache, WatchEvent, Watcher,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{open, soon, text};

const PODS: &str = "/registry/core/pods/";

struct Setup {
    store: Arc<dyn Store>,
    cache: WatchCache,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Values are `{"metadata":{…}}`; what follows the last colon is the one label and the one field.
async fn setup(store: Arc<dyn Store>, change: impl FnOnce(&mut CacheOptions)) -> Setup {
    let extract: Extractor = Arc::new(|bytes: &[u8]| {
        let value = std::str::from_utf8(bytes).unwrap();
        let field = value.rsplit(':').next().unwrap().trim_matches(['"', '}']).to_owned();
        Selectable { labels: vec![("v".to_owned(), field.clone())], fields: vec![field] }
    });
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let mut options =
        CacheOptions::new(vec!["status.v".to_owned()], extract, Budget::new(1 << 20), tasks.clone(), shutdown.clone());
    change(&mut options);
    let cache = WatchCache::start(store.clone(), PODS, options).await.unwrap();
    Setup { store, cache, tasks, shutdown }
}

async fn memory() -> Setup {
    setup(Arc::new(MemoryStore::new()), |_| ()).await
}

impl Setup {
    async fn put(&self, name: &str, value: impl std::fmt::Display) -> Revision {
        let value = text(format!("{{\"metadata\":{{\"name\":\"{name}\"}},\"v\":\"{value}\"}}"));
        self.store.put(&format!("{PODS}d/{name}"), value, Expect::Any, None).await.unwrap()
    }

    async fn delete(&self, name: &str) -> Revision {
        self.store.delete(&format!("{PODS}d/{name}"), Expect::Any).await.unwrap().1
    }
}

async fn next(watcher: &mut Watcher) -> Vec<Arc<WatchEvent>> {
    soon(watcher.next()).await.unwrap()
}

async fn until(watcher: &mut Watcher, revision: Revision) -> Vec<Arc<WatchEvent>> {
    let mut all: Vec<Arc<WatchEvent>> = Vec::new();
    while all.last().is_none_or(|event| event.revision() < revision) {
        all.extend(next(watcher).await);
    }
    all
}

fn fields(snapshot: &Snapshot) -> Vec<(String, String)> {
    let field = |entry: &Arc<store::Entry>| (entry.name().to_owned(), entry.field("status.v").unwrap().to_owned());
    snapshot.range(PODS, None).map(field).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test]
async fn a_read_sees_every_acknowledged_write() {
    let directory = tempfile::tempdir().unwrap();
    for store in [Arc::new(MemoryStore::new()) as Arc<dyn Store>, Arc::new(open(&directory))] {
        let setup = setup(store, |_| ()).await;
        for n in 0..100 {
            let revision = setup.put("a", n).await;
            let entry = setup.cache.get(&format!("{PODS}d/a")).unwrap();
            assert_eq!((entry.field("status.v"), entry.revision), (Some(n.to_string().as_str()), revision));
            assert_eq!(entry.labels.get("v"), Some(n.to_string().as_str()));
            assert_eq!(setup.cache.snapshot().revision(), revision);
            soon(setup.cache.wait_for(revision)).await.unwrap();
        }
        // Writes elsewhere move the cache's revision as well.
        let revision = setup.store.put("/registry/x", text("{}"), Expect::Any, None).await.unwrap();
        assert_eq!(setup.cache.revision(), revision);
        setup.store.close().await;
    }
}

#[tokio::test]
async fn events_carry_their_states_and_frames() {
    let setup = memory().await;
    let (snapshot, mut first) = setup.cache.subscribe(PODS);
    let mut second = setup.cache.watch(Some(snapshot.revision()), PODS).await.unwrap();
    setup.put("a", 1).await;
    setup.put("a", 2).await;
    let deleted = setup.delete("a").await;
    let events = until(&mut first, deleted).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.entry.field("status.v").unwrap(), event.previous.as_ref().map(|p| p.revision)))
        .collect();
    let (one, two) = (deleted - 2, deleted - 1);
    use EventKind::{Added, Deleted, Modified};
    assert_eq!(told, [(Added, "1", None), (Modified, "2", Some(one)), (Deleted, "2", Some(two))]);
    let expected = format!(
        "{{\"type\":\"DELETED\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{deleted}\",\"name\":\"a\"}},\"v\":\"2\"}}}}\n"
    );
    let mut frame = Vec::new();
    events[2].write_frame(&mut frame);
    assert_eq!(frame, expected.as_bytes());
    // One event for all watchers.
    assert!(Arc::ptr_eq(&events[2], &until(&mut second, deleted).await[2]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_and_watch_leave_no_gap_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Arc::new(setup(Arc::new(open(&directory)), |_| ()).await);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let setup = setup.clone();
            tokio::spawn(async move {
                for n in 0..200 {
                    setup.put(&format!("{writer}-{}", n % 9), n).await;
                    if n % 7 == 0 {
                        setup.delete(&format!("{writer}-{}", n % 9)).await;
                    }
                }
            })
        })
        .collect();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(setup.cache.subscribe(PODS));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        soon(writer).await.unwrap();
    }
    let end = setup.put("end", "end").await;
    let last = setup.cache.snapshot();
    for (snapshot, mut watcher) in watches {
        let mut state: BTreeMap<String, Revision> =
            snapshot.range(PODS, None).map(|entry| (entry.key.to_string(), entry.revision)).collect();
        let mut at = snapshot.revision();
        for event in until(&mut watcher, end).await {
            assert!(event.revision() > at, "{} after {at}", event.revision());
            at = event.revision();
            // Any watch could have begun here.
            match event.kind {
                EventKind::Deleted => assert!(state.remove(&*event.entry.key).is_some()),
                kind => {
                    let before = state.insert(event.entry.key.to_string(), at);
                    assert_eq!(before.is_some(), kind == EventKind::Modified);
                    assert_eq!(before, event.previous.as_ref().map(|previous| previous.revision));
                }
            }
        }
        let expected: BTreeMap<_, _> =
            last.range(PODS, None).map(|entry| (entry.key.to_string(), entry.revision)).collect();
        assert_eq!(state, expected);
    }
    setup.store.close().await;
}

#[tokio::test]
async fn older_revisions_come_from_the_ring_and_then_from_the_store() {
    let directory = tempfile::tempdir().unwrap();
    for ring in [1_000, 2] {
        let path = directory.path().join(ring.to_string());
        std::fs::create_dir(&path).unwrap();
        let store = store::SqliteStore::open(path.join("db"), &store::SqliteOptions::default()).unwrap();
        let setup = setup(Arc::new(store), |options| options.max_events = ring).await;
        setup.put("a", 1).await;
        let early = setup.put("b", 1).await;
        setup.put("a", 2).await;
        let middle = setup.delete("b").await;
        setup.put("c", 1).await;
        let late = setup.put("a", 3).await;
        for (at, expected) in [
            (early, pairs(&[("a", "1"), ("b", "1")])),
            (early + 1, pairs(&[("a", "2"), ("b", "1")])),
            (middle, pairs(&[("a", "2")])),
            (late, pairs(&[("a", "3"), ("c", "1")])),
        ] {
            let snapshot = setup.cache.snapshot_at(at).await.unwrap();
            assert_eq!((fields(&snapshot), snapshot.revision()), (expected, at), "ring of {ring}");
            let mut watcher = setup.cache.watch(Some(at), PODS).await.unwrap();
            let events = if at == late { watcher.take().unwrap() } else { until(&mut watcher, late).await };
            let told: Vec<_> = events.iter().map(|event| event.revision()).collect();
            assert_eq!(told, (at + 1..=late).collect::<Vec<_>>(), "ring of {ring}");
        }
        setup.store.compact(middle).await.unwrap();
        let old = setup.cache.watch(Some(early), PODS).await.err();
        if ring == 2 {
            assert!(matches!(old, Some(CacheError::Compacted { .. })), "{old:?}");
            let old = setup.cache.snapshot_at(early).await.err();
            assert!(matches!(old, Some(CacheError::Compacted { .. })), "{old:?}");
        }
        let future = setup.cache.snapshot_at(late + 9).await.err();
        assert!(matches!(future, Some(CacheError::Future { .. })), "{future:?}");
        setup.store.close().await;
    }
}

/// Thousands of objects made since are no more in its memory than a page of them; and none is missed where history and ring meet.
#[tokio::test]
async fn the_stores_history_is_read_page_by_page() {
    let directory = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 2] = [Arc::new(open(&directory)), Arc::new(MemoryStore::new())];
    for store in stores {
        let setup = setup(store, |options| options.max_events = 8).await;
        let first = setup.put("first", 1).await;
        let large = |n: usize| format!("{}:{n}", "x".repeat(8_000));
        for n in 0..200 {
            setup.put(&format!("p{n}"), large(n)).await;
        }
        let mut watcher = setup.cache.watch(Some(first), PODS).await.unwrap();
        let at_once = watcher.take().unwrap();
        let bytes: usize = at_once.iter().map(|event| event.entry.bytes.len()).sum();
        assert!(bytes < 100_000 && watcher.take().unwrap().is_empty(), "{bytes} bytes");
        let mut told: Vec<_> = at_once.iter().map(|event| event.revision()).collect();
        let mut last = 0;
        for n in 200..210 {
            last = setup.put(&format!("p{n}"), large(n)).await;
            told.extend(next(&mut watcher).await.iter().map(|event| event.revision()));
        }
        if told.last() != Some(&last) {
            told.extend(until(&mut watcher, last).await.iter().map(|event| event.revision()));
        }
        assert_eq!(told, (first + 1..=last).collect::<Vec<_>>());
        assert_eq!(watcher.progress(), last);
        setup.store.close().await;
    }
}

#[tokio::test]
async fn watchers_that_resume_after_a_restart_share_the_stores_history() {
    let directory = tempfile::tempdir().unwrap();
    let first = setup(Arc::new(open(&directory)), |_| ()).await;
    let early = first.put("a", 1).await;
    first.put("a", 2).await;
    first.put("b", 1).await;
    let last = first.delete("b").await;
    first.store.close().await;
    let second = setup(Arc::new(open(&directory)), |_| ()).await;
    // From here on, only the cache knows.
    second.store.compact(last).await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..2 {
        watchers.push(second.cache.watch(Some(early), PODS).await.unwrap());
    }
    let events: Vec<_> = watchers.iter_mut().map(|watcher| watcher.take().unwrap()).collect();
    let told: Vec<_> = events[0]
        .iter()
        .map(|event| (event.kind, event.revision(), event.previous.as_ref().map(|previous| previous.revision)))
        .collect();
    use EventKind::{Added, Deleted, Modified};
    assert_eq!(told, [(Modified, early + 1, Some(early)), (Added, early + 2, None), (Deleted, last, Some(early + 2))]);
    assert!(events[0].iter().zip(&events[1]).all(|(one, other)| Arc::ptr_eq(one, other)));
    let present = second.cache.get(&format!("{PODS}d/a")).unwrap();
    assert!(Arc::ptr_eq(&present, &events[0][0].entry), "one state, one entry");
    second.store.close().await;
}

#[tokio::test]
async fn the_ring_waits_for_a_slow_watcher_but_not_for_ever() {
    let setup = setup(Arc::new(MemoryStore::new()), |options| options.max_events = 10).await;
    let (_, mut slow) = setup.cache.subscribe(PODS);
    let (_, mut stuck) = setup.cache.subscribe(PODS);
    let (_, mut quick) = setup.cache.subscribe(PODS);
    let mut seen = 0;
    for n in 0..40 {
        setup.put("a", n).await;
        seen += next(&mut quick).await.len();
    }
    assert_eq!((seen, slow.take().unwrap().len()), (40, 40));
    let last = setup.put("a", 40).await;
    assert_eq!(until(&mut slow, last).await.len(), 1);
    assert!(matches!(stuck.next().await, Err(CacheError::Lagged)));
    assert!(matches!(stuck.next().await, Err(CacheError::Lagged)));
    // Everyone has read everything: the ring is short again.
    setup.put("a", 41).await;
    setup.store.compact(last).await.unwrap();
    assert!(setup.cache.watch(Some(last - 9), PODS).await.is_ok());
    assert!(matches!(setup.cache.watch(Some(last - 10), PODS).await, Err(CacheError::Compacted { .. })));
}

#[tokio::test]
async fn bytes_bound_the_ring_too() {
    let budget = Budget::new(20_000);
    let setup = setup(Arc::new(MemoryStore::new()), |options| options.budget = budget.clone()).await;
    let (_, mut slow) = setup.cache.subscribe(PODS);
    let large = |n: usize| format!("{}:{n}", "x".repeat(4_000));
    for n in 0..10 {
        setup.put("a", large(n)).await;
    }
    assert_eq!(
        (setup.cache.snapshot().len(), slow.take().unwrap().len()),
        (1, 10),
        "four times as much for who is slow"
    );
    for n in 10..40 {
        setup.put("a", large(n)).await;
    }
    assert_eq!(setup.cache.snapshot().len(), 1);
    assert!(budget.used() <= 80_000, "{}", budget.used());
    assert!(matches!(slow.next().await, Err(CacheError::Lagged)));
    setup.put("a", large(40)).await;
    setup.cache.revision();
    assert!(budget.used() <= 20_000, "{}", budget.used());
}

#[tokio::test]
async fn caches_share_one_budget_and_the_oldest_events_go_first() {
    const NODES: &str = "/registry/core/nodes/";
    let (budget, mut options) = (Budget::new(20_000), None);
    let pods = setup(Arc::new(MemoryStore::new()), |own| {
        own.budget = budget.clone();
        options = Some(own.clone());
    })
    .await;
    let nodes = WatchCache::start(pods.store.clone(), NODES, options.unwrap()).await.unwrap();
    let large = |n: usize| format!("{}:{n}", "x".repeat(4_000));
    let mut written = 0;
    for n in 0..4 {
        written = pods.put("a", large(n)).await;
    }
    pods.cache.revision();
    let mut last = written;
    for n in 0..3 {
        let value = text(format!("{{\"metadata\":{{}},\"v\":\"{}\"}}", large(n)));
        last = pods.store.put(&format!("{NODES}n"), value, Expect::Any, None).await.unwrap();
        nodes.revision();
    }
    assert!(budget.used() <= 20_000, "{}", budget.used());
    // Without the store's history, only the rings are left.
    pods.store.compact(last).await.unwrap();
    assert!(matches!(pods.cache.watch(Some(written - 4), PODS).await, Err(CacheError::Compacted { .. })), "the oldest");
    assert_eq!(pods.cache.watch(Some(written - 1), PODS).await.unwrap().take().unwrap().len(), 1);
    assert_eq!(nodes.watch(Some(written), NODES).await.unwrap().take().unwrap().len(), 3);
    drop(nodes);
    pods.shutdown.cancel();
    pods.tasks.close();
    soon(pods.tasks.wait()).await;
    drop(pods);
    assert_eq!(budget.used(), 0, "what is dropped uses nothing");
}

#[tokio::test]
async fn a_watch_is_narrowed_by_its_prefix_and_progresses_without_events() {
    let setup = memory().await;
    let (_, mut watcher) = setup.cache.subscribe("/registry/core/pods/other/");
    let written = setup.put("a", 1).await;
    setup.cache.revision();
    assert!(watcher.take().unwrap().is_empty());
    assert_eq!(watcher.progress(), written);
    let elsewhere = setup.store.put("/registry/x", text("{}"), Expect::Any, None).await.unwrap();
    setup.cache.revision();
    assert_eq!(watcher.progress(), elsewhere);
}

#[tokio::test]
async fn the_end_of_the_server_ends_watches() {
    let setup = memory().await;
    let (_, mut watcher) = setup.cache.subscribe(PODS);
    setup.shutdown.cancel();
    assert!(matches!(soon(watcher.next()).await, Err(CacheError::Closed)));
    setup.tasks.close();
    soon(setup.tasks.wait()).await;
}

#[tokio::test]
async fn waiting_for_a_revision_ends_when_it_comes() {
    let setup = memory().await;
    let wanted = setup.cache.revision() + 2;
    let cache = setup.cache.clone();
    let waiter = tokio::spawn(async move { cache.wait_for(wanted).await });
    setup.put("a", 1).await;
    let early = tokio::time::timeout(Duration::from_millis(20), setup.cache.wait_for(wanted)).await;
    assert!(early.is_err());
    setup.store.put("/registry/x", text("{}"), Expect::Any, None).await.unwrap();
    soon(waiter).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_over_one_event_loses_none() {
    let armed = Arc::new(AtomicBool::new(true));
    let setup = setup(Arc::new(MemoryStore::new()), |options| {
        let extract = options.extract.clone();
        options.extract = Arc::new(move |bytes| {
            let bad = bytes.windows(4).any(|part| part == b"boom");
            assert!(!bad || !armed.swap(false, Ordering::SeqCst), "this event");
            extract(bytes)
        });
    })
    .await;
    let (_, mut watcher) = setup.cache.subscribe(PODS);
    setup.put("a", 1).await;
    setup.put("b", "boom").await;
    let last = setup.put("c", 3).await;
    // The cache's own task is the first to look at them, and panics.
    let names: Vec<_> = until(&mut watcher, last).await.iter().map(|event| event.entry.name().to_owned()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(setup.cache.snapshot().len(), 3);
    assert!(supervise::panics().contains(&("watch cache", 1)));
}
