//! Sets of fields, in the form that `metadata.managedFields` has.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::MAX_DEPTH;
use crate::schema::{Text, Type};

/// A set of fields: a tree by the elements of their paths, each written as FieldsV1 does (`f:spec`, `k:{"name":"c"}`, `v:"x"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(pub(super) BTreeMap<String, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the field itself is in the set.
    pub(super) member: bool,
    /// What is in the set inside it.
    pub(super) inside: Set,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.inside.is_empty()
    }
}

impl Set {
    /// Reads a FieldsV1.
    pub fn parse(fields: &Value) -> Result<Self, String> {
        Self::read(fields, 0)
    }

    fn read(fields: &Value, depth: usize) -> Result<Self, String> {
        let Some(fields) = fields.as_object() else { return Err("fields are not an object".to_owned()) };
        if depth > MAX_DEPTH {
            return Err(format!("fields nest deeper than {MAX_DEPTH} levels"));
        }
        let mut set = Self::default();
        for (element, inside) in fields.iter().filter(|(element, _)| *element != ".") {
            let inner = Self::read(inside, depth + 1)?;
            let member = inner.is_empty() || inside.get(".").is_some();
            set.0.insert(canonical(element)?, Node { member, inside: inner });
        }
        Ok(set)
    }

    /// As FieldsV1.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.0 {
            let mut inside = node.inside.to_value();
            if node.member && !node.inside.is_empty() {
                inside["."] = Value::Object(Map::new());
            }
            map.insert(element.clone(), inside);
        }
        Value::Object(map)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the field at a path.
    pub(super) fn insert(&mut self, path: &[String]) {
        let Some((element, rest)) = path.split_first() else { return };
        let node = self.0.entry(element.clone()).or_default();
        if rest.is_empty() { node.member = true } else { node.inside.insert(rest) }
    }

    /// What is in either.
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        for (element, node) in &other.0 {
            match self.0.entry(element.clone()) {
                Entry::Vacant(place) => drop(place.insert(node.clone())),
                Entry::Occupied(mut place) => {
                    place.get_mut().member |= node.member;
                    place.get_mut().inside.add(&node.inside);
                }
            }
        }
    }

    /// What is in this one but not in the other.
    pub fn difference(mut self, other: &Self) -> Self {
        self.take(other);
        self
    }

    fn take(&mut self, other: &Self) {
        self.0.retain(|element, node| {
            if let Some(taken) = other.0.get(element) {
                node.member &= !taken.member;
                node.inside.take(&taken.inside);
            }
            !node.is_empty()
        });
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(element, node)| {
            let other = other.0.get(element)?;
            let node = Node { member: node.member && other.member, inside: node.inside.intersection(&other.inside) };
            (!node.is_empty()).then(|| (element.clone(), node))
        });
        Self(both.collect())
    }

    /// Without a field, given by the names on the way to it, and all that is inside it.
    pub fn without(mut self, path: &[&str]) -> Self {
        self.cut(path);
        self
    }

    fn cut(&mut self, path: &[&str]) {
        let Some((name, rest)) = path.split_first() else { return };
        let element = super::name_element(name);
        let Some(node) = self.0.get_mut(&element) else { return };
        if !rest.is_empty() {
            node.inside.cut(rest);
            if !node.is_empty() {
                return;
            }
        }
        self.0.remove(&element);
    }

    /// With only those of its outermost fields whose names are wanted.
    pub fn keeping(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|element, _| element.strip_prefix("f:").is_some_and(&wanted));
        self
    }

    /// The paths as people read them: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.list("", &mut paths);
        paths
    }

    fn list(&self, before: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{before}{}", readable(element));
            if node.member {
                paths.push(path.clone());
            }
            node.inside.list(&path, paths);
        }
    }
}

/// An element with its JSON in the one form that this module writes.
fn canonical(element: &str) -> Result<String, String> {
    let bad = || format!("{element:?} is no path element");
    match element.split_once(':') {
        Some(("f", _)) => Ok(element.to_owned()),
        Some(("v", json)) => {
            let value: Value = serde_json::from_str(json).map_err(|_| bad())?;
            Ok(format!("v:{value}"))
        }
        Some(("k", json)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(json).map_err(|_| bad())?;
            key_text(&keys)
        }
        Some(("i", number)) if number.parse::<usize>().is_ok() => Ok(element.to_owned()),
        _ => Err(bad()),
    }
}

fn key_text<K: serde::Serialize + Ord>(keys: &BTreeMap<K, Value>) -> Result<String, String> {
    Ok(format!("k:{}", serde_json::to_string(keys).map_err(|error| error.to_string())?))
}

/// The element of an item of a list by key. What the item leaves out has its default.
pub(super) fn key_element(item: &Value, ty: &Type, keys: &[Text]) -> Result<String, String> {
    let default = |key: &str| match ty {
        Type::Struct(schema) => schema.field(key).and_then(|field| field.default.as_deref()),
        _ => None,
    };
    let mut found = BTreeMap::new();
    for key in keys {
        let value = item.get(&**key).filter(|value| !value.is_null()).or_else(|| default(key));
        let value = value.ok_or_else(|| {
            format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
        })?;
        found.insert(&**key, value.clone());
    }
    key_text(&found)
}

/// An element as people read it.
pub(super) fn readable(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", json)) => format!("[={json}]"),
        Some(("k:", json)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(json).unwrap_or_default();
            let mut text = String::from("[");
            for (index, (key, value)) in keys.iter().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                let _ = write!(text, "{comma}{key}={value}");
            }
            text + "]"
        }
        _ => format!("[{}]", &element[2.min(element.len())..]),
    }
}
