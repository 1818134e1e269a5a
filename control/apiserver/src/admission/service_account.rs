//! ServiceAccount: every pod runs as one, and finds its token, the cluster's CA and its namespace in a volume.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use apimachinery::{meta, names};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::Entry;

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// An hour and a little, by which the kubelet knows the token that it is to renew.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod waits for the default account of a new namespace, which a controller makes.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The plugin.
pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
    }

    async fn admit(&self, registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if meta::annotation(&attributes.object, MIRROR).is_some() {
            return mirror_pod(attributes);
        }
        let spec = &mut attributes.object["spec"];
        if spec["serviceAccountName"].as_str().unwrap_or("").is_empty() {
            spec["serviceAccountName"] = "default".into();
        }
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
        let name = spec["serviceAccountName"].as_str().unwrap_or("default").to_owned();
        let namespace = attributes.namespace;
        let Some(entry) = find(registry, namespace, &name).await? else {
            return Err(attributes.forbidden(format_args!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            )));
        };
        let account: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
        let spec = &mut attributes.object["spec"];
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or(account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if automount {
            mount_token(spec);
        }
        let secrets = spec["imagePullSecrets"].as_array().map_or(0, Vec::len);
        if secrets == 0 && account["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty()) {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }
}

/// The kubelet's mirrors of static pods have no account and no secrets.
fn mirror_pod(attributes: &Attributes<'_>) -> Result<(), Status> {
    let spec = &attributes.object["spec"];
    if !spec["serviceAccountName"].as_str().unwrap_or("").is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if !volume["secret"].is_null() {
            return Err(attributes.forbidden("a mirror pod may not reference secrets"));
        }
        let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        if sources.any(|source| !source["serviceAccountToken"].is_null()) {
            return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

async fn find(registry: &Registry, namespace: &str, name: &str) -> Result<Option<Arc<Entry>>, Status> {
    let cache = registry.cache("", "serviceaccounts").await?;
    let key = registry.key("", "serviceaccounts", namespace, name)?;
    if let Some(entry) = cache.get(&key) {
        return Ok(Some(entry));
    }
    if name != "default" {
        return Ok(None);
    }
    let (snapshot, mut watcher) = cache.subscribe(&key);
    if let Some(entry) = snapshot.get(&key) {
        return Ok(Some(entry.clone()));
    }
    let wait = async {
        while watcher.next().await.is_ok() {
            if let Some(entry) = cache.get(&key) {
                return Some(entry);
            }
        }
        None
    };
    Ok(tokio::time::timeout(PATIENCE, wait).await.unwrap_or(None))
}

fn mount_token(spec: &mut Value) {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let there = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME_PREFIX));
    let name = there.map_or_else(|| names::generate_name(VOLUME_PREFIX), str::to_owned);
    let fresh = there.is_none();
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            let Some(mounts) = container["volumeMounts"].as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
    }
    if !used || !fresh {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]});
        mount_token(&mut spec);
        let volume = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(spec.get("initContainers").is_none());
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume.as_str());
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, before);
    }
}
