//! Whatever is done to workloads and in whatever order: in the end there is what was asked for, once.

use std::collections::BTreeSet;
use std::time::Duration;

use informer::rest::{DeleteOptions, Path, Propagation};
use serde_json::{Value, json};

use crate::{Cluster, Disk, deployment};

const SEEDS: std::ops::Range<u64> = 1..4;
const STEPS: usize = 120;
const KILLS: usize = 8;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Numbers that look like chance and are the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn fork(&mut self) -> Self {
        self.below(1);
        Self(self.0 ^ 0x5555_5555_5555_5555)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn collection(group: &str, resource: &str) -> Path {
    Path::collection(group, "v1", resource, "shop")
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]}})
}

/// Deployment `name`, sized by chance; a third of them replace everything at once.
fn workload(name: &str, dice: &mut Dice) -> Value {
    let mut object = deployment(u32::try_from(dice.below(6)).unwrap(), ["x", "y"][dice.below(2)]);
    object["metadata"]["name"] = json!(name);
    object["spec"]["selector"]["matchLabels"]["app"] = json!(name);
    object["spec"]["template"]["metadata"]["labels"]["app"] = json!(name);
    object["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({});
    object["spec"]["revisionHistoryLimit"] = json!(dice.below(3));
    if dice.below(3) == 0 {
        object["spec"]["strategy"] = json!({"type": "Recreate"});
    }
    object
}

/// One thing that someone may do. It may fail: what it is done to may be gone or have changed.
async fn step(cluster: &Cluster, dice: &mut Dice) {
    let (rest, name_) = (&cluster.rest, NAMES[dice.below(NAMES.len())]);
    let (deployments, sets, pods) =
        (collection("apps", "deployments"), collection("apps", "replicasets"), collection("", "pods"));
    let path = deployments.clone().child(name_);
    let how = [None, Some(Propagation::Background), Some(Propagation::Foreground), Some(Propagation::Orphan)];
    let options = DeleteOptions { propagation: how[dice.below(4)], ..DeleteOptions::default() };
    match dice.below(13) {
        0 | 1 => drop(rest.create(&deployments, &workload(name_, dice)).await),
        2 | 3 => drop(rest.merge(&path, &json!({"spec": {"replicas": dice.below(7)}})).await),
        4 | 5 => {
            let image = ["x", "y", "z"][dice.below(3)];
            let template = json!({"spec": {"containers": [{"name": "web", "image": image}]}});
            drop(rest.strategic_merge(&path, &json!({ "spec": { "template": template } })).await);
        }
        6 => drop(rest.merge(&path, &json!({"spec": {"paused": dice.below(2) == 0}})).await),
        7 => drop(rest.delete(&path, &options).await),
        8 => {
            let all = items(&rest.get(&sets).await.unwrap());
            if let Some(set) = dice.one(&all) {
                drop(rest.delete(&sets.child(name(set)), &options).await);
            }
        }
        9 | 10 => {
            let all = items(&rest.get(&pods).await.unwrap());
            if let Some(pod) = dice.one(&all) {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                drop(rest.delete(&pods.child(name(pod)), &now).await);
            }
        }
        11 => {
            // A pod is taken out of its set, or given to another.
            let all = items(&rest.get(&pods).await.unwrap());
            if let Some(pod) = dice.one(&all) {
                let label = ["a", "b", "c", "nobody"][dice.below(4)];
                drop(rest.merge(&pods.child(name(pod)), &json!({"metadata": {"labels": {"app": label}}})).await);
            }
        }
        _ => {
            let services = collection("", "services");
            if rest.create(&services, &service(name_)).await.is_err() {
                drop(rest.delete(&services.child(name_), &DeleteOptions::default()).await);
            }
        }
    }
}

/// All there is.
struct World {
    deployments: Vec<Value>,
    sets: Vec<Value>,
    pods: Vec<Value>,
    services: Vec<Value>,
    slices: Vec<Value>,
    endpoints: Vec<Value>,
}

impl World {
    async fn of(cluster: &Cluster) -> World {
        let list =
            async |group: &str, resource: &str| items(&cluster.rest.get(&collection(group, resource)).await.unwrap());
        World {
            deployments: list("apps", "deployments").await,
            sets: list("apps", "replicasets").await,
            pods: list("", "pods").await,
            services: list("", "services").await,
            slices: list("discovery.k8s.io", "endpointslices").await,
            endpoints: list("", "endpoints").await,
        }
    }

    /// What is not as it should be when all is done.
    fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.objects(&mut wrong);
        self.sets.iter().for_each(|set| self.set(set, &mut wrong));
        self.deployments.iter().for_each(|deployment| self.deployment(deployment, &mut wrong));
        self.services.iter().for_each(|service| self.service(service, &mut wrong));
        let names: BTreeSet<_> = self.services.iter().map(name).collect();
        let strays = self.slices.iter().map(service_of).filter(|service| !names.contains(service));
        wrong.extend(strays.map(|service| format!("a slice of {service}, which is gone")));
        if self.endpoints.len() != self.services.len() {
            wrong.push(format!("{} endpoints of {} services", self.endpoints.len(), self.services.len()));
        }
        wrong
    }

    fn objects(&self, wrong: &mut Vec<String>) {
        let owners = self.deployments.iter().chain(&self.sets);
        let uids: BTreeSet<_> = owners.map(|it| it["metadata"]["uid"].to_string()).collect();
        for object in self.deployments.iter().chain(&self.sets).chain(&self.pods) {
            let owner = owner(object);
            if !owner.is_null() && !uids.contains(&owner.to_string()) {
                wrong.push(format!("{} has lost its owner", name(object)));
            }
            if !object["metadata"]["deletionTimestamp"].is_null() {
                wrong.push(format!("{} is still being deleted", name(object)));
            }
        }
        for pod in self.pods.iter().filter(|pod| pod["status"]["phase"] != "Running") {
            wrong.push(format!("pod {} on {} does not run: {}", name(pod), pod["spec"]["nodeName"], pod["status"]));
        }
    }

    fn set(&self, set: &Value, wrong: &mut Vec<String>) {
        let (pods, status) = (owned(&self.pods, set), &set["status"]);
        let label = &set["spec"]["selector"]["matchLabels"]["app"];
        if json!(pods.len()) != set["spec"]["replicas"] || status["replicas"] != set["spec"]["replicas"] {
            wrong.push(format!("set {} has {} of {}: {status}", name(set), pods.len(), set["spec"]["replicas"]));
        }
        if pods.iter().any(|pod| pod["metadata"]["labels"]["app"] != *label) {
            wrong.push(format!("set {} has pods of others", name(set)));
        }
        if status["observedGeneration"] != set["metadata"]["generation"] || !status["conditions"].is_null() {
            wrong.push(format!("the status of set {} is behind: {status}", name(set)));
        }
    }

    fn deployment(&self, deployment: &Value, wrong: &mut Vec<String>) {
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let sets = owned(&self.sets, deployment);
        let sizes: Vec<_> = sets.iter().map(|set| set["spec"]["replicas"].as_u64().unwrap()).collect();
        let count = |field: &str| status[field].as_u64().unwrap_or_default();
        let wanted = spec["replicas"].as_u64().unwrap();
        if status["observedGeneration"] != deployment["metadata"]["generation"] {
            wrong.push(format!("the status of deployment {} is behind", name(deployment)));
        }
        if spec["paused"] == true {
            return;
        }
        let done = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        if done.iter().any(|field| count(field) != wanted) || count("unavailableReplicas") != 0 {
            wrong.push(format!("deployment {} of {wanted}: {status}", name(deployment)));
        }
        if sizes.iter().sum::<u64>() != wanted || sizes.iter().filter(|size| **size > 0).count() > 1 {
            wrong.push(format!("deployment {} of {wanted} has sets of {sizes:?}", name(deployment)));
        }
        if sizes.len() as u64 > 1 + spec["revisionHistoryLimit"].as_u64().unwrap() {
            wrong.push(format!("deployment {} keeps {} sets", name(deployment), sizes.len()));
        }
    }

    /// A Service leads to its pods, to each of them once.
    fn service(&self, service: &Value, wrong: &mut Vec<String>) {
        let service = name(service);
        let mine = self.pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == service);
        let mut want: Vec<_> = mine.map(|pod| pod["metadata"]["uid"].to_string()).collect();
        want.sort();
        let targets = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().map(|it| it["targetRef"]["uid"].to_string()).collect()
        };
        let slices = self.slices.iter().filter(|slice| service_of(slice) == service);
        let slices: Vec<_> = slices.flat_map(|slice| targets(&slice["endpoints"])).collect();
        let endpoints = self.endpoints.iter().filter(|it| name(it) == service);
        let subsets = endpoints.flat_map(|it| it["subsets"].as_array().into_iter().flatten());
        let subsets: Vec<_> = subsets.flat_map(|subset| targets(&subset["addresses"])).collect();
        for (what, mut got) in [("slices", slices), ("endpoints", subsets)] {
            got.sort();
            if got != want {
                wrong.push(format!("the {what} of service {service} lead to {got:?}, not to {want:?}"));
            }
        }
    }
}

fn owner(object: &Value) -> &Value {
    &object["metadata"]["ownerReferences"][0]["uid"]
}

fn owned<'a>(all: &'a [Value], by: &Value) -> Vec<&'a Value> {
    all.iter().filter(|it| *owner(it) == by["metadata"]["uid"]).collect()
}

fn service_of(slice: &Value) -> &str {
    slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default()
}

/// Does something three times at once.
async fn three_steps(cluster: &Cluster, dice: &mut Dice) {
    let [mut one, mut two, mut three] = [0; 3].map(|_| dice.fork());
    tokio::join!(step(cluster, &mut one), step(cluster, &mut two), step(cluster, &mut three));
}

async fn settle(cluster: &Cluster, seed: u64) {
    let mut wrong = Vec::new();
    let settled = cluster.until(async || {
        wrong = World::of(cluster).await.complaints();
        wrong.is_empty()
    });
    let settled = settled.await;
    assert!(settled, "seed {seed}: {wrong:#?}");
    // Also those that nobody owns any more, or the node would fill up.
    cluster.rest.delete(&collection("", "pods"), &DeleteOptions::default()).await.unwrap();
    // The node lives, however slow this machine is.
    let lease = Path::object("coordination.k8s.io", "v1", "leases", "kube-node-lease", "n1");
    let renewed = json!({"spec": {"renewTime": format!("2026-01-01T00:00:{seed:02}.000000Z")}});
    cluster.rest.merge(&lease, &renewed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_end_there_is_what_was_asked_for() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.shop().await;
    for seed in SEEDS {
        let mut dice = Dice::new(seed);
        for _ in 0..STEPS / 3 {
            three_steps(&cluster, &mut dice).await;
        }
        settle(&cluster, seed).await;
    }
    cluster.stop().await;
}

#[test]
fn a_server_that_is_killed_at_any_moment_goes_on() {
    let disk = Disk::empty();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    for seed in SEEDS {
        let mut dice = Dice::new(seed);
        for _ in 0..KILLS {
            let running = runtime();
            running.block_on(async {
                let cluster = Cluster::start_on(&disk).await;
                cluster.node("n1").await;
                cluster.shop().await;
                for _ in 0..dice.below(STEPS / KILLS) {
                    three_steps(&cluster, &mut dice).await;
                }
            });
            // All its tasks end where they are: between two writes of a controller, too.
            running.shutdown_timeout(Duration::from_secs(10));
        }
        runtime().block_on(async {
            let cluster = Cluster::start_on(&disk).await;
            cluster.node("n1").await;
            settle(&cluster, seed).await;
            cluster.stop().await;
        });
    }
}
