//! Bodies and answers in protobuf.

use apimachinery::protobuf::{self, Kind};
use http_body::Body as _;

use super::*;
use crate::registry::PROTOBUF_STREAM;

const PROTOBUF: &str = protobuf::MEDIA_TYPE;
const BOTH: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Api {
    /// Sends an object in protobuf; the answer's code, and the object it holds, in whichever encoding.
    async fn wire(&self, method: Method, target: &str, accept: &str, object: Option<&Value>) -> (u16, Value) {
        let body = object.map(|object| Kind::of_object(object).unwrap().value(object).unwrap()).unwrap_or_default();
        self.raw(method, target, accept, body).await
    }

    async fn raw(&self, method: Method, target: &str, accept: &str, body: Vec<u8>) -> (u16, Value) {
        let headers = [(ACCEPT, accept), (CONTENT_TYPE, PROTOBUF)];
        let response = match self.send(method, target, &headers, body).await {
            Ok((response, _)) => response,
            Err(status) => return (status.code, status.to_value()),
        };
        let (code, size) = (response.status().as_u16(), response.body().size_hint().exact());
        let in_protobuf = response.headers()[CONTENT_TYPE] == PROTOBUF;
        assert_eq!(in_protobuf, accept.starts_with(PROTOBUF), "{target}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(size.is_none_or(|size| size == bytes.len() as u64), "{target}: {size:?} {}", bytes.len());
        let object =
            if in_protobuf { protobuf::decode(&bytes, None).unwrap() } else { serde_json::from_slice(&bytes).unwrap() };
        (code, object)
    }
}

fn map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": data}})
}

/// Every verb takes and gives the same as in JSON.
#[tokio::test]
async fn both_encodings_say_the_same() {
    let api = Api::new().await;
    let (code, made) = api.wire(Method::POST, MAPS, BOTH, Some(&map("a", "ä"))).await;
    assert_eq!((code, &made["data"]["k"]), (201, &json!("ä")));
    assert_eq!(api.get(&format!("{MAPS}/a")).await.ok(), made);
    let (_, read) = api.wire(Method::GET, &format!("{MAPS}/a"), PROTOBUF, None).await;
    assert_eq!(read, made);
    let mut changed = made.clone();
    changed["data"]["k"] = "".into();
    let (code, changed) = api.wire(Method::PUT, &format!("{MAPS}/a"), BOTH, Some(&changed)).await;
    assert_eq!((code, &changed["data"]), (200, &json!({"k": ""})));
    let (code, conflict) = api.wire(Method::PUT, &format!("{MAPS}/a"), "application/json", Some(&made)).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    api.wire(Method::POST, MAPS, BOTH, Some(&map("b", "2"))).await;
    let (_, list) = api.wire(Method::GET, MAPS, BOTH, None).await;
    let mut in_json = api.get(MAPS).await.ok();
    // Items of a list do not say their kind on this wire.
    for item in in_json["items"].as_array_mut().unwrap() {
        item.as_object_mut().unwrap().retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind"));
    }
    assert_eq!(list, in_json);
    let (_, page) = api.wire(Method::GET, &format!("{MAPS}?limit=1"), BOTH, None).await;
    assert_eq!((names(&page), &page["metadata"]["remainingItemCount"]), (vec!["a".to_owned()], &json!(1)));
    assert!(!text(&page["metadata"]["continue"]).is_empty());
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, _) = api.wire(Method::DELETE, &format!("{MAPS}/a"), "application/json", Some(&options)).await;
    assert_eq!(code, 409);
    let options = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let (code, status) = api.wire(Method::DELETE, &format!("{MAPS}/a"), BOTH, Some(&options)).await;
    assert_eq!((code, &status["kind"], &status["details"]["name"]), (200, &json!("Status"), &json!("a")));
    let (code, gone) = api.wire(Method::DELETE, MAPS, BOTH, Some(&options)).await;
    assert_eq!((code, names(&gone)), (200, vec!["b".to_owned()]));
}

#[tokio::test]
async fn other_forms_and_versions() {
    let api = Api::new().await;
    api.post("/apis/apps/v1/namespaces/default/deployments", deployment("d")).await.ok();
    let target = "/apis/apps/v1/namespaces/default/deployments";
    let (_, one) = api.wire(Method::GET, &format!("{target}/d"), METADATA, None).await;
    assert_eq!(
        (&one["kind"], &one["metadata"]["name"], &one["spec"]),
        (&json!("PartialObjectMetadata"), &json!("d"), &Value::Null)
    );
    let (_, list) = api.wire(Method::GET, target, METADATA_LIST, None).await;
    assert_eq!((&list["kind"], names(&list)), (&json!("PartialObjectMetadataList"), vec!["d".to_owned()]));
    assert_eq!(list["items"][0].as_object().unwrap().len(), 1);
    let (_, scale) = api.wire(Method::GET, &format!("{target}/d/scale"), BOTH, None).await;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let wanted = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"}, "spec": {}});
    let (code, scale) = api.wire(Method::PUT, &format!("{target}/d/scale"), BOTH, Some(&wanted)).await;
    assert_eq!((code, &scale["spec"]), (200, &json!({})));
    assert_eq!(api.get(&format!("{target}/d")).await.ok()["spec"]["replicas"], 0);
    // A version whose fields have other names.
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default"}, "message": "m", "type": "Normal"});
    api.post("/api/v1/namespaces/default/events", event).await.ok();
    let (_, events) = api.wire(Method::GET, "/apis/events.k8s.io/v1/namespaces/default/events", BOTH, None).await;
    assert_eq!((&events["items"][0]["note"], &events["items"][0]["regarding"]["kind"]), (&json!("m"), &json!("Pod")));
    let tables = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
    let (code, status) = api.wire(Method::GET, target, tables, None).await;
    assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")));
}

/// Beyond what is kept of it, a list is encoded while it is sent.
#[tokio::test]
async fn large_lists_are_whole() {
    let api = Api::new().await;
    let data = "x".repeat(900_000);
    for number in 0..7 {
        api.wire(Method::POST, MAPS, BOTH, Some(&map(&format!("m{number}"), &data))).await;
    }
    let (_, list) = api.wire(Method::GET, MAPS, BOTH, None).await;
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 7);
    assert!(items.iter().all(|item| item["data"]["k"] == data.as_str()));
}

#[tokio::test]
async fn wrong_bodies_are_told() {
    let api = Api::new().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    for (body, code, message) in [
        (
            Kind::of_object(&pod).unwrap().value(&pod).unwrap(),
            400,
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (b"k8s\0\x0a\x7f".to_vec(), 400, "unexpected EOF"),
        (b"{}".to_vec(), 400, "provided data does not appear to be a protobuf message"),
        (Vec::new(), 400, "ConfigMap body must not be empty"),
    ] {
        let (found, status) = api.raw(Method::POST, MAPS, "application/json", body).await;
        assert_eq!(found, code, "{status}");
        assert!(text(&status["message"]).contains(message), "{status}");
    }
    let (code, status) = api.raw(Method::PATCH, &format!("{MAPS}/a"), "application/json", b"k8s\0".to_vec()).await;
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")));
    let headers = [(CONTENT_TYPE, "text/plain")];
    let answer = api.request(Method::POST, MAPS, &headers, "{}").await;
    let accepted =
        "accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert!(answer.error().2.ends_with(accepted), "{answer:?}");
}

/// A number in varint form, and what follows it.
fn varint(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let number = bytes[..=end].iter().rev().fold(0, |number, byte| number << 7 | usize::from(byte & 0x7f));
    (number, &bytes[end + 1..])
}

/// The bytes of the field that a message begins with, and what follows it.
fn field(number: u8, message: &[u8]) -> (&[u8], &[u8]) {
    assert_eq!(message[0], number << 3 | 2);
    let (length, rest) = varint(&message[1..]);
    rest.split_at(length)
}

/// The next event of a watch in protobuf but for the bookmarks that come with time: its type and object.
async fn event(watching: &mut Watching) -> (String, Value) {
    loop {
        if let Some((length, rest)) = watching.buffer.split_first_chunk::<4>()
            && rest.len() >= u32::from_be_bytes(*length) as usize
        {
            let length = u32::from_be_bytes(*length) as usize;
            let frame = watching.buffer.split_to(4 + length);
            let (kind, rest) = field(1, &frame[4..]);
            let (extension, rest) = field(2, rest);
            let (object, end) = field(1, extension);
            assert!(rest.is_empty() && end.is_empty());
            let object = protobuf::decode(object, None).unwrap();
            if kind == b"BOOKMARK" && object["metadata"]["annotations"].is_null() {
                continue;
            }
            return (String::from_utf8(kind.to_vec()).unwrap(), object);
        }
        let frame = tokio::time::timeout(Duration::from_secs(10), watching.body.frame()).await.expect("an event");
        watching.buffer.extend_from_slice(&frame.expect("the watch goes on").unwrap().into_data().unwrap());
    }
}

#[tokio::test]
async fn watches_are_framed() {
    let api = Api::new().await;
    let before = api.post(MAPS, config_map("a")).await.ok();
    let target = format!("{MAPS}?watch=1&allowWatchBookmarks=true");
    let (response, _) = api.send(Method::GET, &target, &[(ACCEPT, BOTH)], "").await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], PROTOBUF_STREAM);
    let mut first = Watching { body: response.into_body(), buffer: BytesMut::new() };
    let mut second = api.watch_as(&target, BOTH).await;
    for watching in [&mut first, &mut second] {
        assert_eq!(event(watching).await, ("ADDED".to_owned(), before.clone()));
        let (kind, mark) = event(watching).await;
        assert_eq!((&*kind, &mark["kind"]), ("BOOKMARK", &json!("ConfigMap")));
        assert_eq!(mark["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    }
    let budget = api.registry.stored("", "configmaps").unwrap().storage().unwrap().budget().clone();
    let used = budget.used();
    let changed = api.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": "w"}})).await.ok();
    for watching in [&mut first, &mut second] {
        assert_eq!(event(watching).await, ("MODIFIED".to_owned(), changed.clone()));
    }
    let once = budget.used() - used;
    let mut third =
        api.watch_as(&format!("{target}&resourceVersion={}", text(&before["metadata"]["resourceVersion"])), BOTH).await;
    assert_eq!(event(&mut third).await, ("MODIFIED".to_owned(), changed));
    assert_eq!(budget.used() - used, once, "the third takes what the first made");
    api.delete(&format!("{MAPS}/a")).await.ok();
    assert_eq!(event(&mut first).await.0, "DELETED");
    api.post(MAPS, config_map("b")).await.ok();
    let mut partial = api.watch_as(&target, METADATA_LIST).await;
    let (kind, object) = event(&mut partial).await;
    assert_eq!((&*kind, &object["kind"], &object["data"]), ("ADDED", &json!("PartialObjectMetadata"), &Value::Null));
}

/// What goes wrong in a watch is told in it.
#[tokio::test]
async fn errors_are_events() {
    let api = Api::new().await;
    let mut gone = api.watch_as(&format!("{MAPS}?watch=1&labelSelector=a%3Db"), BOTH).await;
    let entering = json!({"metadata": {"name": "in", "labels": {"a": "b"}}});
    api.post(MAPS, entering).await.ok();
    assert_eq!(event(&mut gone).await.0, "ADDED");
    api.patch(&format!("{MAPS}/in"), MERGE, json!({"metadata": {"labels": {"a": "c"}}})).await.ok();
    let (kind, last) = event(&mut gone).await;
    assert_eq!((&*kind, &last["metadata"]["labels"]["a"]), ("DELETED", &json!("b")));
    let store: &dyn store::Store = &*api.store;
    let now = store.current_revision().await.unwrap();
    for number in 0..3 {
        api.post(MAPS, config_map(&format!("c{number}"))).await.ok();
    }
    store.compact(now + 2).await.unwrap();
    let secrets = "/api/v1/namespaces/default/secrets";
    let mut old = api.watch_as(&format!("{secrets}?watch=1&resourceVersion={}", now - 1), BOTH).await;
    let (kind, status) = event(&mut old).await;
    assert_eq!((&*kind, &status["reason"], &status["code"]), ("ERROR", &json!("Expired"), &json!(410)));
}
