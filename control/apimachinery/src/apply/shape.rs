//! Walks along a schema: the fields of an object, whether an applied object may be applied.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{Node, readable};
use super::{Set, Shape, name_element};
use crate::schema::Schema;

/// The fields that an object has, as those own who apply it.
pub fn field_set(object: &Value, schema: &Schema) -> Result<Set, String> {
    Ok(node(object, Shape::Fields(schema))?.inside)
}

fn node(value: &Value, shape: Shape<'_>) -> Result<Node, String> {
    let mut node = Node::default();
    match (shape, value) {
        (Shape::Fields(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let known = matches!(shape, Shape::Fields(schema) if schema.field(name).is_some());
                let mut inner = self::node(value, shape.entry(name))?;
                let bare = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                inner.member |= bare || !known;
                if !inner.is_empty() {
                    node.inside.0.insert(name_element(name), inner);
                }
            }
        }
        (Shape::Scalars | Shape::Keyed(..), Value::Array(items)) => {
            for item in items {
                let mut inner = self::node(item, shape.item())?;
                inner.member = true;
                node.inside.0.insert(shape.element(item)?, inner);
            }
        }
        (Shape::Whole, _) => node.member = true,
        // Nulls are their owner's; other types are refused elsewhere.
        _ => {}
    }
    Ok(node)
}

/// A set with the fields on the way to its members, as far as their names are the schema's.
pub fn named(set: &Set, schema: &Schema) -> Set {
    with_named(set, Shape::Fields(schema))
}

fn with_named(set: &Set, shape: Shape<'_>) -> Set {
    let mut named = Set::default();
    for (element, node) in &set.0 {
        let name = element.strip_prefix("f:");
        let known = matches!((shape, name), (Shape::Fields(schema), Some(name)) if schema.field(name).is_some());
        let inner = name.map_or_else(|| shape.item(), |name| shape.entry(name));
        let inside = with_named(&node.inside, inner);
        named.0.insert(element.clone(), Node { member: node.member || known, inside });
    }
    named
}

/// What keeps an object from being applied: fields that the schema does not have, items that cannot be told apart.
pub fn check(object: &Value, schema: &Schema) -> Vec<String> {
    let mut problems = Vec::new();
    look(object, Shape::Fields(schema), "", &mut problems);
    problems
}

fn look(value: &Value, shape: Shape<'_>, path: &str, problems: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Fields(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match shape {
                    Shape::Fields(schema) if schema.field(name).is_none() && !schema.preserve_unknown => {
                        problems.push(format!("{path}: field not declared in schema"));
                    }
                    _ => look(value, shape.entry(name), &path, problems),
                }
            }
        }
        (Shape::Scalars | Shape::Keyed(..), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                match shape.element(item) {
                    Ok(element) => {
                        let here = readable(&element);
                        look(item, shape.item(), &format!("{path}{here}"), problems);
                        if !seen.insert(element) {
                            problems.push(format!("{path}: duplicate entries for key {here}"));
                        }
                    }
                    Err(why) => problems.push(format!("{path}: element {index}: {why}")),
                }
            }
        }
        _ => {}
    }
}
