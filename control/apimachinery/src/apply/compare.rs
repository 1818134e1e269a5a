//! How two objects differ, field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Set, Shape, name_element};
use crate::schema::Schema;

/// The fields in which two objects differ.
#[derive(Debug, Default)]
pub struct Comparison {
    /// In the new one alone.
    pub added: Set,
    /// In both, with different values.
    pub modified: Set,
    /// In the old one alone.
    pub removed: Set,
}

impl Comparison {
    /// Whether they do not differ.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// The same with each set changed.
    #[must_use]
    pub fn map(self, change: impl Fn(Set) -> Set) -> Self {
        Self { added: change(self.added), modified: change(self.modified), removed: change(self.removed) }
    }
}

/// Compares two objects.
pub fn compare(old: &Value, new: &Value, schema: &Schema) -> Result<Comparison, String> {
    let mut walker = Walker { path: Vec::new(), found: Comparison::default() };
    walker.compare(Some(old), Some(new), Shape::Fields(schema))?;
    Ok(walker.found)
}

struct Walker {
    path: Vec<String>,
    found: Comparison,
}

impl Walker {
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Result<(), String> {
        let bare = |value: Option<&Value>| match (shape, value) {
            (Shape::Fields(_) | Shape::Map(_), Some(Value::Object(map))) => map.is_empty(),
            (Shape::Scalars | Shape::Keyed(..), Some(Value::Array(items))) => items.is_empty(),
            (_, None | Some(Value::Null)) => true,
            _ => false,
        };
        let leaf = matches!(shape, Shape::Whole) || (bare(old) && bare(new));
        if !leaf {
            match shape {
                Shape::Fields(_) | Shape::Map(_) => self.maps(old, new, shape)?,
                _ => self.lists(old, new, shape)?,
            }
        }
        match (old, new) {
            (None, Some(_)) => self.found.added.insert(&self.path),
            (Some(_), None) => self.found.removed.insert(&self.path),
            (Some(old), Some(new)) if leaf && old != new => self.found.modified.insert(&self.path),
            _ => {}
        }
        Ok(())
    }

    fn maps(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Result<(), String> {
        let none = Map::new();
        let old = old.and_then(Value::as_object).unwrap_or(&none);
        let new = new.and_then(Value::as_object).unwrap_or(&none);
        for (name, value) in old {
            self.inside(name_element(name), Some(value), new.get(name), shape.entry(name))?;
        }
        for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            self.inside(name_element(name), None, Some(value), shape.entry(name))?;
        }
        Ok(())
    }

    fn lists(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Result<(), String> {
        let (old, mut new) = (by_element(old, shape)?, by_element(new, shape)?);
        for (element, item) in old {
            let other = new.remove(&element);
            self.inside(element, Some(item), other, shape.item())?;
        }
        for (element, item) in new {
            self.inside(element, None, Some(item), shape.item())?;
        }
        Ok(())
    }

    fn inside(
        &mut self,
        element: String,
        old: Option<&Value>,
        new: Option<&Value>,
        shape: Shape<'_>,
    ) -> Result<(), String> {
        self.path.push(element);
        let done = self.compare(old, new, shape);
        self.path.pop();
        done
    }
}

/// The items of a list by what tells them apart.
fn by_element<'a>(list: Option<&'a Value>, shape: Shape<'_>) -> Result<BTreeMap<String, &'a Value>, String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| Ok((shape.element(item)?, item))).collect()
}
