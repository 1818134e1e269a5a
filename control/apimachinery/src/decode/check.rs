//! A tree against its schema: wrong types are errors, unknown fields are dropped and told, what is empty and says nothing is
//! left out, scalars become canonical.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::trail::Trail;
use super::{Complaint, FieldValidation, MAX_COMPLAINTS, cannot_be_handled, settle};
use crate::MAX_DEPTH;
use crate::quantity::Quantity;
use crate::schema::{Schema, Type};
use crate::status::Result;
use crate::time;

/// Checks an object against its schema: wrong types fail, unknown fields are dropped (and told, as `validation` asks), nulls of known
/// fields and what is empty and optional are dropped, quantities and times become canonical. Returns the warnings.
pub fn check(schema: &Schema, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>> {
    let complaints = walk(schema, object)?;
    settle(Some(schema), object, validation, &complaints)
}

/// The same; what is unknown is told, and why the object cannot be of this kind, without a word on what it is.
pub fn problems(schema: &Schema, object: &mut Value) -> std::result::Result<Vec<String>, String> {
    Ok(look(schema, object)?.into_iter().take(MAX_COMPLAINTS).map(|complaint| complaint.text).collect())
}

/// Checks an object; returns what is unknown in it.
pub(super) fn walk(schema: &Schema, object: &mut Value) -> Result<Vec<Complaint>> {
    look(schema, object).map_err(|why| cannot_be_handled(Some(schema), object, &why))
}

fn look(schema: &Schema, object: &mut Value) -> std::result::Result<Vec<Complaint>, String> {
    let mut walker = Walker { unknown: Vec::new() };
    match &mut *object {
        Value::Object(map) => walker.fields(schema, map, &Trail::Root, 0)?,
        other => {
            let go = schema.go_name();
            return Err(format!("json: cannot unmarshal {} into Go value of type {go}", kind_of(other)));
        }
    }
    Ok(walker.unknown)
}

struct Walker {
    unknown: Vec<Complaint>,
}

type Checked = std::result::Result<(), String>;

impl Walker {
    fn fields(&mut self, schema: &Schema, map: &mut Map<String, Value>, trail: &Trail<'_>, depth: usize) -> Checked {
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels at {}", trail.path()));
        }
        let mut done = Ok(());
        map.retain(|name, value| {
            if done.is_err() {
                return true;
            }
            let here = Trail::Field(trail, name);
            match schema.field(name) {
                None if schema.preserve_unknown => return true,
                None => self.unknown.push(Complaint::unknown(here.path())),
                Some(_) if value.is_null() => {}
                Some(field) => {
                    done = self.value(schema, &field.ty, value, &here, depth + 1);
                    return !(field.omit_empty && is_empty(value));
                }
            }
            false
        });
        done
    }

    fn value(&mut self, owner: &Schema, ty: &Type, value: &mut Value, trail: &Trail<'_>, depth: usize) -> Checked {
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels at {}", trail.path()));
        }
        match (ty, &mut *value) {
            (Type::String, Value::String(_)) | (Type::Boolean, Value::Bool(_)) | (Type::Double, Value::Number(_)) => {
                return Ok(());
            }
            (Type::Any(_) | Type::Object(_), _) => return Ok(()),
            (Type::Struct(schema), Value::Object(map)) => return self.fields(schema, map, trail, depth),
            (Type::List(item), Value::Array(items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    let here = Trail::Index(trail, index);
                    self.element(owner, item, value, &here, depth + 1)?;
                }
                return Ok(());
            }
            (Type::Map(item), Value::Object(map)) => {
                for (key, value) in map.iter_mut() {
                    let here = Trail::Key(trail, key);
                    self.element(owner, item, value, &here, depth + 1)?;
                }
                return Ok(());
            }
            _ => {}
        }
        scalar(owner, ty, value, trail)
    }

    /// An item of a list or map: null is the type's zero value.
    fn element(&mut self, owner: &Schema, ty: &Type, value: &mut Value, trail: &Trail<'_>, depth: usize) -> Checked {
        if value.is_null() {
            *value = match ty {
                Type::String | Type::Bytes => "".into(),
                Type::Quantity => "0".into(),
                Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
                Type::Boolean => false.into(),
                Type::Struct(_) => Value::Object(Map::new()),
                Type::Time | Type::MicroTime | Type::Any(_) | Type::Object(_) | Type::List(_) | Type::Map(_) => {
                    Value::Null
                }
            };
            return Ok(());
        }
        self.value(owner, ty, value, trail, depth)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => !yes,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Null => false,
    }
}

fn scalar(owner: &Schema, ty: &Type, value: &mut Value, trail: &Trail<'_>) -> Checked {
    let wrong = |value: &Value| Err(wrong_type(owner, ty, value, trail));
    match (ty, &*value) {
        (Type::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
        (Type::Int32 | Type::IntOrString, Value::Number(number)) => match number.as_i64() {
            Some(number) if i32::try_from(number).is_ok() => Ok(()),
            _ => wrong(value),
        },
        (Type::IntOrString, Value::String(_)) => Ok(()),
        (Type::Bytes, Value::String(text)) => {
            let clean = text.contains(['\r', '\n']).then(|| text.replace(['\r', '\n'], ""));
            let text = clean.as_ref().unwrap_or(text);
            if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text) {
                return Err(format!("{}: illegal base64 data: {error}", trail.path()));
            }
            replace(value, clean);
            Ok(())
        }
        (Type::Quantity, Value::String(text)) => {
            let canonical = canonical_quantity(text.trim(), trail)?;
            let changed = (canonical != *text).then_some(canonical);
            replace(value, changed);
            Ok(())
        }
        (Type::Quantity, Value::Number(number)) => {
            let canonical = canonical_quantity(&number.to_string(), trail)?;
            replace(value, Some(canonical));
            Ok(())
        }
        (Type::Time, Value::String(text)) if time::is_canonical_time(text) => Ok(()),
        (Type::MicroTime, Value::String(text)) if time::is_canonical_micro(text) => Ok(()),
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            let Some(at) = time::parse(text) else {
                return Err(format!(
                    "{}: parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\"",
                    trail.path()
                ));
            };
            let micro = matches!(ty, Type::MicroTime);
            let canonical = if micro { time::format_micro(at) } else { time::format_time(at) };
            replace(value, Some(canonical));
            Ok(())
        }
        _ => wrong(value),
    }
}

fn replace(value: &mut Value, text: Option<String>) {
    if let Some(text) = text {
        *value = Value::String(text);
    }
}

fn canonical_quantity(text: &str, trail: &Trail<'_>) -> std::result::Result<String, String> {
    let quantity = Quantity::parse(text).map_err(|error| format!("{}: {error}", trail.path()))?;
    Ok(quantity.to_string())
}

fn wrong_type(owner: &Schema, ty: &Type, value: &Value, trail: &Trail<'_>) -> String {
    let given = match (ty, value) {
        (Type::Int32 | Type::Int64 | Type::IntOrString, Value::Number(number)) => format!("number {number}"),
        _ => kind_of(value).to_owned(),
    };
    let ty = match (ty, value) {
        (Type::IntOrString, Value::Number(_)) => "int32".to_owned(),
        _ => ty.go_name(),
    };
    format!(
        "json: cannot unmarshal {given} into Go struct field {}.{} of type {ty}",
        owner.short_name(),
        trail.fields()
    )
}

/// A value's type as Go's errors name it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
