//! The objects that a cluster starts with.

use super::*;

#[tokio::test]
async fn the_default_objects_are_there_and_put_right() {
    let api = Api::empty();
    crate::bootstrap::run(&api.registry).await.unwrap();
    let namespaces = api.get("/api/v1/namespaces").await.ok();
    assert_eq!(names(&namespaces), ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let path = "/api/v1/namespaces/default/services/kubernetes";
    let service = api.get(path).await.ok();
    assert_eq!(
        (text(&service["spec"]["clusterIP"]), &service["spec"]["ports"][0]["targetPort"]),
        ("10.96.0.1".into(), &json!(6443))
    );
    let slice = api.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(slice["ports"][0]["port"], 6443);
    let dns = api.get("/api/v1/namespaces/kube-system/services/kube-dns").await.ok();
    assert_eq!(
        (text(&dns["spec"]["clusterIP"]), text(&dns["spec"]["internalTrafficPolicy"])),
        ("10.96.0.10".into(), "Local".into())
    );
    assert!(dns["spec"]["selector"].is_null());
    let classes = api.get("/apis/scheduling.k8s.io/v1/priorityclasses").await.ok();
    assert_eq!(names(&classes), ["system-cluster-critical", "system-node-critical"]);

    // A second start writes nothing …
    let revision = |list: Value| text(&list["metadata"]["resourceVersion"]);
    let before = revision(api.get("/api/v1/nodes").await.ok());
    crate::bootstrap::run(&api.registry).await.unwrap();
    assert_eq!(revision(api.get("/api/v1/nodes").await.ok()), before);
    // … unless something is wrong.
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let right = api.get(endpoints).await.ok();
    let wrong = json!({"subsets": [{"addresses": [{"ip": "198.51.100.9"}], "ports": [{"port": 1}]}]});
    api.patch(endpoints, MERGE, wrong).await.ok();
    crate::bootstrap::run(&api.registry).await.unwrap();
    assert_eq!(api.get(endpoints).await.ok()["subsets"], right["subsets"]);
}

#[tokio::test]
async fn a_founded_cluster_keeps_its_addresses() {
    let api = Api::empty();
    crate::bootstrap::run(&api.registry).await.unwrap();
    for (change, expected) in [
        (Config { service_cidr: "10.97.0.0/24".into(), ..config() }, "it has had 10.96.0.1 since"),
        (Config { cluster_dns: "10.96.0.20".parse().ok(), ..config() }, "it has had 10.96.0.10 since"),
    ] {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::new(Arc::new(change), api.store.clone(), tasks, shutdown);
        let (_, status) = crate::bootstrap::run(&registry).await.unwrap_err();
        assert!(status.message.starts_with(expected), "{status}");
    }
}

#[tokio::test]
async fn somebody_elses_cluster_dns_is_left_alone() {
    let path = "/api/v1/namespaces/kube-system/services/kube-dns";
    let mut api = Api::empty();
    // Each start is another process with the same store.
    let start = async |api: &mut Api, cluster_dns: Option<IpAddr>| {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        api.registry = Registry::new(Arc::new(Config { cluster_dns, ..config() }), api.store.clone(), tasks, shutdown);
        crate::bootstrap::run(&api.registry).await.unwrap();
    };
    let ours = config().cluster_dns;
    // A cluster that is founded so has no such Service; one that had ours has it no more.
    start(&mut api, None).await;
    assert_eq!(api.get(path).await.code, 404);
    start(&mut api, ours).await;
    api.get(path).await.ok();
    start(&mut api, None).await;
    assert_eq!(api.get(path).await.code, 404);
    // One that somebody has made his own stays as it is.
    for spec in [
        json!({"selector": {"k8s-app": "kube-dns"}}),
        json!({"internalTrafficPolicy": "Cluster"}),
        json!({"ports": [{"name": "metrics", "port": 9153, "protocol": "TCP"}]}),
    ] {
        start(&mut api, ours).await;
        let changed = api.patch(path, MERGE, json!({"spec": spec})).await.ok();
        start(&mut api, None).await;
        assert_eq!(api.get(path).await.ok(), changed);
        api.delete(path).await.ok();
    }
}
