//! What a schema calls required, for kinds without rules of their own.

use apimachinery::MAX_DEPTH;
use apimachinery::field::{FieldError, Path};
use apimachinery::schema::{Schema, Type};
use serde_json::Value;

/// The required texts and objects that are missing. `status` is the server's own; numbers, lists and maps have a zero
/// value that upstream's clients leave out.
pub(super) fn missing(schema: &Schema, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in &schema.fields {
        if !matches!(&*field.name, "status" | "metadata" | "apiVersion" | "kind") {
            check_field(field, object.get(&*field.name), &Path::root(), 1, &mut errors);
        }
    }
    errors
}

fn check_field(
    field: &apimachinery::schema::Field,
    value: Option<&Value>,
    path: &Path,
    depth: usize,
    errors: &mut Vec<FieldError>,
) {
    match value {
        Some(value) if !value.is_null() => check(&field.ty, value, &path.child(field.name.clone()), depth, errors),
        _ if field.required && matches!(field.ty, Type::String | Type::Struct(_)) => {
            errors.push(FieldError::required(&path.child(field.name.clone()), ""));
        }
        _ => {}
    }
}

fn check(ty: &Type, value: &Value, path: &Path, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH {
        return;
    }
    match (ty, value) {
        (Type::Struct(schema), Value::Object(map)) => {
            for field in &schema.get().fields {
                check_field(field, map.get(&*field.name), path, depth + 1, errors);
            }
        }
        (Type::List(item), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                check(item, value, &path.index(index), depth + 1, errors);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (key, value) in map {
                check(item, value, &path.key(key.as_str()), depth + 1, errors);
            }
        }
        _ => {}
    }
}
