//! Strategic merge patch: a merge patch whose lists merge as the schema says, with directives in the patch.

use serde_json::{Map, Value};

use super::order::{Identity, arrange};
use crate::schema::{Field, Schema, Type};
use crate::status::{Result, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch. A malformed patch is 400.
pub fn strategic_merge(object: &Value, patch: &Value, schema: &Schema) -> Result<Value> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(bad("a strategic merge patch must be an object"));
    };
    merge_map(original.clone(), patch, Facts::Fields(schema)).map(Value::Object)
}

/// What is known of the entries of a map.
#[derive(Clone, Copy)]
pub(super) enum Facts<'a> {
    Fields(&'a Schema),
    Values(&'a Type),
    Nothing,
}

impl<'a> Facts<'a> {
    /// What is known of a value of this type.
    pub(super) fn of(ty: &'a Type) -> Self {
        match ty {
            Type::Struct(schema) => Self::Fields(schema.get()),
            Type::Map(value) => Self::Values(value),
            _ => Self::Nothing,
        }
    }

    /// The facts of a field.
    pub(super) fn field(self, name: &str) -> Option<&'a Field> {
        match self {
            Self::Fields(schema) => schema.field(name),
            _ => None,
        }
    }

    /// What is known inside an entry.
    pub(super) fn entry(self, name: &str) -> Self {
        match self {
            Self::Fields(schema) => schema.field(name).map_or(Self::Nothing, |field| Self::of(&field.ty)),
            Self::Values(ty) => Self::of(ty),
            Self::Nothing => Self::Nothing,
        }
    }

    /// How a list merges, if it does not just replace.
    fn list(self, name: &str) -> List<'a> {
        let Some(field) = self.field(name) else {
            return List { merges: false, key: None, items: Self::Nothing };
        };
        let items = match &field.ty {
            Type::List(item) => Self::of(item),
            _ => Self::Nothing,
        };
        List { merges: field.patch_merge, key: field.patch_merge_key.as_deref(), items }
    }
}

#[derive(Clone, Copy)]
struct List<'a> {
    merges: bool,
    key: Option<&'a str>,
    items: Facts<'a>,
}

impl List<'_> {
    fn identity(&self) -> Identity<'_> {
        self.key.map_or(Identity::Value, Identity::Key)
    }
}

fn bad(message: impl Into<String>) -> Status {
    Status::bad_request(message)
}

fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> Status {
    bad(format!("unknown patch type: {directive} in map: {}", Value::Object(map.clone())))
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    bad(format!("map: {item} does not contain declared merge key: {key}"))
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    facts: Facts<'_>,
) -> Result<Map<String, Value>> {
    match patch.get(PATCH).map(|directive| (directive, directive.as_str())) {
        None => {}
        Some((_, Some("replace"))) => return Ok(without_directives(patch)),
        Some((_, Some("delete"))) => return Ok(Map::new()),
        Some((_, Some("merge"))) => {}
        Some((directive, _)) => return Err(unknown_directive(directive, patch)),
    }
    retain_keys(&mut original, patch)?;
    let ordered = patch.keys().filter_map(|key| key.strip_prefix(ELEMENT_ORDER));
    let server: Vec<Option<Value>> = ordered.map(|list| original.get(list).cloned()).collect();
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with(ELEMENT_ORDER)) {
        if key == PATCH || key == RETAIN_KEYS {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut original, list, value)?;
            continue;
        }
        let order = patch.get(&format!("{ELEMENT_ORDER}{key}"));
        if let (Some(order), Value::Array(items)) = (order, value) {
            check_order(items, as_order(order)?, facts.list(key))?;
        }
        merge_entry(&mut original, key, value, facts)?;
    }
    let orders = patch.iter().filter_map(|(key, order)| Some((key.strip_prefix(ELEMENT_ORDER)?, order)));
    for ((list, order), server) in orders.zip(server) {
        let server = server.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        // A list that the patch replaces as a whole has the patch's order.
        if patch.contains_key(list) && !facts.list(list).merges {
            continue;
        }
        if let Some(Value::Array(items)) = original.get_mut(list) {
            *items = arrange(std::mem::take(items), as_order(order)?, server, facts.list(list).identity());
        } else {
            as_order(order)?;
        }
    }
    Ok(original)
}

fn merge_entry(original: &mut Map<String, Value>, key: &str, value: &Value, facts: Facts<'_>) -> Result<()> {
    if value.is_null() {
        original.remove(key);
        return Ok(());
    }
    let merged = match (original.get_mut(key).map(Value::take), value) {
        (Some(Value::Object(old)), Value::Object(patch)) => Value::Object(merge_map(old, patch, facts.entry(key))?),
        (Some(Value::Array(old)), Value::Array(patch)) => {
            let list = facts.list(key);
            if list.merges { Value::Array(merge_list(old, patch, list)?) } else { clean(value) }
        }
        _ => clean(value),
    };
    original.insert(key.to_owned(), merged);
    Ok(())
}

/// `$retainKeys`: removes what the list does not name. What the patch sets must be in the list.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(keys) = keys.as_array() else { return Err(bad("invalid patch format of retainKeys")) };
    let named = |key: &str| keys.iter().any(|one| one.as_str() == Some(key));
    for (key, value) in patch {
        let directive = key == PATCH || key == RETAIN_KEYS || is_prefixed(key);
        if !directive && !value.is_null() && !named(key) {
            return Err(bad("patch content doesn't match retainKeys list"));
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

fn delete_from_list(original: &mut Map<String, Value>, list: &str, doomed: &Value) -> Result<()> {
    let Some(doomed) = doomed.as_array() else { return Err(bad("invalid patch format of primitive list")) };
    if let Some(Value::Array(items)) = original.get_mut(list) {
        items.retain(|item| !doomed.contains(item));
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: &[Value], list: List<'_>) -> Result<Vec<Value>> {
    let objects = original.iter().chain(patch).any(Value::is_object);
    if !objects {
        let server = original.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return Ok(arrange(merged, patch, &server, Identity::Value));
    }
    let Some(key) = list.key else {
        return Err(bad("cannot merge lists of objects without a merge key"));
    };
    merge_objects(original, patch, key, list.items)
}

fn merge_objects(mut original: Vec<Value>, patch: &[Value], key: &str, facts: Facts<'_>) -> Result<Vec<Value>> {
    let identity = Identity::Key(key);
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = item else {
            return Err(bad(format!("expected an object in a list merged by {key}, but received {item}")));
        };
        match map.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => plain.push(item),
            Some((_, Some("delete"))) => {
                let doomed = map.get(key).ok_or_else(|| no_merge_key(item, key))?;
                original.retain(|one| one.get(key) != Some(doomed));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => return Err(bad("merging lists cannot yet be specified in the patch")),
            Some((directive, _)) => return Err(unknown_directive(directive, map)),
        }
    }
    if replace {
        return Ok(plain.into_iter().map(clean).collect());
    }
    let server = original.clone();
    for item in &plain {
        if item.get(key).is_none() {
            return Err(no_merge_key(item, key));
        }
        match (identity.position(&original, item), item) {
            (Some(at), Value::Object(patch)) => {
                let Value::Object(old) = original[at].take() else { continue };
                original[at] = Value::Object(merge_map(old, patch, facts)?);
            }
            _ => original.push(clean(item)),
        }
    }
    let order: Vec<Value> = plain.into_iter().cloned().collect();
    Ok(arrange(original, &order, &server, identity))
}

fn as_order(order: &Value) -> Result<&[Value]> {
    order.as_array().map(Vec::as_slice).ok_or_else(|| bad("invalid patch format of setElementOrder list"))
}

/// What a patch sets in a list must be in `$setElementOrder`, in the same relative order.
fn check_order(items: &[Value], order: &[Value], list: List<'_>) -> Result<()> {
    let identity = list.identity();
    let mut rest = order.iter();
    for item in items.iter().filter(|item| item.get(PATCH).is_none()) {
        if !rest.any(|one| identity.of(one).is_some() && identity.of(one) == identity.of(item)) {
            return Err(bad(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::from(items.to_vec()),
                Value::from(order.to_vec())
            )));
        }
    }
    Ok(())
}

fn is_prefixed(key: &str) -> bool {
    key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER)
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    let plain = map.iter().filter(|(key, value)| {
        let directive = *key == PATCH || *key == RETAIN_KEYS || is_prefixed(key);
        !directive && !value.is_null()
    });
    plain.map(|(key, value)| (key.clone(), clean(value))).collect()
}

/// A patch's value where there is nothing to merge with: without directives, nulls and deleted items.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => {
            let is_command = |item: &&Value| match item.get(PATCH).and_then(Value::as_str) {
                Some("delete") => false,
                Some("replace") => item.as_object().is_some_and(|map| map.len() > 1),
                _ => true,
            };
            items.iter().filter(is_command).map(clean).collect()
        }
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests;
