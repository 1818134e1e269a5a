//! Cluster IPs and node ports. Addresses asked for are below those that are given at random.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[expect(clippy::needless_pass_by_value, reason = "callers write the JSON in place")]
fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}});
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

#[tokio::test]
async fn addresses_are_given_checked_and_released() {
    let api = Api::new().await;
    let any = api.post(SERVICES, service("any", json!({}))).await.ok();
    let spec = &any["spec"];
    let address = text(&spec["clusterIP"]);
    assert!(address.starts_with("10.96.0."), "{address}");
    assert_eq!(
        (&spec["clusterIPs"], &spec["ipFamilies"], text(&spec["ipFamilyPolicy"])),
        (&json!([address]), &json!(["IPv4"]), "SingleStack".into())
    );
    let cases = [
        ("taken", json!({"clusterIP": address}), "provided IP is already allocated"),
        (
            "outside",
            json!({"clusterIP": "10.97.0.1"}),
            "is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (
            "dual",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "this cluster is not configured for dual-stack services",
        ),
        ("six", json!({"ipFamilies": ["IPv6"]}), "not configured on this cluster"),
    ];
    for (name, spec, message) in cases {
        let refused = api.post(SERVICES, service(name, spec)).await;
        assert!(refused.code == 422 && refused.error().2.contains(message), "{name}: {}", refused.json);
    }
    let headless = api.post(SERVICES, service("headless", json!({"clusterIP": "None"}))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = service("external", json!({"type": "ExternalName", "externalName": "example.com"}));
    assert!(api.post(SERVICES, external).await.ok()["spec"]["clusterIP"].is_null());
    // A failed or dry write, and a deletion, give back what was claimed.
    let wanted = service("x", json!({"clusterIP": "10.96.0.5"}));
    api.post(&format!("{SERVICES}?dryRun=All"), wanted.clone()).await.ok();
    api.post(SERVICES, wanted.clone()).await.ok();
    api.delete(&format!("{SERVICES}/x")).await.ok();
    let mut taken_name = wanted.clone();
    taken_name["metadata"]["name"] = "any".into();
    assert_eq!(api.post(SERVICES, taken_name).await.error().1, "AlreadyExists");
    api.post(SERVICES, wanted).await.ok();
}

#[tokio::test]
async fn an_address_stays_and_types_change() {
    let api = Api::new().await;
    let made = api.post(SERVICES, service("s", json!({}))).await.ok();
    let path = format!("{SERVICES}/s");
    // kubectl replace leaves the address out.
    let kept = api.put(&path, &service("s", json!({"sessionAffinity": "ClientIP"}))).await.ok();
    assert_eq!(kept["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let moved = api.put(&path, &service("s", json!({"clusterIP": "10.96.0.7"}))).await;
    assert!(moved.error().0 == 422 && moved.error().2.contains("may not change once set"));
    let exposed = api.patch(&path, MERGE, json!({"spec": {"type": "NodePort"}})).await.ok();
    let port = exposed["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=30009).contains(&port));
    let again = api.put(&path, &service("s", json!({"type": "NodePort"}))).await.ok();
    assert_eq!(again["spec"]["ports"][0]["nodePort"], port);
    let hidden = api.patch(&path, MERGE, json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert!(hidden["spec"]["ports"][0]["nodePort"].is_null());
    let ports = json!([{"port": 80, "protocol": "TCP", "nodePort": port}]);
    api.post(SERVICES, service("t", json!({"type": "NodePort", "ports": ports}))).await.ok();
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = api.patch(&path, MERGE, external).await.ok();
    assert!(external["spec"]["clusterIP"].is_null());
    api.post(SERVICES, service("u", json!({"clusterIP": made["spec"]["clusterIP"]}))).await.ok();
}

#[tokio::test]
async fn node_ports_are_given_checked_and_run_out() {
    let api = Api::new().await;
    let typed = |name: &str, ports: Value| service(name, json!({"type": "NodePort", "ports": ports}));
    let shared = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let dns = api.post(SERVICES, typed("dns", shared)).await.ok();
    let port = dns["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert_eq!(dns["spec"]["ports"][1]["nodePort"], port);
    for (name, number, message) in [
        ("taken", port, "provided port is already allocated"),
        ("outside", 8080, "provided port is not in the valid range. The range of valid ports is 30000-30009"),
    ] {
        let refused =
            api.post(SERVICES, typed(name, json!([{"port": 80, "protocol": "TCP", "nodePort": number}]))).await;
        assert!(refused.code == 422 && refused.error().2.contains(message), "{}", refused.json);
        assert_eq!(refused.json["details"]["causes"][0]["field"], "spec.ports[0].nodePort");
    }
    for n in 0..9 {
        api.post(SERVICES, typed(&format!("s{n}"), json!([{"port": 80, "protocol": "TCP"}]))).await.ok();
    }
    let none = api.post(SERVICES, typed("none", json!([{"port": 80, "protocol": "TCP"}]))).await;
    assert_eq!(none.error().0, 500);
    api.delete(&format!("{SERVICES}/s3")).await.ok();
    api.post(SERVICES, typed("none", json!([{"port": 80, "protocol": "TCP"}]))).await.ok();
}

#[tokio::test]
async fn what_an_update_leaves_out_stays_by_the_name_of_the_port() {
    let api = Api::new().await;
    let port = |name: &str, port: u64| json!({"name": name, "port": port, "protocol": "TCP"});
    let typed = |kind: &str, ports: Value| service("s", json!({"type": kind, "ports": ports}));
    let made = api.post(SERVICES, typed("NodePort", json!([port("a", 80), port("b", 81)]))).await.ok();
    let of = |service: &Value, index: usize| service["spec"]["ports"][index]["nodePort"].as_u64().unwrap();
    let path = format!("{SERVICES}/s");
    let moved = api.put(&path, &typed("NodePort", json!([port("b", 90), port("a", 91)]))).await.ok();
    assert_eq!((of(&moved, 0), of(&moved, 1)), (of(&made, 1), of(&made, 0)));
    // A node port of the client's choice is not given a second time to the port that had it.
    let mut chosen = port("b", 90);
    chosen["nodePort"] = of(&made, 0).into();
    let moved = api.put(&path, &typed("NodePort", json!([chosen, port("a", 91)]))).await.ok();
    assert_eq!(of(&moved, 0), of(&made, 0));
    assert!(of(&moved, 1) != of(&made, 0));

    let local = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}});
    let checked = api.patch(&path, MERGE, local).await.ok();
    let health = &checked["spec"]["healthCheckNodePort"];
    assert!(health.is_u64());
    let taken =
        service("t", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health}));
    let taken = api.post(SERVICES, taken).await;
    assert_eq!(taken.error().0, 422);
    assert_eq!(taken.json["details"]["causes"][0]["field"], "spec.healthCheckNodePort");
    let hidden = api.patch(&path, MERGE, json!({"spec": {"type": "ClusterIP"}})).await.ok();
    for field in ["healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert!(hidden["spec"][field].is_null(), "{field}: {hidden}");
    }
    let two = service("two", json!({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.7"]}));
    let two = api.post(SERVICES, two).await;
    assert!(two.code == 422 && two.error().2.contains("first value must match `clusterIP`"), "{}", two.json);
}
