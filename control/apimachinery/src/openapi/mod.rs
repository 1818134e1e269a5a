//! OpenAPI v3 documents of the built-in groups, made from the facts when asked for: what `kubectl explain` and clients that validate or
//! look for query parameters need.

mod paths;
mod prose;
mod schemas;

use serde_json::{Map, Value, json};

use crate::facts;
use crate::resources::{self, Resource};

/// Types that every group's document has.
const COMMON: [&str; 5] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

/// The version that documents carry.
const VERSION: &str = "v1.36.0";

/// The document of a group version; `None` where it is not served.
pub fn v3_group(group: &str, version: &str) -> Option<Value> {
    let of_group = |one: &&Resource| one.group == group && one.version == version;
    let served: Vec<&Resource> = resources::all().iter().filter(of_group).collect();
    if served.is_empty() {
        return None;
    }
    let mut wanted: Vec<u16> = facts::kinds_of(group, version).map(|(_, number)| number).collect();
    wanted.extend(COMMON.iter().filter_map(|name| facts::number(name)));
    let subresources = served.iter().flat_map(|one| one.subresources.iter());
    let kinds = subresources.filter_map(|one| facts::kind(&one.group, &one.version, &one.kind));
    wanted.extend(kinds.filter_map(|schema| facts::number(&schema.name)));
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths::of(group, version, &served),
        "components": {
            "schemas": schemas::reachable(&wanted),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
    }))
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn object(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every document is whole: each reference leads to a schema of the same document.
    fn group_versions() -> BTreeSet<(&'static str, &'static str)> {
        resources::all().iter().map(|one| (&*one.group, &*one.version)).collect()
    }

    #[test]
    fn documents_are_whole() {
        for (group, version) in group_versions() {
            let document = v3_group(group, version).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let mut references = Vec::new();
            collect(&document, &mut references);
            assert!(!references.is_empty());
            for name in references {
                assert!(schemas.contains_key(name), "{group}/{version}: {name}");
            }
        }
        assert!(v3_group("nothing", "v1").is_none());
    }

    fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "$ref" => {
                            found.push(text.strip_prefix("#/components/schemas/").unwrap());
                        }
                        other => collect(other, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }

    /// Every resource has its paths, and each operation says what it is; operation ids are unique.
    #[test]
    fn every_resource_has_its_paths() {
        for (group, version) in group_versions() {
            let document = v3_group(group, version).unwrap();
            let paths = document["paths"].as_object().unwrap();
            let mut ids = BTreeSet::new();
            for operation in
                paths.values().flat_map(|path| path.as_object().unwrap()).filter(|(key, _)| *key != "parameters")
            {
                let id = operation.1["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{id} is there twice");
            }
            let served = resources::all().iter().filter(|one| one.group == group && one.version == version);
            for resource in served.filter(|one| one.has_verb("get")) {
                let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
                let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/{version}") };
                let path = &paths[&format!("{root}/{namespace}{}/{{name}}", resource.resource)];
                assert_eq!(path["get"]["x-kubernetes-group-version-kind"], gvk(group, version, &resource.kind));
            }
        }
    }

    #[test]
    fn what_kubectl_looks_for() {
        let document = v3_group("", "v1").unwrap();
        let pod = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
        assert_eq!(pod["patch"]["operationId"], "patchCoreV1NamespacedPod");
        let parameters: Vec<&str> =
            pod["patch"]["parameters"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert!(parameters.contains(&"fieldValidation") && parameters.contains(&"dryRun"));
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"], json!([gvk("", "v1", "Pod")]));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["items"], reference("io.k8s.api.core.v1.Container"));
        assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    }
}
