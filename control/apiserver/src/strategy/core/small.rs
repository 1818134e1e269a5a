//! The small kinds of the core group: Namespace, ConfigMap, Secret, ServiceAccount, Event, Endpoints.

use super::pod_spec::ip;
use crate::strategy::Strategy;
use crate::strategy::tools::{
    Problems, changed, default_to, each_mut, empty, flag, indexed, int, items, keep, made, map, named, one_of,
    port_number, some, text,
};
use apimachinery::field::{FieldError, Path};
use apimachinery::{meta, names};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Most bytes of all values of a ConfigMap or Secret.
const MAX_DATA: usize = 1 << 20;

/// The strategy of Namespaces.
#[derive(Debug)]
pub(in crate::strategy) struct Namespace;

impl Strategy for Namespace {
    fn defaults(&self, namespace: &mut Value) {
        // Every namespace can be selected by its name (KEP-2161).
        let name = meta::name(namespace).to_owned();
        if !name.is_empty() {
            let labels = made(made(namespace, "metadata"), "labels");
            labels["kubernetes.io/metadata.name"] = name.into();
        }
    }

    fn prepare_create(&self, namespace: &mut Value) {
        namespace["status"] = json!({ "phase": "Active" });
        let finalizers = made(namespace, "spec");
        if !items(finalizers, "finalizers").iter().any(|finalizer| finalizer == "kubernetes") {
            let mut all = items(finalizers, "finalizers").to_vec();
            all.push("kubernetes".into());
            finalizers["finalizers"] = all.into();
        }
    }

    fn validate(&self, namespace: &Value) -> Problems {
        let mut problems = Vec::new();
        finalizers(namespace, |path, _| path.clone(), &mut problems);
        problems
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // Finalizers of the spec are /finalize's.
        keep(new, old, "spec");
    }

    fn validate_update(&self, _new: &Value, _old: &Value) -> Problems {
        Vec::new()
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Problems {
        let going = meta::deletion_timestamp(new).is_some();
        let (phase, when) = if going { ("Terminating", "not empty") } else { ("Active", "empty") };
        let said = text(&new["status"], "phase");
        if said == phase {
            return Vec::new();
        }
        let detail = format!("may only be '{phase}' if `deletionTimestamp` is {when}");
        vec![FieldError::invalid(&Path::new("status").child("Phase"), said, detail)]
    }
}

/// Checks an update of `/finalize`.
pub(crate) fn validate_finalize(new: &Value, _old: &Value) -> Problems {
    let mut problems = Vec::new();
    finalizers(new, Path::index, &mut problems);
    problems
}

fn finalizers(namespace: &Value, place: fn(&Path, usize) -> Path, problems: &mut Problems) {
    let path = Path::new("spec").child("finalizers");
    for (index, finalizer) in items(&namespace["spec"], "finalizers").iter().enumerate() {
        let (path, name) = (place(&path, index), finalizer.as_str().unwrap_or_default());
        problems.extend(named(&path, name, names::is_qualified_name(name)));
        let standard = matches!(name, "kubernetes" | meta::ORPHAN_FINALIZER | meta::FOREGROUND_FINALIZER);
        if !standard && !name.contains('/') {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            problems.push(FieldError::invalid(&path, name, detail));
        }
    }
}

/// The strategy of ServiceAccounts.
#[derive(Debug)]
pub(in crate::strategy) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
        let path = Path::new("metadata").child("annotations").key(ENFORCE);
        let said = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        meta::annotation(new, ENFORCE).map(|_| format!("{path}: {said}")).into_iter().collect()
    }
}

/// The strategy of ConfigMaps.
#[derive(Debug)]
pub(in crate::strategy) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Problems {
        let mut problems = Vec::new();
        let mut size = 0;
        for (key, value) in map(object, "data").into_iter().flatten() {
            problems.extend(named(&Path::new("data").key(key.as_str()), key, names::is_config_map_key(key)));
            if map(object, "binaryData").is_some_and(|binary| binary.contains_key(key)) {
                let detail = "duplicate of key present in binaryData";
                problems.push(FieldError::invalid(&Path::new("data").key(key.as_str()), key.as_str(), detail));
            }
            size += value.as_str().unwrap_or_default().len();
        }
        size += decoded("binaryData", map(object, "binaryData"), &mut problems);
        if size > MAX_DATA {
            problems.push(FieldError::too_long(&Path::new(""), MAX_DATA));
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = unchangeable(new, old, &["data", "binaryData"]);
        problems.extend(self.validate(new));
        problems
    }
}

/// Checks keys and base64; how many bytes the values have.
fn decoded(field: &'static str, data: Option<&Map<String, Value>>, problems: &mut Problems) -> usize {
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        let path = Path::new(field).key(key.as_str());
        problems.extend(named(&path, key, names::is_config_map_key(key)));
        match STANDARD.decode(value.as_str().unwrap_or_default()) {
            Ok(bytes) => size += bytes.len(),
            Err(error) => {
                problems.push(FieldError::invalid(&path, "<value>", format!("must be valid base64: {error}")));
            }
        }
    }
    size
}

/// What `immutable: true` forbids.
fn unchangeable(new: &Value, old: &Value, fields: &[&'static str]) -> Problems {
    if flag(old, "immutable") != Some(true) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if flag(new, "immutable") != Some(true) {
        problems.push(FieldError::forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if changed(new, old, field) {
            problems.push(FieldError::forbidden(&Path::new(*field), "field is immutable when `immutable` is set"));
        }
    }
    problems
}

/// The strategy of Secrets.
#[derive(Debug)]
pub(in crate::strategy) struct Secret;

/// Keys that a Secret of a type must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

impl Strategy for Secret {
    fn defaults(&self, secret: &mut Value) {
        default_to(secret, "type", "Opaque");
        // stringData is write-only: its values become data.
        let Some(plain) = secret.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
        let data = made(secret, "data");
        for (key, value) in plain.as_object().into_iter().flatten() {
            data[key.as_str()] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
        }
    }

    fn validate(&self, secret: &Value) -> Problems {
        let mut problems = Vec::new();
        let size = decoded("data", map(secret, "data"), &mut problems);
        if size > MAX_DATA {
            problems.push(FieldError::too_long(&Path::new("data"), MAX_DATA));
        }
        let kind = text(secret, "type");
        let has = |key: &str| map(secret, "data").is_some_and(|data| data.contains_key(key));
        for key in SECRET_KEYS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys) {
            if !has(key) {
                problems.push(FieldError::required(&Path::new("data").key(*key), ""));
            }
        }
        let privatekey = map(secret, "data").and_then(|data| data.get("ssh-privatekey")).and_then(Value::as_str);
        if kind == "kubernetes.io/ssh-auth" && privatekey.unwrap_or("").is_empty() {
            problems.push(FieldError::required(&Path::new("data").key("ssh-privatekey"), ""));
        }
        for key in [".dockercfg", ".dockerconfigjson"] {
            let encoded = map(secret, "data").and_then(|data| data.get(key)).and_then(Value::as_str);
            let configures = kind == format!("kubernetes.io/{}", &key[1..]);
            let decoded = encoded.filter(|_| configures).and_then(|text| STANDARD.decode(text).ok());
            if let Some(Err(error)) = decoded.map(|bytes| serde_json::from_slice::<Value>(&bytes)) {
                let value = "<secret contents redacted>";
                problems.push(FieldError::invalid(&Path::new("data").key(key), value, error.to_string()));
            }
        }
        if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
            problems.push(FieldError::required(&Path::new("data").key("username"), ""));
            problems.push(FieldError::required(&Path::new("data").key("password"), ""));
        }
        if kind == "kubernetes.io/service-account-token"
            && meta::annotation(secret, "kubernetes.io/service-account.name").unwrap_or("").is_empty()
        {
            let path = Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
            problems.push(FieldError::required(&path, ""));
        }
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = Vec::new();
        crate::strategy::tools::immutable(&Path::root(), new, old, "type", &mut problems);
        problems.extend(unchangeable(new, old, &["data"]));
        problems.extend(self.validate(new));
        problems
    }
}

/// The strategy of Events: anything goes that can be found again.
#[derive(Debug)]
pub(in crate::strategy) struct Event;

impl Strategy for Event {
    fn prepare_create(&self, event: &mut Value) {
        default_to(event, "source", json!({}));
    }

    fn validate(&self, event: &Value) -> Problems {
        let mut problems = Vec::new();
        let involved = some(event, "involvedObject").or_else(|| some(event, "regarding"));
        let about = involved.map_or("", |object| text(object, "namespace"));
        let own = meta::namespace(event);
        // Events of the newer API have a time with microseconds, and must say more.
        let newer = !empty(event, "eventTime");
        let fits = match (about, own) {
            ("", "default") => true,
            ("", "kube-system") => newer,
            ("", _) => false,
            (about, own) => newer || about == own,
        };
        if !fits {
            let path = Path::new("involvedObject").child("namespace");
            problems.push(FieldError::invalid(&path, about, "does not match event.namespace"));
        }
        if newer {
            let controller = text(event, "reportingComponent");
            let rules = [
                ("reportingController", controller),
                ("reportingInstance", text(event, "reportingInstance")),
                ("action", text(event, "action")),
                ("reason", text(event, "reason")),
            ];
            for (field, value) in rules {
                if value.is_empty() {
                    problems.push(FieldError::required(&Path::new(field), ""));
                }
                if field == "reportingController" {
                    problems.extend(named(&Path::new(field), value, names::is_qualified_name(value)));
                } else if value.len() > 128 {
                    problems.push(FieldError::invalid(&Path::new(field), "", "can have at most 128 characters"));
                }
            }
            if text(event, "message").len() > 1024 {
                problems.push(FieldError::invalid(&Path::new("message"), "", "can have at most 1024 characters"));
            }
        }
        problems
    }

    fn validate_update(&self, new: &Value, _old: &Value) -> Problems {
        self.validate(new)
    }
}

/// The strategy of Endpoints.
#[derive(Debug)]
pub(in crate::strategy) struct Endpoints;

impl Strategy for Endpoints {
    fn defaults(&self, endpoints: &mut Value) {
        each_mut(endpoints, "subsets", |subset| each_mut(subset, "ports", |port| default_to(port, "protocol", "TCP")));
    }

    fn validate(&self, endpoints: &Value) -> Problems {
        let mut problems = Vec::new();
        for (path, subset) in indexed(endpoints, "subsets", &Path::root()) {
            if empty(subset, "addresses") && empty(subset, "notReadyAddresses") {
                problems.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for list in ["addresses", "notReadyAddresses"] {
                for (path, address) in indexed(subset, list, &path) {
                    let (at, host, node) = (text(address, "ip"), text(address, "hostname"), text(address, "nodeName"));
                    ip(&path.child("ip"), at, &mut problems);
                    if !host.is_empty() {
                        problems.extend(named(&path.child("hostname"), host, names::is_dns1123_label(host)));
                    }
                    if !node.is_empty() {
                        problems.extend(named(&path.child("nodeName"), node, names::is_dns1123_subdomain(node)));
                    }
                    super::service::not_special(&path.child("ip"), at, &mut problems);
                }
            }
            let several = items(subset, "ports").len() > 1;
            for (path, port) in indexed(subset, "ports", &path) {
                let name = text(port, "name");
                if several && name.is_empty() {
                    problems.push(FieldError::required(&path.child("name"), ""));
                } else if !name.is_empty() {
                    problems.extend(named(&path.child("name"), name, names::is_dns1123_label(name)));
                }
                port_number(&path.child("port"), int(port, "port").unwrap_or(0), &mut problems);
                one_of(&path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"], true, &mut problems);
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let mut secret = json!({ "stringData": { "a": "x" } });
        Secret.defaults(&mut secret);
        assert_eq!(secret, json!({ "type": "Opaque", "data": { "a": "eA==" } }));
        let said = |secret: Value| Secret.validate(&secret).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            said(json!({ "type": "kubernetes.io/tls", "data": { "tls.crt": "" } })),
            ["data[tls.key]: Required value"]
        );
        assert!(
            said(json!({ "type": "Opaque", "data": { "a b": "eA==" } }))[0]
                .starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
        );
        assert_eq!(said(json!({ "type": "Opaque", "data": { "a": "?" } })).len(), 1);
    }

    #[test]
    fn an_immutable_config_map_stays() {
        let old = json!({ "immutable": true, "data": { "a": "1" } });
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
        assert_eq!(ConfigMap.validate_update(&json!({ "immutable": true, "data": { "a": "2" } }), &old).len(), 1);
        assert_eq!(ConfigMap.validate_update(&json!({ "data": { "a": "1" } }), &old).len(), 1);
    }

    #[test]
    fn events() {
        let said = |event: Value| Event.validate(&event).into_iter().map(|problem| problem.path).collect::<Vec<_>>();
        let old = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}});
        assert!(said(old.clone()).is_empty());
        let mut new = old.clone();
        new["eventTime"] = "2026-01-01T00:00:00.000000Z".into();
        let missing = ["reportingController", "reportingInstance", "action", "reason"];
        let mut named = said(new.clone());
        named.dedup();
        assert_eq!(named, missing);
        new["involvedObject"]["namespace"] = "b".into();
        assert!(!said(new).contains(&"involvedObject.namespace".to_owned()), "newer ones may lie elsewhere");
        let mut elsewhere = old;
        elsewhere["metadata"]["namespace"] = "b".into();
        assert_eq!(said(elsewhere), ["involvedObject.namespace"]);
    }

    #[test]
    fn a_namespace_is_active_or_going() {
        let said = |object: Value| Namespace.validate_status_update(&object, &Value::Null);
        assert!(said(json!({"status": {"phase": "Active"}})).is_empty());
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Active"}});
        assert_eq!(
            said(going)[0].to_string(),
            "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"
        );
        let named = json!({"spec": {"finalizers": ["kubernetes", "a.b/c", "x"]}});
        let problems = validate_finalize(&named, &named);
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.finalizers[2]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
    }

    #[test]
    fn namespaces_are_found_by_their_name() {
        let mut namespace = json!({ "metadata": { "name": "a" } });
        Namespace.defaults(&mut namespace);
        Namespace.prepare_create(&mut namespace);
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    }
}
