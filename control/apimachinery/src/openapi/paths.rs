//! `paths`: every resource's operations.

use serde_json::{Map, Value, json};

use super::{gvk, object, reference};
use crate::facts;
use crate::resources::{Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const BODIES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const LIST_PARAMETERS: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_PARAMETERS: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE_PARAMETERS: [(&str, &str); 5] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// The paths of a group version.
pub(super) fn of(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Paths { prefix: prefix(group, version), paths: Map::new() };
    paths.discovery(&root);
    for resource in resources {
        paths.resource(&root, resource);
    }
    Value::Object(paths.paths)
}

/// `CoreV1`, `RbacAuthorizationV1`: what operation ids have after the verb.
fn prefix(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split('.').chain([version]).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

struct Paths {
    prefix: String,
    paths: Map<String, Value>,
}

/// One operation, before it is written.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: Value,
    response: Option<&'a str>,
    body: Option<(&'a str, &'a [&'static str])>,
    parameters: Vec<(&'static str, &'static str)>,
}

impl Paths {
    fn discovery(&mut self, root: &str) {
        let list = format!("{META}.APIResourceList");
        let operation = json!({
            "operationId": format!("get{}APIResources", self.prefix),
            "description": "get available resources",
            "responses": responses(Some(&list)),
        });
        self.paths.insert(format!("{root}/"), json!({ "get": operation }));
    }

    fn resource(&mut self, root: &str, resource: &Resource) {
        let plural = &resource.resource;
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let name = format!("{}{scope}{}", self.prefix, resource.kind);
        let collection = match resource.namespaced {
            true => format!("{root}/namespaces/{{namespace}}/{plural}"),
            false => format!("{root}/{plural}"),
        };
        let item = format!("{collection}/{{name}}");
        if resource.namespaced && resource.has_verb("list") {
            let everywhere = format!("list{}{}ForAllNamespaces", self.prefix, resource.kind);
            self.list(&format!("{root}/{plural}"), resource, everywhere);
        }
        if resource.has_verb("list") {
            self.list(&collection, resource, format!("list{name}"));
        }
        let kind = type_name(&resource.group, &resource.version, &resource.kind);
        let subject = (&*resource.group, &*resource.version, &*resource.kind, kind);
        if resource.has_verb("create") {
            self.write(&collection, "post", "post", format!("create{name}"), subject);
        }
        if resource.has_verb("deletecollection") {
            let parameters =
                LIST_PARAMETERS.into_iter().filter(|(name, _)| !matches!(*name, "watch" | "allowWatchBookmarks"));
            let parameters = parameters.chain(DELETE_PARAMETERS).collect();
            self.delete(
                &collection,
                "deletecollection",
                format!("delete{}Collection{scope}{}", self.prefix, resource.kind),
                subject,
                parameters,
            );
        }
        if resource.has_verb("get") {
            self.read(&item, "get", format!("read{name}"), subject);
        }
        if resource.has_verb("update") {
            self.write(&item, "put", "put", format!("replace{name}"), subject);
        }
        if resource.has_verb("patch") {
            self.patch(&item, format!("patch{name}"), subject);
        }
        if resource.has_verb("delete") {
            self.delete(&item, "delete", format!("delete{name}"), subject, DELETE_PARAMETERS.to_vec());
        }
        for subresource in &*resource.subresources {
            self.subresource(&item, &name, subresource);
        }
    }

    fn subresource(&mut self, item: &str, name: &str, subresource: &Subresource) {
        let path = format!("{item}/{}", subresource.name);
        let name = format!("{name}{}", capital(&subresource.name));
        let kind = type_name(&subresource.group, &subresource.version, &subresource.kind);
        let subject = (&*subresource.group, &*subresource.version, &*subresource.kind, kind);
        for verb in &*subresource.verbs {
            match *verb {
                "get" => self.read(&path, "get", format!("read{name}"), subject),
                "update" => self.write(&path, "put", "put", format!("replace{name}"), subject),
                "patch" => self.patch(&path, format!("patch{name}"), subject),
                "create" => self.write(&path, "post", "post", format!("create{name}"), subject),
                "connect" => {
                    for (method, word) in [("get", "Get"), ("post", "Post")] {
                        self.connect(&path, method, format!("connect{word}{name}"), subject);
                    }
                }
                _ => {}
            }
        }
    }

    fn list(&mut self, path: &str, resource: &Resource, id: String) {
        let list = type_name(&resource.group, &resource.version, &resource.list_kind);
        self.add(
            path,
            Operation {
                method: "get",
                action: "list",
                id,
                kind: gvk(&resource.group, &resource.version, &resource.kind),
                response: list,
                body: None,
                parameters: LIST_PARAMETERS.to_vec(),
            },
        );
    }

    fn read(&mut self, path: &str, action: &'static str, id: String, subject: Subject<'_>) {
        self.add(path, subject_operation("get", action, id, subject));
    }

    fn connect(&mut self, path: &str, method: &'static str, id: String, subject: Subject<'_>) {
        let operation = Operation { response: None, ..subject_operation(method, "connect", id, subject) };
        self.add(path, operation);
    }

    fn write(&mut self, path: &str, method: &'static str, action: &'static str, id: String, subject: Subject<'_>) {
        let mut operation = subject_operation(method, action, id, subject);
        operation.body = subject.3.map(|kind| (kind, &BODIES[..]));
        operation.parameters = WRITE_PARAMETERS.to_vec();
        self.add(path, operation);
    }

    fn patch(&mut self, path: &str, id: String, subject: Subject<'_>) {
        let patch = format!("{META}.Patch");
        let mut operation = subject_operation("patch", "patch", id, subject);
        operation.body = Some((&patch, &PATCHES));
        operation.parameters = WRITE_PARAMETERS.into_iter().chain([("force", "boolean")]).collect();
        self.add(path, operation);
    }

    fn delete(
        &mut self,
        path: &str,
        action: &'static str,
        id: String,
        subject: Subject<'_>,
        mut parameters: Vec<(&'static str, &'static str)>,
    ) {
        parameters.sort_unstable();
        parameters.dedup();
        let (options, status) = (format!("{META}.DeleteOptions"), format!("{META}.Status"));
        let mut operation = subject_operation("delete", action, id, subject);
        operation.body = Some((&options, &BODIES));
        operation.response = Some(&status);
        operation.parameters = parameters;
        self.add(path, operation);
    }

    fn add(&mut self, path: &str, operation: Operation<'_>) {
        let Operation { method, action, id, kind, response, body, parameters } = operation;
        let parameters: Vec<Value> = parameters.into_iter().map(|(name, ty)| parameter(name, "query", ty)).collect();
        let mut entry = object([
            ("operationId", id.into()),
            ("responses", responses(response)),
            ("x-kubernetes-action", action.into()),
            ("x-kubernetes-group-version-kind", kind),
        ]);
        if !parameters.is_empty() {
            entry.insert("parameters".to_owned(), parameters.into());
        }
        if let Some((schema, media)) = body {
            entry.insert("requestBody".to_owned(), json!({ "content": content(schema, media) }));
        }
        let at = self.paths.entry(path).or_insert_with(|| json!({ "parameters": path_parameters(path) }));
        at[method] = Value::Object(entry);
    }
}

/// Group, version, kind, and the kind's type.
type Subject<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

fn subject_operation<'a>(
    method: &'static str,
    action: &'static str,
    id: String,
    (group, version, kind, response): Subject<'a>,
) -> Operation<'a> {
    Operation { method, action, id, kind: gvk(group, version, kind), response, body: None, parameters: Vec::new() }
}

fn type_name(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    facts::kind(group, version, kind).map(|schema| schema.name.as_ref())
}

fn parameter(name: &str, place: &str, ty: &str) -> Value {
    json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}})
}

fn path_parameters(path: &str) -> Vec<Value> {
    let mut parameters: Vec<Value> = ["namespace", "name"]
        .into_iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| {
            let mut parameter = parameter(name, "path", "string");
            parameter["required"] = true.into();
            parameter
        })
        .collect();
    parameters.push(parameter("pretty", "query", "string"));
    parameters
}

fn content(schema: &str, media: &[&str]) -> Map<String, Value> {
    media.iter().map(|media| ((*media).to_owned(), json!({ "schema": reference(schema) }))).collect()
}

fn responses(schema: Option<&str>) -> Value {
    let mut ok = json!({"description": "OK"});
    ok["content"] = match schema {
        Some(schema) => Value::Object(content(schema, &BODIES)),
        None => json!({"*/*": {"schema": {"type": "string"}}}),
    };
    json!({"200": ok, "401": {"description": "Unauthorized"}})
}
