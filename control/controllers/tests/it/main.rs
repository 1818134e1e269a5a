//! Scheduler and controllers against the real API server, in one process and without a node: the test plays the kubelet.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod churn;
mod leftovers;
mod nodes;
mod sets;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use controllers::ControllersConfig;
use informer::rest::{DeleteOptions, Path, Propagation, Rest};
use informer::{Event, Informer, Meta, projection};
use serde::Deserialize;
use serde_json::{Value, json};
use store::MemoryStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEADLINE: Duration = Duration::from_secs(20);

/// Any object, whole.
#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

projection!(Pod, "", "v1", "pods");

struct Cluster {
    rest: Rest,
    pods: Informer<Pod>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What a server finds when it starts.
struct Disk {
    store: Arc<MemoryStore>,
    dir: tempfile::TempDir,
}

impl Disk {
    fn empty() -> Disk {
        Disk { store: Arc::new(MemoryStore::new()), dir: tempfile::tempdir().unwrap() }
    }
}

impl Cluster {
    async fn start() -> Cluster {
        Self::start_on(&Disk::empty()).await
    }

    async fn start_on(disk: &Disk) -> Cluster {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_test_writer().try_init();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let config = apiserver::Config {
            data_dir: disk.dir.path().to_owned(),
            kubeconfig_copy: None,
            certificate_life: apiserver::pki::CERTIFICATE_LIFE,
            bind_address: local,
            port: 0,
            // A loopback address would be no endpoint of the `kubernetes` Service.
            advertise_address: Ipv4Addr::new(192, 0, 2, 1).into(),
            node_name: "n1".into(),
            tls_sans: Vec::new(),
            service_cidr: "10.96.0.0/16".into(),
            service_node_port_range: (30000, 32767),
            cluster_domain: "cluster.local".into(),
            cluster_dns: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))),
            version: "test".into(),
        };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let server = ApiServer::start(config, disk.store.clone(), tasks.clone(), shutdown.clone()).await.unwrap();
        let scheduler = server.client("system:kube-scheduler", &["system:authenticated"]);
        scheduler::Scheduler::start(scheduler, &tasks, shutdown.clone());
        let config = ControllersConfig {
            cluster_cidr: ("10.244.0.0".parse().unwrap(), 16),
            node_cidr_mask: 24,
            root_ca_pem: "PEM".into(),
        };
        let clients = server.clone();
        let client_for = move |name: &str| match name {
            "" => clients.client("system:kube-controller-manager", &["system:authenticated"]),
            _ => clients.client(
                &format!("system:serviceaccount:kube-system:{name}"),
                &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            ),
        };
        controllers::start(config, Arc::new(client_for), &tasks, shutdown.clone());
        let admin = server.client("admin", &["system:masters", "system:authenticated"]);
        let pods = Informer::<Pod>::builder(admin.clone()).start(&tasks, shutdown.clone());
        Cluster { rest: Rest::new(admin), pods, tasks, shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.expect("all tasks end");
    }

    /// Makes the namespace that most happens in, with what pods there need.
    async fn shop(&self) {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        self.ensure(&Path::collection("", "v1", "namespaces", ""), &object).await;
        let account = Path::object("", "v1", "serviceaccounts", "shop", "default");
        self.wait("the default account", &account, |it| !it.is_null()).await;
    }

    /// Brings a Ready node, and plays its kubelet: pods that come run, pods that are to go are gone.
    async fn node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.ensure(&Path::collection("", "v1", "nodes", ""), &node).await;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                           "spec": {"holderIdentity": name}});
        let leases = Path::collection("coordination.k8s.io", "v1", "leases", "kube-node-lease");
        self.ensure(&leases, &lease).await;
        let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {"capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}});
        self.rest.strategic_merge(&Path::object("", "v1", "nodes", "", name).child("status"), &status).await.unwrap();
        let (rest, tasks, name) = (self.rest.clone(), self.tasks.clone(), name.to_owned());
        self.pods.on_event(move |event| {
            let Event::Upsert { new: pod, .. } = event else { return };
            if pod.spec["nodeName"] == name.as_str() {
                tasks.spawn(play_kubelet(rest.clone(), Arc::clone(pod)));
            }
        });
    }

    /// Creates what a former server may have left.
    async fn ensure(&self, collection: &Path, object: &Value) {
        let created = self.rest.create(collection, object).await;
        assert!(!created.is_err_and(|error| !informer::rest::is_already_exists(&error)));
    }

    async fn create(&self, group: &str, version: &str, resource: &str, object: Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let path = Path::collection(group, version, resource, namespace);
        self.rest.create(&path, &object).await.unwrap_or_else(|error| panic!("create {resource}: {error}"));
    }

    /// Waits until `done` says so; false if that takes too long. Woken by any change of a pod, and by a timer for what is no pod.
    async fn until(&self, mut done: impl AsyncFnMut() -> bool) -> bool {
        let waiting = async {
            let mut changed = self.pods.changed();
            while !done().await {
                let _ = tokio::time::timeout(Duration::from_millis(20), changed.changed()).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.is_ok()
    }

    /// Waits until `wanted` says so of what is at `path` (null if there is nothing).
    async fn wait(&self, what: &str, path: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let in_time = self.until(async || {
            last = self.rest.get_opt(path).await.unwrap().unwrap_or_default();
            wanted(&last)
        });
        let in_time = in_time.await;
        assert!(in_time, "waited for {what} at {}, last seen {last:#}", path.as_str());
        last
    }
}

async fn play_kubelet(rest: Rest, pod: Arc<Pod>) {
    let meta = &pod.metadata;
    let path = Path::object("", "v1", "pods", &meta.namespace, &meta.name);
    if meta.is_deleting() {
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(&meta.uid) };
        let _ = rest.delete(&path, &now).await;
    } else if pod.status["phase"] != "Running" {
        let ip = format!("10.244.0.{}", meta.uid.bytes().map(u32::from).sum::<u32>() % 250 + 1);
        let status = json!({"metadata": {"uid": meta.uid}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let _ = rest.strategic_merge(&path.child("status"), &status).await;
    }
}

fn count(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
                                         "resources": {"requests": {"cpu": "100m"}}}]},
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_from_namespace_to_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    let namespace = Path::object("", "v1", "namespaces", "", "shop");
    cluster.shop().await;
    let ca = Path::object("", "v1", "configmaps", "shop", "kube-root-ca.crt");
    cluster.wait("the root CA", &ca, |it| it["data"]["ca.crt"] == "PEM").await;
    let node = Path::object("", "v1", "nodes", "", "n1");
    let ready = |it: &Value| {
        it["spec"]["podCIDR"] == "10.244.0.0/24" && it["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
    };
    cluster.wait("an untainted node with a range", &node, ready).await;

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create("", "v1", "services", service).await;
    cluster.create("apps", "v1", "deployments", deployment(3, "a")).await;
    let path = Path::object("apps", "v1", "deployments", "shop", "web");
    let complete = |it: &Value| {
        let status = &it["status"];
        status["observedGeneration"] == it["metadata"]["generation"]
            && status["updatedReplicas"] == 3
            && status["availableReplicas"] == 3
            && status["replicas"] == 3
    };
    let first = cluster.wait("three replicas", &path, complete).await;
    assert_eq!(first["metadata"]["generation"], 1, "what the controller writes is no new generation");
    let slices = Path::collection("discovery.k8s.io", "v1", "endpointslices", "shop");
    let filled = |it: &Value| {
        it["items"][0]["endpoints"]
            .as_array()
            .is_some_and(|all| all.iter().filter(|e| e["conditions"]["ready"] == true).count() == 3)
    };
    let slice = cluster.wait("three endpoints", &slices, filled).await;
    assert_eq!(slice["items"][0]["ports"][0]["port"], 8080);
    let endpoints = Path::object("", "v1", "endpoints", "shop", "web");
    cluster
        .wait("endpoints", &endpoints, |it| it["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 3))
        .await;

    // A new template rolls out; the old set stays empty, for a rollback.
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "b"}]}}}});
    cluster.rest.strategic_merge(&path, &patch).await.unwrap();
    let progressed = |it: &Value| {
        let reason = it["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Progressing");
        complete(it)
            && reason.is_some_and(|c| c["reason"] == "NewReplicaSetAvailable")
            && it["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    };
    cluster.wait("the rollout", &path, progressed).await;
    let sets = Path::collection("apps", "v1", "replicasets", "shop");
    cluster
        .wait("an empty old set", &sets, |it| {
            count(it) == 2
                && it["items"].as_array().unwrap().iter().filter(|set| set["spec"]["replicas"] == 0).count() == 1
        })
        .await;
    let pods = Path::collection("", "v1", "pods", "shop");
    cluster
        .wait("only new pods", &pods, |it| {
            count(it) == 3
                && it["items"].as_array().unwrap().iter().all(|pod| pod["spec"]["containers"][0]["image"] == "b")
        })
        .await;
    let events = cluster.rest.get(&Path::collection("", "v1", "events", "shop")).await.unwrap();
    let reasons: Vec<_> = events["items"].as_array().unwrap().iter().filter_map(|it| it["reason"].as_str()).collect();
    for reason in ["Scheduled", "SuccessfulCreate", "SuccessfulDelete", "ScalingReplicaSet"] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }

    // The garbage collector takes what hangs on a deleted Deployment; the namespace controller the rest.
    cluster
        .rest
        .delete(&path, &DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() })
        .await
        .unwrap();
    cluster.wait("no deployment", &path, Value::is_null).await;
    assert_eq!(count(&cluster.rest.get(&sets).await.unwrap()), 0, "foreground: the sets went first");
    cluster.wait("no pods", &pods, |it| count(it) == 0).await;
    cluster.rest.delete(&namespace, &DeleteOptions::default()).await.unwrap();
    cluster.wait("no namespace", &namespace, Value::is_null).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_fit_nowhere_say_why_and_go_when_a_node_comes() {
    let cluster = Cluster::start().await;
    let account = Path::object("", "v1", "serviceaccounts", "default", "default");
    cluster.wait("the default account", &account, |it| !it.is_null()).await;
    let pod = |name: &str, cpu: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
               "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    cluster.create("", "v1", "pods", pod("small", "1")).await;
    let path = |name: &str| Path::object("", "v1", "pods", "default", name);
    let message = |it: &Value| -> String {
        let scheduled =
            it["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "PodScheduled");
        scheduled.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned()
    };
    cluster.wait("no nodes", &path("small"), |it| message(it) == "no nodes available to schedule pods").await;
    cluster.node("n1").await;
    cluster.wait("the small pod running", &path("small"), |it| it["status"]["phase"] == "Running").await;
    // As `kubectl taint` does it: without the time.
    let mut patient = pod("patient", "1");
    patient["spec"]["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    cluster.create("", "v1", "pods", patient).await;
    cluster.wait("the patient pod running", &path("patient"), |it| it["status"]["phase"] == "Running").await;
    let taint = |taints: Value| json!({ "spec": { "taints": taints } });
    let node = Path::object("", "v1", "nodes", "", "n1");
    let patch = taint(json!([{"key": "k", "effect": "NoExecute"}]));
    cluster.rest.merge(&node, &patch).await.unwrap();
    cluster.wait("the small pod evicted", &path("small"), Value::is_null).await;
    cluster.wait("the patient pod evicted in the end", &path("patient"), Value::is_null).await;
    cluster.rest.merge(&node, &taint(json!([]))).await.unwrap();
    cluster.create("", "v1", "pods", pod("big", "64")).await;
    cluster
        .wait("the big pod's message", &path("big"), |it| {
            message(it).starts_with("0/1 nodes are available: 1 Insufficient cpu.")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_counted_spent_and_filled_again() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.shop().await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": "60%", "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create("policy", "v1", "poddisruptionbudgets", budget).await;
    let path = Path::object("policy", "v1", "poddisruptionbudgets", "shop", "web");
    let counted = |it: &Value, expected: i64, healthy: i64, allowed: i64| {
        let status = &it["status"];
        status["observedGeneration"] == it["metadata"]["generation"]
            && (&status["expectedPods"], &status["currentHealthy"], &status["disruptionsAllowed"])
                == (&json!(expected), &json!(healthy), &json!(allowed))
    };
    cluster.wait("nothing to count", &path, |it| counted(it, 0, 0, 0)).await;
    cluster.create("apps", "v1", "deployments", deployment(3, "a")).await;
    let full = cluster.wait("one of three to spare", &path, |it| counted(it, 3, 3, 1)).await;
    assert_eq!(
        (&full["status"]["desiredHealthy"], &full["status"]["conditions"][0]["status"]),
        (&json!(2), &json!("True"))
    );

    let pods = Path::collection("", "v1", "pods", "shop");
    let names: Vec<String> = cluster.rest.get(&pods).await.unwrap()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    let evict = async |name: &str| {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "shop"}});
        cluster.rest.create(&pods.clone().child(name).child("eviction"), &eviction).await
    };
    evict(&names[0]).await.unwrap();
    // Another takes its place, and its room in the budget is free again.
    cluster.wait("the evicted pod gone", &pods.clone().child(&names[0]), Value::is_null).await;
    let again = |it: &Value| counted(it, 3, 3, 1) && it["status"]["disruptedPods"].is_null();
    cluster.wait("three again", &path, again).await;
    cluster.rest.merge(&path, &json!({"spec": {"minAvailable": 3}})).await.unwrap();
    cluster.wait("nothing to spare", &path, |it| counted(it, 3, 3, 0)).await;
    let refused = evict(&names[1]).await.unwrap_err();
    assert_eq!(informer::rest::refusal(&refused).map(|(code, _)| code), Some(429), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.shop().await;
    cluster.create("apps", "v1", "deployments", deployment(1, "a")).await;
    let (path, sets) = (
        Path::object("apps", "v1", "deployments", "shop", "web"),
        Path::collection("apps", "v1", "replicasets", "shop"),
    );
    cluster.wait("a replica", &path, |it| it["status"]["availableReplicas"] == 1).await;
    cluster
        .rest
        .delete(&path, &DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() })
        .await
        .unwrap();
    cluster.wait("no deployment", &path, Value::is_null).await;
    let left = cluster.wait("an orphan", &sets, |it| count(it) == 1).await;
    assert!(left["items"][0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    // The same Deployment again adopts it.
    cluster.create("apps", "v1", "deployments", deployment(1, "a")).await;
    let adopted =
        |it: &Value| count(it) == 1 && it["items"][0]["metadata"]["ownerReferences"][0]["kind"] == "Deployment";
    cluster.wait("adoption", &sets, adopted).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_users_write_are_mirrored_through_create_update_and_delete() {
    let cluster = Cluster::start().await;
    let metadata = json!({"name": "db", "namespace": "default", "labels": {"team": "a"}});
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}});
    cluster.create("", "v1", "services", service).await;
    let endpoints = |ip: &str| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata,
               "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 8080}]}]})
    };
    cluster.create("", "v1", "endpoints", endpoints("10.1.2.3")).await;
    let path = Path::object("", "v1", "endpoints", "default", "db");
    let slices = Path::collection("discovery.k8s.io", "v1", "endpointslices", "default")
        .query("labelSelector=kubernetes.io/service-name%3Ddb");
    let address = |it: &Value, ip: &str| count(it) == 1 && it["items"][0]["endpoints"][0]["addresses"] == json!([ip]);
    let mirrored = cluster.wait("a slice", &slices, |it| address(it, "10.1.2.3")).await;
    let slice = &mirrored["items"][0];
    let managed_by = "endpointslicemirroring-controller.k8s.io";
    assert_eq!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], managed_by);
    assert_eq!(slice["metadata"]["labels"]["team"], "a");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    assert_eq!(slice["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
    cluster.rest.update(&path, &endpoints("10.2.3.4")).await.unwrap();
    cluster.wait("the new address", &slices, |it| address(it, "10.2.3.4")).await;
    cluster.rest.delete(&path, &DeleteOptions::default()).await.unwrap();
    cluster.wait("no slice", &slices, |it| count(it) == 0).await;
    // The API server writes slices of its own beside the Endpoints of its Service.
    let api = Path::collection("discovery.k8s.io", "v1", "endpointslices", "default");
    cluster.wait("one slice of the API", &api, |it| count(it) == 1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_owners_goes_when_one_is_deleted_in_the_foreground() {
    let cluster = Cluster::start().await;
    let maps = Path::collection("", "v1", "configmaps", "default");
    let path = |name: &str| maps.clone().child(name);
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
        uids.push(cluster.rest.create(&maps, &map).await.unwrap()["metadata"]["uid"].clone());
    }
    for (name, owner, uid) in [("a", "c", &uids[2]), ("b", "a", &uids[0]), ("c", "b", &uids[1])] {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid,
                           "controller": true, "blockOwnerDeletion": true});
        cluster.rest.merge(&path(name), &json!({"metadata": {"ownerReferences": [owner]}})).await.unwrap();
    }
    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    cluster.rest.delete(&path("a"), &foreground).await.unwrap();
    for name in ["a", "b", "c"] {
        cluster.wait("nothing of the circle", &path(name), Value::is_null).await;
    }
    cluster.stop().await;
}
