//! Negotiation and the documents' shape.

use http::header::ACCEPT;

use super::*;

fn headers(accept: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !accept.is_empty() {
        headers.insert(ACCEPT, accept.parse().unwrap());
    }
    headers
}

#[test]
fn formats_are_negotiated_by_quality() {
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let cases = [
        (String::new(), Some(Format::Plain)),
        ("*/*".into(), Some(Format::Plain)),
        (format!("{v2},{beta},application/json"), Some(Format::V2)),
        (format!("{beta},{v2},application/json"), Some(Format::V2Beta1)),
        (format!("{beta};q=0.5,{v2};q=0.8"), Some(Format::V2)),
        (format!("application/json;q=0.9,{v2};q=0.5"), Some(Format::Plain)),
        ("application/vnd.kubernetes.protobuf, application/json".into(), Some(Format::Plain)),
        ("text/html".into(), None),
    ];
    for (accept, expected) in cases {
        assert_eq!(format(&headers(&accept), true), expected, "{accept}");
    }
    assert_eq!(format(&headers(&format!("{v2},application/json")), false), Some(Format::Plain), "not aggregated");
}

#[test]
fn every_resource_is_in_both_forms() {
    let discovery = Discovery::new("10.0.0.1:6443".into(), "test");
    let documents = discovery.build();
    let get = |path: &str, format| -> Value {
        serde_json::from_slice(&documents.get(&(path.to_owned(), format)).unwrap_or_else(|| panic!("{path}")).body)
            .unwrap()
    };
    let aggregated = [get("/api", Format::V2), get("/apis", Format::V2)];
    for resource in apimachinery::resources::all() {
        let path = if resource.group.is_empty() {
            format!("/api/{}", resource.version)
        } else {
            format!("/apis/{}/{}", resource.group, resource.version)
        };
        let list = get(&path, Format::Plain);
        let names: Vec<&str> =
            list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
        assert!(names.contains(&&*resource.resource), "{path} {}", resource.resource);
        let found = aggregated.iter().flat_map(|list| list["items"].as_array().unwrap()).any(|group| {
            group["metadata"]["name"].as_str().unwrap_or_default() == resource.group
                && group["versions"].as_array().unwrap().iter().any(|version| {
                    version["version"] == *resource.version
                        && version["resources"].as_array().unwrap().iter().any(|r| r["resource"] == *resource.resource)
                })
        });
        assert!(found, "aggregated: {path} {}", resource.resource);
    }
    let autoscaling = get("/apis/autoscaling", Format::Plain);
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
}

#[test]
fn a_known_tag_is_answered_with_304() {
    let discovery = Discovery::new("10.0.0.1:6443".into(), "test");
    let first = discovery.answer("/apis/", &Query::default(), &headers("")).unwrap().unwrap();
    let mut again = headers("");
    again.insert(http::header::IF_NONE_MATCH, first.headers()[http::header::ETAG].clone());
    assert_eq!(discovery.answer("/apis", &Query::default(), &again).unwrap().unwrap().status(), 304);
    assert!(discovery.answer("/apis/nothing", &Query::default(), &headers("")).is_none());
}
