//! Merging what is applied into what is there, and taking out what is applied no longer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Set, Shape, name_element};
use crate::schema::Schema;

/// The live object with what is applied.
pub fn merge(live: &Value, applied: &Value, schema: &Schema) -> Result<Value, String> {
    merged(live, applied, Shape::Fields(schema))
}

fn merged(live: &Value, applied: &Value, shape: Shape<'_>) -> Result<Value, String> {
    match (shape, live, applied) {
        (Shape::Fields(_) | Shape::Map(_), Value::Object(live), Value::Object(applied)) => {
            let mut out = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(live) => merged(live, value, shape.entry(name))?,
                    None => value.clone(),
                };
                out.insert(name.clone(), value);
            }
            Ok(Value::Object(out))
        }
        (Shape::Scalars | Shape::Keyed(..), Value::Array(live), Value::Array(applied)) => {
            Ok(Value::Array(merged_lists(live, applied, shape)?))
        }
        _ => Ok(applied.clone()),
    }
}

/// The items of both. Those that are applied keep their order; the others stay where they are between them.
fn merged_lists(live: &[Value], applied: &[Value], shape: Shape<'_>) -> Result<Vec<Value>, String> {
    let elements = |items: &[Value]| items.iter().map(|item| shape.element(item)).collect::<Result<Vec<_>, _>>();
    let (left, right) = (elements(live)?, elements(applied)?);
    let of_live: BTreeMap<&str, &Value> = left.iter().map(String::as_str).zip(live).collect();
    let of_applied: BTreeMap<&str, &Value> = right.iter().map(String::as_str).zip(applied).collect();
    let join = |element: &str| match (of_live.get(element), of_applied.get(element)) {
        (Some(live), Some(applied)) => merged(live, applied, shape.item()),
        (Some(one), None) | (None, Some(one)) => Ok((*one).clone()),
        (None, None) => Ok(Value::Null),
    };
    let mut shared = right.iter().map(String::as_str).filter(|element| of_live.contains_key(element));
    let mut next = shared.next();
    let (mut l, mut r) = (0, 0);
    let mut done = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let element = left[l].as_str();
            if element == right[r] {
                done.insert(element);
                out.push(join(element)?);
                (l, r) = (l + 1, r + 1);
                next = shared.next();
                continue;
            }
            if of_applied.contains_key(element) && next.is_some_and(|next| next != element) {
                // It comes where it is applied.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            let element = left[l].as_str();
            if !of_applied.contains_key(element) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
                continue;
            }
        }
        if r < right.len() {
            let element = right[r].as_str();
            done.insert(element);
            out.push(join(element)?);
            r += 1;
            if next == Some(element) {
                next = shared.next();
            }
        }
    }
    Ok(out)
}

/// The object without these fields, and without what that leaves empty.
pub fn remove(object: &Value, fields: &Set, schema: &Schema) -> Result<Value, String> {
    Ok(removed(object, fields, Shape::Fields(schema))?.unwrap_or_else(|| Value::Object(Map::new())))
}

fn removed(value: &Value, fields: &Set, shape: Shape<'_>) -> Result<Option<Value>, String> {
    match (shape, value) {
        (Shape::Fields(_) | Shape::Map(_), Value::Object(map)) => {
            let mut out = Map::new();
            for (name, value) in map {
                match fields.0.get(&name_element(name)) {
                    Some(node) if node.member => {}
                    Some(node) => {
                        if let Some(value) = removed(value, &node.inside, shape.entry(name))? {
                            out.insert(name.clone(), value);
                        }
                    }
                    None => drop(out.insert(name.clone(), value.clone())),
                }
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        (Shape::Scalars | Shape::Keyed(..), Value::Array(items)) => {
            let mut out = Vec::new();
            for item in items {
                match fields.0.get(&shape.element(item)?) {
                    Some(node) if node.member => {}
                    Some(node) => out.extend(removed(item, &node.inside, shape.item())?),
                    None => out.push(item.clone()),
                }
            }
            Ok((!out.is_empty()).then_some(Value::Array(out)))
        }
        _ => Ok(Some(value.clone())),
    }
}
