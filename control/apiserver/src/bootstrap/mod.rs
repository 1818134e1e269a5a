//! The objects that every cluster has from its first moment, brought up to date at every start: namespaces, priority
//! classes, the `kubernetes` Service with the server's address behind it, and the cluster DNS's Service.
//!
//! They go through the same defaults, admission and validation as any write, all at once, so that they share a commit or two.

use apimachinery::patch::merge_patch;
use apimachinery::status::Status;
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::Config;
use crate::auth::{MASTERS, User};
use crate::registry::{DeleteOptions, Registry};
use crate::request::Warnings;

/// What failed, and how it was refused.
pub(crate) type Failure = (String, Status);

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// One object that is to be there.
struct Desired {
    group: &'static str,
    resource: &'static str,
    namespace: &'static str,
    object: Value,
    /// Whether fields that differ are put right; else it is enough that the object exists.
    reconcile: bool,
}

/// Writes what is missing or wrong. Done when all of it is durable.
pub(crate) async fn run(registry: &Registry) -> Result<(), Failure> {
    let user = User::new("system:apiserver", &[MASTERS]);
    ensure_all(registry, &user, cluster_objects(registry.config())).await?;
    let allocators =
        registry.allocators().await.map_err(|status| ("build the pools of service addresses".to_owned(), status))?;
    let first = allocators.first_address().to_string();
    same_address(registry, ("default", "kubernetes"), &first, "--service-cidr").await?;
    match registry.config().cluster_dns {
        Some(dns) => {
            let flag = "--cluster-dns (the tenth of --service-cidr by default)";
            same_address(registry, ("kube-system", "kube-dns"), &dns.to_string(), flag).await?;
        }
        None => {
            let removed = remove_dns_service(registry, &user).await;
            removed.map_err(|status| ("remove the Service kube-dns, which is ours no more".to_owned(), status))?;
        }
    }
    ensure_all(registry, &user, namespaced_objects(registry.config(), &first)).await
}

/// A Service keeps its address, so what it is derived from cannot change once the cluster is founded.
async fn same_address(
    registry: &Registry,
    (namespace, name): (&str, &str),
    address: &str,
    flag: &str,
) -> Result<(), Failure> {
    let action = || format!("give the Service {name} the address {address}");
    let found = service(registry, namespace, name).await.map_err(|status| (action(), status))?;
    let Some(service) = found else { return Ok(()) };
    match service["spec"]["clusterIP"].as_str() {
        Some(there) if there != address => {
            let why = format!("it has had {there} since the cluster was founded; give {flag} as it was then");
            Err((action(), Status::bad_request(why)))
        }
        _ => Ok(()),
    }
}

async fn service(registry: &Registry, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    let key = registry.key("", "services", namespace, name)?;
    let entry = registry.cache("", "services").await?.get(&key);
    Ok(entry.map(|entry| serde_json::from_slice(&entry.bytes).unwrap_or_default()))
}

/// Where cluster DNS was ours and is no more, its Service makes room for another one. One that somebody else made, or made
/// his own, is left alone.
async fn remove_dns_service(registry: &Registry, user: &User) -> Result<(), Status> {
    let Some(service) = service(registry, "kube-system", "kube-dns").await? else { return Ok(()) };
    let ours = dns_service(service["spec"]["clusterIP"].as_str().unwrap_or_default());
    if merge_patch(&service, &ours) != service || !service["spec"]["selector"].is_null() {
        return Ok(());
    }
    let warnings = Warnings::default();
    let writer = registry.writer("", "services", "kube-system", user, &warnings)?;
    match writer.delete("kube-dns", &DeleteOptions::default()).await {
        // Another server of the cluster was faster.
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}

async fn ensure_all(registry: &Registry, user: &User, objects: Vec<Desired>) -> Result<(), Failure> {
    let writes = objects.into_iter().map(|desired| async move {
        let what = format!("write the default object {}/{}", desired.resource, desired.object["metadata"]["name"]);
        Box::pin(ensure(registry, user, desired)).await.map_err(|status| (what, status))
    });
    try_join_all(writes).await.map(|_| ())
}

async fn ensure(registry: &Registry, user: &User, desired: Desired) -> Result<(), Status> {
    let Desired { group, resource, namespace, object, reconcile } = desired;
    let warnings = Warnings::default();
    let writer = registry.writer(group, resource, namespace, user, &warnings)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let there = registry.cache(group, resource).await?.get(&registry.key(group, resource, namespace, &name)?);
    if there.is_none() {
        match writer.create(object.clone()).await {
            Ok(_) => return Ok(()),
            // Another server of the cluster was faster.
            Err(status) if status.code == 409 => {}
            Err(status) => return Err(status),
        }
    }
    if reconcile {
        writer.put_right(&name, &mut |old| Ok(merge_patch(old, &object))).await?;
    }
    Ok(())
}

fn cluster_objects(config: &Config) -> Vec<Desired> {
    let make = |group, resource, object| Desired { group, resource, namespace: "", object, reconcile: false };
    let namespaces = NAMESPACES.into_iter().map(|name| {
        make(
            "",
            "namespaces",
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
            }),
        )
    });
    let classes = [
        (
            "system-node-critical",
            2_000_001_000_i64,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    let classes = classes.into_iter().map(|(name, value, description)| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        });
        make("scheduling.k8s.io", "priorityclasses", object)
    });
    let range = make(
        "networking.k8s.io",
        "servicecidrs",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [config.service_cidr]},
        }),
    );
    namespaces.chain(classes).chain([range]).collect()
}

fn namespaced_objects(config: &Config, service_address: &str) -> Vec<Desired> {
    let family = if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
    let address = config.advertise_address.to_string();
    // Port 0 lets the kernel choose, which only tests ask for.
    let port = if config.port == 0 { 6443 } else { config.port };
    let make = |group, resource, namespace, object| Desired { group, resource, namespace, object, reconcile: true };
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let mut all = vec![
        make(
            "",
            "services",
            "default",
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
                "spec": {
                    "type": "ClusterIP", "clusterIP": service_address, "clusterIPs": [service_address], "sessionAffinity": "None",
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
                },
            }),
        ),
        make(
            "",
            "endpoints",
            "default",
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": address}], "ports": ports}],
            }),
        ),
        make(
            "discovery.k8s.io",
            "endpointslices",
            "default",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": family, "ports": ports,
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            }),
        ),
    ];
    let dns = config.cluster_dns.map(|address| dns_service(&address.to_string()));
    all.extend(dns.map(|service| make("", "services", "kube-system", service)));
    // A server that listens to its own machine alone cannot be an endpoint: no pod reaches it.
    if config.advertise_address.is_loopback() {
        all.retain(|desired| desired.resource == "services");
    }
    all
}

/// Every node answers for itself, so the Service has no selector and never leaves the node.
fn dns_service(address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
