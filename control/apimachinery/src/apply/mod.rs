//! Server-side apply: which fields an object has ([`Set`]), how two objects differ, and how what someone applies merges into
//! what is there. Who owns which fields is the API server's affair.

mod compare;
mod fields;
mod merge;
mod shape;

use serde_json::Value;

pub use compare::{Comparison, compare};
pub use fields::Set;
pub use merge::{merge, remove};
pub use shape::{check, field_set, named};

use crate::schema::{Field, ListType, Schema, Text, Type};

/// How a value merges.
#[derive(Clone, Copy)]
enum Shape<'a> {
    /// As a whole.
    Whole,
    /// Field by field.
    Fields(&'a Schema),
    /// Key by key; the values are of this type.
    Map(&'a Type),
    /// A set of scalars.
    Scalars,
    /// Items of this type, by these of their fields.
    Keyed(&'a Type, &'a [Text]),
}

impl<'a> Shape<'a> {
    fn of_field(field: &'a Field) -> Self {
        match (&field.ty, field.list_type) {
            (Type::List(_), ListType::Set) => Self::Scalars,
            (Type::List(item), ListType::Map) => Self::Keyed(item, &field.list_map_keys),
            (Type::List(_), _) => Self::Whole,
            _ if field.atomic => Self::Whole,
            (ty, _) => Self::of_type(ty),
        }
    }

    fn of_type(ty: &'a Type) -> Self {
        match ty {
            Type::Struct(schema) if schema.get().atomic => Self::Whole,
            Type::Struct(schema) => Self::Fields(schema.get()),
            Type::Map(value) => Self::Map(value),
            _ => Self::Whole,
        }
    }

    /// The shape of what a field or key holds.
    fn entry(self, name: &str) -> Self {
        match self {
            Self::Fields(schema) => schema.field(name).map_or(Self::Whole, Self::of_field),
            Self::Map(ty) => Self::of_type(ty),
            _ => Self::Whole,
        }
    }

    /// The shape of an item.
    fn item(self) -> Self {
        match self {
            Self::Keyed(ty, _) => Self::of_type(ty),
            _ => Self::Whole,
        }
    }

    /// What tells an item from the others, as sets write it.
    fn element(self, item: &Value) -> Result<String, String> {
        match self {
            Self::Keyed(ty, keys) => fields::key_element(item, ty, keys),
            _ => Ok(format!("v:{item}")),
        }
    }
}

/// A field's name as sets write it.
fn name_element(name: &str) -> String {
    format!("f:{name}")
}

#[cfg(test)]
mod tests;
