//! `components/schemas`: types as JSON schemas with Kubernetes' extensions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::prose::Prose;
use super::{gvk, object, reference};
use crate::facts;
use crate::schema::{Field, ListType, Schema, SchemaRef, Type};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

/// The schemas of these types and of all that they refer to.
pub(super) fn reachable(roots: &[u16]) -> Value {
    let mut seen: BTreeSet<u16> = roots.iter().copied().collect();
    let mut queue: Vec<u16> = seen.iter().copied().collect();
    let mut schemas = Map::new();
    let prose = Prose::unpack();
    while let Some(number) = queue.pop() {
        let schema = facts::schema(number);
        schemas.insert(schema.name.to_string(), definition(number, schema, &prose));
        for field in &schema.fields {
            let Some((name, number)) = referred(&field.ty) else { continue };
            match number {
                Some(number) if seen.insert(number) => queue.push(number),
                Some(_) => {}
                None => {
                    if !schemas.contains_key(name) {
                        schemas.insert(name.to_owned(), scalar(name, &field.ty));
                    }
                }
            }
        }
    }
    Value::Object(schemas)
}

/// The named type inside a type, with its number where it has fields.
fn referred(ty: &Type) -> Option<(&str, Option<u16>)> {
    match ty {
        Type::List(item) | Type::Map(item) => referred(item),
        Type::Struct(SchemaRef::Fact(number)) => Some((facts::name(*number), Some(*number))),
        Type::Quantity => Some((QUANTITY, None)),
        Type::IntOrString => Some((INT_OR_STRING, None)),
        Type::Time => Some((TIME, None)),
        Type::MicroTime => Some((MICRO_TIME, None)),
        Type::Any(name) | Type::Object(name) => Some((name, None)),
        _ => None,
    }
}

/// The schema of a named type without fields.
fn scalar(name: &str, ty: &Type) -> Value {
    match (name, innermost(ty)) {
        (QUANTITY, _) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (INT_OR_STRING, _) => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
        (_, Type::Object(_)) => json!({"type": "object"}),
        _ => json!({}),
    }
}

fn innermost(ty: &Type) -> &Type {
    match ty {
        Type::List(item) | Type::Map(item) => innermost(item),
        other => other,
    }
}

fn definition(number: u16, schema: &Schema, prose: &Prose) -> Value {
    let mut definition = object([("type", "object".into())]);
    if let Some(said) = prose.of(&schema.name) {
        definition.insert("description".to_owned(), said.into());
    }
    let described = |field: &Field| property(field, prose.of_field(&schema.name, &field.name));
    let properties: Map<String, Value> =
        schema.fields.iter().map(|field| (field.name.to_string(), described(field))).collect();
    if !properties.is_empty() {
        definition.insert("properties".to_owned(), Value::Object(properties));
    }
    let required: Vec<Value> =
        schema.fields.iter().filter(|field| field.required).map(|field| field.name.as_ref().into()).collect();
    if !required.is_empty() {
        definition.insert("required".to_owned(), required.into());
    }
    let kinds: Vec<Value> =
        facts::kinds_of_type(number).map(|[group, version, kind]| gvk(group, version, kind)).collect();
    if !kinds.is_empty() {
        definition.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    if schema.atomic {
        definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if !schema.unions.is_empty() {
        let unions = schema.unions.iter().map(|union| {
            let members: Map<String, Value> =
                union.members.iter().map(|(field, value)| (field.to_string(), value.as_ref().into())).collect();
            let mut entry = object([("fields-to-discriminateBy", Value::Object(members))]);
            if let Some(discriminator) = &union.discriminator {
                entry.insert("discriminator".to_owned(), discriminator.as_ref().into());
            }
            Value::Object(entry)
        });
        definition.insert("x-kubernetes-unions".to_owned(), unions.collect());
    }
    Value::Object(definition)
}

fn property(field: &Field, said: Option<&str>) -> Value {
    let mut property = match of_type(&field.ty) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let mut set = |key: &str, value: Value| {
        property.insert(key.to_owned(), value);
    };
    if let Some(said) = said {
        set("description", said.into());
    }
    let values = || -> Value { field.enum_values.iter().map(AsRef::as_ref).collect() };
    if let (false, Type::String) = (field.enum_values.is_empty(), &field.ty) {
        set("enum", values());
    }
    if let Some(default) = &field.default {
        set("default", default.as_ref().clone());
    }
    match field.list_type {
        ListType::Unset => {}
        ListType::Atomic => set("x-kubernetes-list-type", "atomic".into()),
        ListType::Set => set("x-kubernetes-list-type", "set".into()),
        ListType::Map => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", field.list_map_keys.iter().map(AsRef::as_ref).collect());
        }
    }
    if field.atomic && matches!(field.ty, Type::Map(_)) {
        set("x-kubernetes-map-type", "atomic".into());
    }
    match (field.patch_merge, field.patch_retain_keys) {
        (true, true) => set("x-kubernetes-patch-strategy", "merge,retainKeys".into()),
        (true, false) => set("x-kubernetes-patch-strategy", "merge".into()),
        (false, true) => set("x-kubernetes-patch-strategy", "retainKeys".into()),
        (false, false) => {}
    }
    if let Some(key) = &field.patch_merge_key {
        set("x-kubernetes-patch-merge-key", key.as_ref().into());
    }
    // Siblings of a bare reference are ignored by readers of OpenAPI 3.0.
    match property.remove("$ref") {
        Some(target) if property.is_empty() => json!({ "$ref": target }),
        Some(target) => {
            property.insert("allOf".to_owned(), json!([{ "$ref": target }]));
            Value::Object(property)
        }
        None => Value::Object(property),
    }
}

fn of_type(ty: &Type) -> Value {
    match ty {
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Boolean => json!({"type": "boolean"}),
        Type::List(item) => json!({"type": "array", "items": of_type(item)}),
        Type::Map(value) => json!({"type": "object", "additionalProperties": of_type(value)}),
        named => match referred(named) {
            Some((name, _)) => reference(name),
            None => json!({}),
        },
    }
}
