//! Watches: what is delivered, as what, and how they end.

use store::Store;

use super::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn revision(api: &Api) -> u64 {
    api.store.current_revision().await.unwrap()
}

async fn labelled(api: &Api, name: &str, label: &str) -> Value {
    api.post(MAPS, json!({"metadata": {"name": name, "labels": {"l": label}}})).await.ok()
}

/// Behaviours 2, 5 and 7.
#[tokio::test]
async fn events_carry_their_own_revision_and_come_once() {
    let api = Api::new().await;
    labelled(&api, "before", "x").await;
    let from = revision(&api).await;
    let mut early = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let made = labelled(&api, "a", "x").await;
    let changed = api.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": "v"}})).await.ok();
    api.delete(&format!("{MAPS}/a")).await.ok();
    api.post("/api/v1/namespaces/other/configmaps", config_map("elsewhere")).await.ok();
    labelled(&api, "a", "y").await;
    // One that starts later from the same revision sees the same.
    let mut late = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    for watch in [&mut early, &mut late] {
        let events = [watch.next().await.unwrap(), watch.next().await.unwrap(), watch.next().await.unwrap()];
        assert_eq!(events.each_ref().map(|event| text(&event["type"])), ["ADDED", "MODIFIED", "DELETED"]);
        assert_eq!((&events[0]["object"], &events[1]["object"]), (&made, &changed));
        let deleted = &events[2]["object"];
        assert_eq!((&deleted["data"]["k"], &deleted["metadata"]["uid"]), (&json!("v"), &made["metadata"]["uid"]));
        let at: u64 = deleted["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert_eq!(at, from + 3);
        watch.expect("ADDED", "a").await;
    }
}

#[tokio::test]
async fn without_a_revision_the_present_state_comes_first() {
    let api = Api::new().await;
    labelled(&api, "a", "x").await;
    labelled(&api, "b", "x").await;
    for query in ["watch=true", "watch=true&resourceVersion=0", "watch=true&resourceVersion="] {
        let mut watch = api.watch(&format!("{MAPS}?{query}")).await;
        watch.expect("ADDED", "a").await;
        watch.expect("ADDED", "b").await;
        api.patch(&format!("{MAPS}/b"), MERGE, json!({"data": {"k": query}})).await.ok();
        watch.expect("MODIFIED", "b").await;
    }
    // Its end is marked as if the client had asked for it by name.
    let mut marked = api.watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true")).await;
    marked.expect("ADDED", "a").await;
    marked.expect("ADDED", "b").await;
    let bookmark = marked.next().await.unwrap();
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

/// Behaviour 6.
#[tokio::test]
async fn selectors_make_objects_enter_and_leave() {
    let api = Api::new().await;
    let from = revision(&api).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&labelSelector=l=in&resourceVersion={from}")).await;
    labelled(&api, "a", "out").await;
    let set = |label: &'static str| {
        let api = &api;
        async move { api.patch(&format!("{MAPS}/a"), MERGE, json!({"metadata": {"labels": {"l": label}}})).await.ok() }
    };
    set("in").await;
    watch.expect("ADDED", "a").await;
    api.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": "v"}})).await.ok();
    watch.expect("MODIFIED", "a").await;
    let left = set("out").await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (text(&event["type"]), text(&event["object"]["metadata"]["labels"]["l"])),
        ("DELETED".into(), "in".into())
    );
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    // Its deletion is no business of this watch; the next one is.
    api.delete(&format!("{MAPS}/a")).await.ok();
    labelled(&api, "b", "in").await;
    watch.expect("ADDED", "b").await;
    api.delete(&format!("{MAPS}/b")).await.ok();
    watch.expect("DELETED", "b").await;
}

/// Behaviours 3 and 4.
#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let api = Api::new().await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for (objects, namespace) in [(0, "other"), (2, "default")] {
        for n in 0..objects {
            labelled(&api, &format!("m{n}"), "x").await;
        }
        let mut watch = api.watch(&format!("/api/v1/namespaces/{namespace}/configmaps?{query}")).await;
        for n in 0..objects {
            watch.expect("ADDED", &format!("m{n}")).await;
        }
        let bookmark = watch.next().await.unwrap();
        assert_eq!(text(&bookmark["type"]), "BOOKMARK");
        let object = &bookmark["object"];
        assert_eq!((text(&object["kind"]), text(&object["apiVersion"])), ("ConfigMap".into(), "v1".into()));
        assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(object["metadata"]["resourceVersion"], revision(&api).await.to_string());
    }
    // Without leave for bookmarks there is none.
    let mut silent =
        api.watch(&format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")).await;
    silent.expect("ADDED", "m0").await;
    silent.expect("ADDED", "m1").await;
    labelled(&api, "m2", "x").await;
    silent.expect("ADDED", "m2").await;
    for bad in [
        "watch=1&sendInitialEvents=true",
        "watch=1&resourceVersionMatch=NotOlderThan",
        "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
        "watch=1&continue=x",
    ] {
        assert_eq!(api.get(&format!("{MAPS}?{bad}")).await.error().0, 400, "{bad}");
    }
}

/// Behaviours 4 and 8.
#[tokio::test]
async fn bookmarks_come_now_and_then_and_watches_end() {
    let api = Api::new().await;
    let from = revision(&api).await;
    let target = format!("{MAPS}?watch=1&resourceVersion={from}");
    let mut quiet = api.watch(&format!("{target}&timeoutSeconds=1")).await;
    let mut marked = api.watch(&format!("{target}&allowWatchBookmarks=true")).await;
    api.post("/api/v1/namespaces/other/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    let bookmark = marked.next().await.unwrap();
    assert_eq!(text(&bookmark["type"]), "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], (from + 1).to_string());
    assert_eq!(
        (text(&bookmark["object"]["kind"]), text(&bookmark["object"]["apiVersion"])),
        ("ConfigMap".into(), "v1".into())
    );
    assert_eq!(quiet.next().await, None);
}

/// Behaviour 7: history that is gone.
#[tokio::test]
async fn a_watch_from_too_far_back_is_told() {
    let api = Api::new().await;
    let object =
        Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"default"}}"#);
    let from = revision(&api).await;
    let cache = api.registry.cache("", "configmaps").await.unwrap();
    for _ in 0..9000 {
        api.store.put("/registry/core/configmaps/default/a", object.clone(), store::Expect::Any, None).await.unwrap();
        cache.revision();
    }
    api.store.compact(revision(&api).await).await.unwrap();
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(text(&event["type"]), "ERROR");
    let status = &event["object"];
    assert_eq!(
        (&status["code"], text(&status["reason"]), text(&status["kind"])),
        (&json!(410), "Expired".into(), "Status".into())
    );
    assert!(text(&status["message"]).starts_with("too old resource version"));
    assert_eq!(watch.next().await, None);
}

/// Behaviour 10.
#[tokio::test]
async fn legacy_paths_watch_one_object_or_all() {
    let api = Api::new().await;
    labelled(&api, "a", "x").await;
    labelled(&api, "b", "x").await;
    let mut one = api.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    one.expect("ADDED", "b").await;
    api.delete(&format!("{MAPS}/a")).await.ok();
    api.delete(&format!("{MAPS}/b")).await.ok();
    one.expect("DELETED", "b").await;
    let mut all = api.watch("/api/v1/watch/configmaps").await;
    labelled(&api, "c", "x").await;
    all.expect("ADDED", "c").await;
    let mut by_field = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name=d")).await;
    labelled(&api, "e", "x").await;
    labelled(&api, "d", "x").await;
    by_field.expect("ADDED", "d").await;
}

#[tokio::test]
async fn tables_are_watched() {
    let api = Api::new().await;
    labelled(&api, "a", "x").await;
    let mut watch = api.watch_as(&format!("{MAPS}?watch=1"), TABLE).await;
    let first = watch.next().await.unwrap();
    assert_eq!((text(&first["type"]), text(&first["object"]["kind"])), ("ADDED".into(), "Table".into()));
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(first["object"]["columnDefinitions"].is_array());
    labelled(&api, "b", "x").await;
    let second = watch.next().await.unwrap();
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
    assert!(second["object"]["columnDefinitions"].is_null());
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off() {
    let api = Api::new().await;
    let cache = api.registry.cache("", "configmaps").await.unwrap();
    let mut watch = api.watch(&format!("{MAPS}?watch=1")).await;
    labelled(&api, "first", "x").await;
    watch.expect("ADDED", "first").await;
    let object =
        Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"default"}}"#);
    for _ in 0..33_000 {
        api.store.put("/registry/core/configmaps/default/a", object.clone(), store::Expect::Any, None).await.unwrap();
        cache.revision();
    }
    let mut last = watch.next().await.unwrap();
    while text(&last["type"]) != "ERROR" {
        last = watch.next().await.unwrap();
    }
    assert_eq!(last["object"]["code"], 410);
    assert_eq!(watch.next().await, None);
}
