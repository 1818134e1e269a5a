//! Lists: revisions, pages, selectors, tables.

use super::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(count: usize) -> Api {
    let api = Api::new().await;
    for n in 0..count {
        let labels = json!({"n": n.to_string(), "odd": (n % 2 == 1).to_string()});
        api.post(MAPS, json!({"metadata": {"name": format!("m{n:02}"), "labels": labels}})).await.ok();
    }
    api
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Behaviour 1.
#[tokio::test]
async fn a_lists_revision_is_the_stores() {
    let api = with_maps(1).await;
    let before = revision(&api.get(MAPS).await.ok());
    // Something else is written, and something is deleted: the list's revision follows, its items do not.
    api.post("/api/v1/namespaces/other/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    assert_eq!(revision(&api.get(MAPS).await.ok()), before + 1);
    api.delete("/api/v1/namespaces/other/secrets/s").await.ok();
    let list = api.get(MAPS).await.ok();
    assert_eq!(revision(&list), before + 2);
    assert_eq!(text(&list["kind"]), "ConfigMapList");
    assert_eq!(list["items"][0], api.get(&format!("{MAPS}/m00")).await.ok());
}

/// Behaviour 12.
#[tokio::test]
async fn pages_are_of_one_revision() {
    let api = with_maps(7).await;
    let first = api.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (3, &json!(4)));
    api.delete(&format!("{MAPS}/m05")).await.ok();
    api.post(MAPS, config_map("m03a")).await.ok();
    let token = text(&first["metadata"]["continue"]);
    let second = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&second), ["m03", "m04", "m05"]);
    assert_eq!(revision(&second), revision(&first));
    let token = text(&second["metadata"]["continue"]);
    let last = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&last), ["m06"]);
    assert!(last["metadata"]["continue"].is_null() && last["metadata"]["remainingItemCount"].is_null());
    assert_eq!(names(&api.get(&format!("{MAPS}?limit=0")).await.ok()).len(), 7);
    let selected = api.get(&format!("{MAPS}?limit=2&labelSelector=odd=true")).await.ok();
    assert_eq!(names(&selected), ["m01", "m03"]);
    assert!(selected["metadata"]["remainingItemCount"].is_null() && selected["metadata"]["continue"].is_string());
}

/// Behaviour 12: an expired token.
#[tokio::test]
async fn an_expired_token_comes_with_a_fresh_one() {
    use store::Store;

    let api = with_maps(4).await;
    let token = text(&api.get(&format!("{MAPS}?limit=1")).await.ok()["metadata"]["continue"]);
    // The cache forgets as its ring fills; the store's history is compacted.
    let object = Bytes::from_static(
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m00","namespace":"default"}}"#,
    );
    for _ in 0..9000 {
        api.store.put("/registry/core/configmaps/default/m00", object.clone(), store::Expect::Any, None).await.unwrap();
        api.registry.cache("", "configmaps").await.unwrap().revision();
    }
    api.store.compact(api.store.current_revision().await.unwrap()).await.unwrap();
    let expired = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((expired.code, text(&expired.json["reason"])), (410, "Expired".to_owned()));
    let fresh = text(&expired.json["metadata"]["continue"]);
    assert_eq!(names(&api.get(&format!("{MAPS}?continue={fresh}")).await.ok()), ["m01", "m02", "m03"]);
}

/// Behaviour 13.
#[tokio::test]
async fn revisions_and_matches() {
    let api = with_maps(3).await;
    let at = revision(&api.get(MAPS).await.ok());
    api.delete(&format!("{MAPS}/m00")).await.ok();
    let cases: [(String, Result<usize, u16>); 15] = [
        (String::new(), Ok(2)),
        ("resourceVersion=0".into(), Ok(2)),
        (format!("resourceVersion={at}"), Ok(2)),
        (format!("resourceVersion={at}&resourceVersionMatch=NotOlderThan"), Ok(2)),
        (format!("resourceVersion={at}&resourceVersionMatch=Exact"), Ok(3)),
        (format!("resourceVersion={at}&limit=5"), Ok(3)),
        ("resourceVersionMatch=Exact".into(), Err(400)),
        ("resourceVersion=0&resourceVersionMatch=Exact".into(), Err(400)),
        (format!("resourceVersion={at}&resourceVersionMatch=Other"), Err(400)),
        (format!("resourceVersion={at}&resourceVersionMatch=Exact&continue=x"), Err(400)),
        ("continue=nonsense".into(), Err(400)),
        ("sendInitialEvents=true".into(), Err(400)),
        ("limit=x".into(), Err(400)),
        ("timeoutSeconds=5".into(), Ok(2)),
        ("timeoutSeconds=x".into(), Err(400)),
    ];
    for (query, expect) in cases {
        let answer = api.get(&format!("{MAPS}?{query}")).await;
        let got = if answer.code == 200 { Ok(names(&answer.json).len()) } else { Err(answer.code) };
        assert_eq!(got, expect, "{query}: {}", answer.json);
    }
}

#[tokio::test]
async fn a_revision_that_is_not_reached_times_out() {
    let api = with_maps(1).await;
    for target in [format!("{MAPS}?resourceVersion=99999"), format!("{MAPS}/m00?resourceVersion=99999")] {
        let answer = api.get(&target).await;
        assert_eq!(answer.code, 504, "{target}");
        assert_eq!(answer.json["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }
}

/// Behaviours 10 and 11.
#[tokio::test]
async fn selectors() {
    let api = with_maps(4).await;
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.ok();
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n2"}, "spec": {"unschedulable": true}})).await.ok();
    let cases: [(&str, Result<&[&str], u16>); 14] = [
        ("/api/v1/configmaps?labelSelector=n=1", Ok(&["m01"])),
        ("/api/v1/configmaps?labelSelector=n==1", Ok(&["m01"])),
        ("/api/v1/configmaps?labelSelector=odd!=true", Ok(&["m00", "m02"])),
        ("/api/v1/configmaps?labelSelector=n%20in%20(1,2)", Ok(&["m01", "m02"])),
        ("/api/v1/configmaps?labelSelector=n%20notin%20(1,2),odd=true", Ok(&["m03"])),
        ("/api/v1/configmaps?labelSelector=odd", Ok(&["m00", "m01", "m02", "m03"])),
        ("/api/v1/configmaps?labelSelector=!odd", Ok(&[])),
        ("/api/v1/configmaps?labelSelector=a%20b%20c", Err(400)),
        ("/api/v1/configmaps?fieldSelector=metadata.name=m02", Ok(&["m02"])),
        ("/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name=m02,metadata.namespace=other", Ok(&[])),
        ("/api/v1/configmaps?fieldSelector=data.x=1", Err(400)),
        ("/api/v1/nodes?fieldSelector=spec.unschedulable=false", Ok(&["n1"])),
        ("/api/v1/nodes?fieldSelector=spec.unschedulable=true", Ok(&["n2"])),
        ("/api/v1/nodes?fieldSelector=spec.podCIDR=x", Err(400)),
    ];
    for (target, expect) in cases {
        let answer = api.get(target).await;
        let got = if answer.code == 200 { Ok(names(&answer.json)) } else { Err(answer.code) };
        assert_eq!(got, expect.map(|names| names.iter().map(|name| (*name).to_owned()).collect()), "{target}");
    }
}

#[tokio::test]
async fn long_lists_come_in_large_chunks() {
    let api = Api::new().await;
    for n in 0..40 {
        let object = json!({"metadata": {"name": format!("m{n:02}")}, "data": {"k": "x".repeat(10_000)}});
        api.post(MAPS, object).await.ok();
    }
    let (response, _) = api.send(Method::GET, MAPS, &[], "").await.unwrap();
    let mut body = response.into_body();
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    let promised = http_body::Body::size_hint(&body).exact().unwrap();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        sizes.push(data.len());
        all.extend_from_slice(&data);
    }
    assert_eq!(promised, all.len() as u64);
    assert!(sizes.len() > 3 && sizes[..sizes.len() - 1].iter().all(|size| *size >= 64 * 1024), "{sizes:?}");
    assert_eq!(names(&serde_json::from_slice(&all).unwrap()).len(), 40);
}

#[tokio::test]
async fn tables() {
    let api = with_maps(2).await;
    let table = api.table(MAPS).await.ok();
    assert_eq!((text(&table["kind"]), table["rows"].as_array().unwrap().len()), ("Table".to_owned(), 2));
    assert!(!table["columnDefinitions"].as_array().unwrap().is_empty());
    let row = &table["rows"][1];
    assert_eq!(row["cells"].as_array().unwrap().len(), table["columnDefinitions"].as_array().unwrap().len());
    assert_eq!(row["cells"][0], "m01");
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("m01"))
    );
    assert!(table["metadata"]["resourceVersion"].is_string());
    let one = api.table(&format!("{MAPS}/m00?includeObject=None")).await.ok();
    assert_eq!((one["rows"].as_array().unwrap().len(), &one["rows"][0]["object"]), (1, &Value::Null));
}
