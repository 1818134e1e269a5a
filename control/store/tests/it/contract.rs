//! What every store promises, run against each.

use std::sync::Arc;
use std::time::Duration;

use store::{EventKind, Expect, MemoryStore, Revision, Store, StoreError};

use crate::{collect, soon, text};

/// One test a case and store.
macro_rules! against_each_store {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(std::sync::Arc::new(super::MemoryStore::new())).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let directory = tempfile::tempdir().unwrap();
                let store = std::sync::Arc::new(crate::open(&directory));
                super::$case(store.clone()).await;
                store::Store::close(&*store).await;
            })*
        }
    };
}

against_each_store!(
    reads_what_was_written,
    expectations_hold,
    lists_are_pages_at_one_revision,
    one_of_many_racing_writes_wins,
    revisions_rise_by_one_a_write,
    events_tell_the_history,
    a_watch_resumes_anywhere_under_load,
    compaction_refuses_the_past_only,
    a_ttl_ends_in_a_deletion,
    a_closed_store_says_so,
);

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    store.put(key, text(value), Expect::Any, None).await.unwrap()
}

async fn values(store: &Arc<dyn Store>, prefix: &str, at: Option<Revision>) -> Vec<(String, String)> {
    let page = store.list(prefix, None, 0, at).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    page.items.iter().map(|kv| (kv.key.to_string(), text(&kv.value))).collect()
}

async fn reads_what_was_written(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    assert_eq!(store.get("/a/x").await.unwrap(), (None, start));
    let created = put(&store, "/a/x", "1").await;
    let updated = put(&store, "/a/x", "2").await;
    let (found, revision) = store.get("/a/x").await.unwrap();
    let found = found.unwrap();
    assert_eq!((&found.value[..], found.create_revision, found.mod_revision), (&b"2"[..], created, updated));
    assert_eq!(revision, updated);
    let (last, deleted) = store.delete("/a/x", Expect::Any).await.unwrap();
    assert_eq!((last, deleted), (found, updated + 1));
    assert_eq!(store.get("/a/x").await.unwrap(), (None, deleted));
    // A key made anew is a new object.
    let again = put(&store, "/a/x", "3").await;
    assert_eq!(store.get("/a/x").await.unwrap().0.unwrap().create_revision, again);
}

async fn expectations_hold(store: Arc<dyn Store>) {
    let first = put(&store, "/k", "1").await;
    for (expect, holds) in [
        (Expect::Absent, false),
        (Expect::Revision(first + 1), false),
        (Expect::Revision(first), true),
        (Expect::Revision(first), false),
        (Expect::Any, true),
    ] {
        let before = store.get("/k").await.unwrap();
        match store.put("/k", text(format!("{expect:?}")), expect, None).await {
            Ok(revision) => assert!(holds && revision == before.1 + 1, "{expect:?}"),
            Err(StoreError::Conflict { current }) => {
                assert!(!holds, "{expect:?}");
                assert_eq!((current, before.1), (before.0, store.current_revision().await.unwrap()));
            }
            Err(error) => panic!("{expect:?}: {error}"),
        }
    }
    let stale = store.delete("/k", Expect::Revision(first)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { current: Some(_) })), "{stale:?}");
    let absent = store.delete("/none", Expect::Any).await;
    assert!(matches!(absent, Err(StoreError::Conflict { current: None })), "{absent:?}");
    let absent = store.put("/none", text(""), Expect::Revision(first), None).await;
    assert!(matches!(absent, Err(StoreError::Conflict { current: None })), "{absent:?}");
    store.put("/none", text(""), Expect::Absent, None).await.unwrap();
}

async fn lists_are_pages_at_one_revision(store: Arc<dyn Store>) {
    for key in ["/p/b", "/p/a", "/p/d", "/q/x", "/p/c", "/p", "/p0"] {
        put(&store, key, key).await;
    }
    let all = store.list("/p/", None, 0, None).await.unwrap();
    assert_eq!(all.items.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["/p/a", "/p/b", "/p/c", "/p/d"]);
    assert_eq!((all.revision, all.more, all.remaining), (store.current_revision().await.unwrap(), false, 0));

    let first = store.list("/p/", None, 2, None).await.unwrap();
    assert_eq!((first.items.len(), first.more, first.remaining), (2, true, 2));
    // The pages after the first do not see what happens meanwhile.
    put(&store, "/p/c", "changed").await;
    store.delete("/p/d", Expect::Any).await.unwrap();
    put(&store, "/p/e", "new").await;
    let second = store.list("/p/", Some("/p/b"), 2, Some(first.revision)).await.unwrap();
    assert_eq!(second.items, all.items[2..]);
    assert_eq!((second.revision, second.more), (first.revision, false));
    assert_eq!(store.list("/p/", None, 0, Some(all.revision)).await.unwrap(), all);
    let expected = [("/p/a", "/p/a"), ("/p/b", "/p/b"), ("/p/c", "changed"), ("/p/e", "new")];
    assert_eq!(values(&store, "/p/", None).await, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let future = store.list("/p/", None, 0, Some(1_000)).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "{future:?}");
}

async fn one_of_many_racing_writes_wins(store: Arc<dyn Store>) {
    // Each of 8 tasks adds 25 to a counter by compare-and-swap: lost updates would show.
    put(&store, "/counter", "0").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                let mut seen = store.get("/counter").await.unwrap().0.unwrap();
                while done < 25 {
                    let value: u32 = std::str::from_utf8(&seen.value).unwrap().parse().unwrap();
                    let expect = Expect::Revision(seen.mod_revision);
                    match store.put("/counter", text((value + 1).to_string()), expect, None).await {
                        Ok(_) => {
                            done += 1;
                            seen = store.get("/counter").await.unwrap().0.unwrap();
                        }
                        Err(StoreError::Conflict { current: Some(current) }) => seen = current,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        soon(task).await.unwrap();
    }
    assert_eq!(&store.get("/counter").await.unwrap().0.unwrap().value[..], b"200");
}

async fn revisions_rise_by_one_a_write(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let writes = (0..100).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put(&store, &format!("/k/{}", n % 10), "x").await })
    });
    let mut revisions = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        revisions.push(soon(write).await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (start + 1..=start + 100).collect::<Vec<_>>());
    assert_eq!(store.current_revision().await.unwrap(), start + 100);
}

async fn events_tell_the_history(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let live = store.watch("/w/", start).await.unwrap();
    put(&store, "/w/a", "1").await;
    put(&store, "/other", "x").await;
    put(&store, "/w/a", "2").await;
    store.delete("/w/a", Expect::Any).await.unwrap();
    put(&store, "/w/a", "3").await;
    let resumed = store.watch("/w/", start).await.unwrap();
    for stream in [live, resumed] {
        let events = collect(&stream, |events| events.len() >= 4).await;
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let previous = event.previous.as_ref().map(|kv| (kv.value.clone(), kv.mod_revision - start));
                (event.kind, event.revision() - start, event.object.value.clone(), previous)
            })
            .collect();
        let expected = [
            (EventKind::Added, 1, text("1"), None),
            (EventKind::Modified, 3, text("2"), Some((text("1"), 1))),
            (EventKind::Deleted, 4, text("2"), Some((text("2"), 3))),
            (EventKind::Added, 5, text("3"), None),
        ];
        assert_eq!(told, expected);
        assert_eq!(events[1].object.create_revision - start, 1);
        assert_eq!(stream.progress(), (start + 5, start + 5));
    }
    let future = store.watch("/w/", start + 100).await;
    assert!(matches!(future, Err(StoreError::Future { .. })));
}

async fn a_watch_resumes_anywhere_under_load(store: Arc<dyn Store>) {
    const WRITES: usize = 400;
    let start = store.current_revision().await.unwrap();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..WRITES / 4 {
                    let prefix = if n % 5 == 4 { "/else" } else { "/load" };
                    put(&store, &format!("{prefix}/{writer}-{}", n % 7), "x").await;
                }
            })
        })
        .collect();
    // A watcher that is torn down and resumed over and over sees each write once, in order.
    let mut seen: Vec<Revision> = Vec::new();
    while seen.len() < WRITES / 5 * 4 {
        let after = seen.last().copied().unwrap_or(start);
        let stream = soon(store.watch("/load/", after)).await.unwrap();
        seen.extend(soon(stream.next()).await.unwrap().iter().map(|event| event.revision()));
    }
    for writer in writers {
        soon(writer).await.unwrap();
    }
    let all = store.watch("/load/", start).await.unwrap();
    let all = collect(&all, |events| events.len() >= WRITES / 5 * 4).await;
    assert_eq!(seen, all.iter().map(|event| event.revision()).collect::<Vec<_>>());
    assert!(seen.is_sorted_by(|a, b| a < b));
}

async fn compaction_refuses_the_past_only(store: Arc<dyn Store>) {
    put(&store, "/c/kept", "1").await;
    put(&store, "/c/gone", "1").await;
    let early = put(&store, "/c/a", "1").await;
    put(&store, "/c/a", "2").await;
    let (_, at) = store.delete("/c/gone", Expect::Any).await.unwrap();
    put(&store, "/c/a", "3").await;
    store.compact(at).await.unwrap();
    // At the compacted revision and later everything is as it was, earlier nothing is.
    let at_then = values(&store, "/c/", Some(at)).await;
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(at_then, [pair("/c/a", "2"), pair("/c/kept", "1")]);
    assert_eq!(values(&store, "/c/", None).await, [pair("/c/a", "3"), pair("/c/kept", "1")]);
    for before in [early, at - 1] {
        let list = store.list("/c/", None, 0, Some(before)).await;
        assert!(matches!(list, Err(StoreError::Compacted { oldest }) if oldest == at), "{list:?}");
        assert!(matches!(store.watch("/c/", before).await, Err(StoreError::Compacted { oldest }) if oldest == at));
    }
    let stream = store.watch("/c/", at).await.unwrap();
    let events = collect(&stream, |events| !events.is_empty()).await;
    assert_eq!(events[0].previous.as_ref().map(|kv| kv.value.clone()), Some(text("2")));
    store.compact(early).await.unwrap();
    assert!(matches!(store.compact(1_000).await, Err(StoreError::Future { .. })));
    assert_eq!(store.current_revision().await.unwrap(), at + 1);
}

async fn a_ttl_ends_in_a_deletion(store: Arc<dyn Store>) {
    let start = store.current_revision().await.unwrap();
    let stream = store.watch("/e/", start).await.unwrap();
    let short = Some(Duration::from_secs(1));
    store.put("/e/short", text("s"), Expect::Any, short).await.unwrap();
    store.put("/e/rewritten", text("1"), Expect::Any, short).await.unwrap();
    store.put("/e/rewritten", text("2"), Expect::Any, None).await.unwrap();
    store.put("/e/deleted", text("d"), Expect::Any, short).await.unwrap();
    store.delete("/e/deleted", Expect::Any).await.unwrap();
    store.put("/e/long", text("l"), Expect::Any, Some(Duration::from_secs(3_600))).await.unwrap();
    store.put("/e/later", text("l"), Expect::Any, Some(Duration::from_millis(1_500))).await.unwrap();
    // The last to expire comes last; by then the others would have been deleted twice, had they been.
    let events = collect(&stream, |events| {
        events.iter().any(|e| e.kind == EventKind::Deleted && e.object.key.ends_with("later"))
    })
    .await;
    let deleted: Vec<_> =
        events.iter().filter(|event| event.kind == EventKind::Deleted).map(|event| &*event.object.key).collect();
    assert_eq!(deleted, ["/e/deleted", "/e/short", "/e/later"]);
    let left = values(&store, "/e/", None).await;
    assert_eq!(left, [("/e/long".to_owned(), "l".to_owned()), ("/e/rewritten".to_owned(), "2".to_owned())]);
}

async fn a_closed_store_says_so(store: Arc<dyn Store>) {
    put(&store, "/k", "1").await;
    let stream = store.watch("/k", 1).await.unwrap();
    assert_eq!(collect(&stream, |events| !events.is_empty()).await.len(), 1);
    store.close().await;
    assert!(matches!(soon(stream.next()).await, Err(StoreError::Closed)));
    assert!(matches!(store.put("/k", text(""), Expect::Any, None).await, Err(StoreError::Closed)));
    assert!(matches!(store.get("/k").await, Err(StoreError::Closed)));
    assert!(matches!(store.current_revision().await, Err(StoreError::Closed)));
    store.close().await;
}
