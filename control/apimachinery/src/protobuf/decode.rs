//! From the wire to a JSON tree.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::wire::{Malformed, Reader, Result, Wire};
use super::{Alternatives, MAGIC, Other, unknown};
use crate::schema::{Field, Numbered, Schema, Type};
use crate::{MAX_DEPTH, time};

/// The tree of an enveloped object, without the zeros that say nothing. An envelope that does not say what it holds is taken to
/// hold `expected`.
pub fn decode(body: &[u8], expected: Option<&Schema>) -> Result<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Malformed::NoMagic)?;
    if envelope.is_empty() {
        return Err(Malformed::Empty);
    }
    let Unknown { api_version, kind, raw } = Unknown::read(envelope)?;
    let found;
    let schema = if api_version.is_empty() && kind.is_empty() {
        expected
    } else {
        found = super::schema(api_version, kind);
        found
    };
    let unknown = || Malformed::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let mut object = Map::new();
    for (name, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            object.insert(name.to_owned(), text.into());
        }
    }
    let schema = schema.ok_or_else(unknown)?;
    message(schema, schema, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(envelope: &'a [u8]) -> Result<Self> {
        let mut read = Self { api_version: "", kind: "", raw: b"" };
        for part in Reader(envelope) {
            match part? {
                (unknown::TYPE_META, wire) => {
                    for part in Reader(wire.bytes("TypeMeta")?) {
                        match part? {
                            (unknown::API_VERSION, wire) => read.api_version = wire.text("APIVersion")?,
                            (unknown::KIND, wire) => read.kind = wire.text("Kind")?,
                            _ => {}
                        }
                    }
                }
                (unknown::RAW, wire) => read.raw = wire.bytes("Raw")?,
                _ => {}
            }
        }
        Ok(read)
    }
}

/// Adds a message's fields to an object: what comes again is merged, or of scalars the last wins, as proto2 has it. The message is
/// the object's, or one inlined into it.
fn message(
    object_schema: &Schema,
    schema: &Schema,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    for part in Reader(bytes) {
        let (number, wire) = part?;
        match schema.numbered(number) {
            Some(Numbered::Field(field)) => put(object_schema, object, field, wire, depth)?,
            Some(Numbered::Inline(inline)) => {
                message(object_schema, &inline.message, wire.bytes(&inline.name)?, object, depth + 1)?;
            }
            None => {}
        }
    }
    Ok(())
}

fn put(schema: &Schema, object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Result<()> {
    let name = &*field.name;
    let wrapped = field.proto_type.is_some();
    match &field.ty {
        Type::List(item) if wrapped => {
            let list = wrapped_list(name, item, wire, depth)?;
            object.insert(name.to_owned(), list);
        }
        Type::List(item) => {
            if let Value::Array(list) = entry(object, name, Value::Array(Vec::new())) {
                push(list, name, item, wire, depth)?;
            }
        }
        Type::Map(item) => {
            let (key, value) = map_entry(name, item, wrapped, wire.bytes(name)?, depth)?;
            if let Value::Object(map) = entry(object, name, Value::Object(Map::new())) {
                map.insert(key, value);
            }
        }
        Type::Struct(schema) => {
            if let Value::Object(nested) = entry(object, name, Value::Object(Map::new())) {
                message(schema, schema, wire.bytes(name)?, nested, depth + 1)?;
            }
        }
        ty => {
            let value = value(name, ty, wire, depth)?;
            let omit_empty = schema.field(name).unwrap_or(field).omit_empty;
            if value.is_null() || (omit_empty && is_zero(&value)) {
                object.remove(name);
            } else {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn entry<'a>(object: &'a mut Map<String, Value>, name: &str, empty: Value) -> &'a mut Value {
    if !object.contains_key(name) {
        object.insert(name.to_owned(), empty);
    }
    &mut object[name]
}

/// A list's next item, or many where numbers are packed.
fn push(list: &mut Vec<Value>, name: &str, item: &Type, wire: Wire<'_>, depth: usize) -> Result<()> {
    let packed = match (item, wire) {
        (Type::Int32 | Type::Int64 | Type::Boolean | Type::Double, Wire::Bytes(packed)) => packed,
        _ => {
            list.push(value(name, item, wire, depth)?);
            return Ok(());
        }
    };
    let mut rest = Reader(packed);
    while !rest.0.is_empty() {
        let wire = match item {
            Type::Double => Wire::Fixed64(rest.fixed64()?),
            _ => Wire::Varint(rest.varint()?),
        };
        list.push(value(name, item, wire, depth)?);
    }
    Ok(())
}

/// A list that is a message of its own on the wire (`ExtraValue`, `Verbs`).
fn wrapped_list(name: &str, item: &Type, wire: Wire<'_>, depth: usize) -> Result<Value> {
    let mut list = Vec::new();
    for part in Reader(wire.bytes(name)?) {
        if let (1, wire) = part? {
            push(&mut list, name, item, wire, depth)?;
        }
    }
    Ok(Value::Array(list))
}

fn map_entry(name: &str, item: &Type, wrapped: bool, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut found) = (String::new(), None);
    for part in Reader(bytes) {
        match part? {
            (1, wire) => wire.text(name)?.clone_into(&mut key),
            (2, wire) => {
                found = Some(match item {
                    Type::List(inner) if wrapped => wrapped_list(name, inner, wire, depth)?,
                    item => value(name, item, wire, depth)?,
                });
            }
            _ => {}
        }
    }
    // Encoders may leave out an empty value.
    let empty = || match item {
        Type::String | Type::Bytes => "".into(),
        Type::Quantity => "0".into(),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Time | Type::MicroTime | Type::Any(_) => Value::Null,
        _ => Value::Object(Map::new()),
    };
    Ok((key, found.unwrap_or_else(empty)))
}

fn value(name: &str, ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::String => wire.text(name)?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes(name)?).into(),
        // Negative numbers are sent as 64 bits of two's complement; Go takes the low 32 of what is larger.
        Type::Int32 => (wire.number(name)? as u32).cast_signed().into(),
        Type::Int64 => wire.number(name)?.cast_signed().into(),
        Type::Boolean => (wire.number(name)? != 0).into(),
        Type::Double => double(name, wire.double(name)?)?,
        Type::Quantity => quantity(wire.bytes(name)?)?,
        Type::IntOrString => int_or_string(wire.bytes(name)?)?,
        Type::Time => timestamp(name, wire.bytes(name)?, false)?,
        Type::MicroTime => timestamp(name, wire.bytes(name)?, true)?,
        Type::Any(ty) | Type::Object(ty) => any(name, ty, wire.bytes(name)?, depth + 1)?,
        Type::Struct(schema) => {
            let mut object = Map::new();
            message(schema, schema, wire.bytes(name)?, &mut object, depth + 1)?;
            Value::Object(object)
        }
        // The wire has no list of lists.
        Type::List(_) | Type::Map(_) => Value::Null,
    })
}

/// JSON has no infinity, and Go writes whole numbers without a fraction.
fn double(name: &str, value: f64) -> Result<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Ok(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number).ok_or_else(|| Malformed::OutOfRange(name.to_owned()))
}

fn quantity(bytes: &[u8]) -> Result<Value> {
    let mut text = "0";
    for part in Reader(bytes) {
        if let (1, wire) = part? {
            text = wire.text("String_")?;
        }
    }
    Ok(text.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut int, mut text) = (false, 0, "");
    for part in Reader(bytes) {
        match part? {
            (1, wire) => is_text = wire.number("Type")? != 0,
            (2, wire) => int = (wire.number("IntVal")? as u32).cast_signed(),
            (3, wire) => text = wire.text("StrVal")?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { int.into() })
}

/// A time. The empty message is Go's zero time, which JSON has as null; only a `MicroTime` has a fraction.
fn timestamp(name: &str, bytes: &[u8], micro: bool) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for part in Reader(bytes) {
        match part? {
            (1, wire) => seconds = wire.number("Seconds")?.cast_signed(),
            (2, wire) => nanos = (wire.number("Nanos")? as u32).cast_signed(),
            _ => {}
        }
    }
    let nanos = if micro { nanos } else { 0 };
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed::OutOfRange(name.to_owned()))?;
    Ok(if micro { time::format_micro(at) } else { time::format_time(at) }.into())
}

/// What is any value, or any object, in JSON: JSON in a field, or one of apiextensions' alternatives.
fn any(name: &str, ty: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let Some(alternatives) = Alternatives::of(ty) else {
        let mut raw = &b""[..];
        for part in Reader(bytes) {
            if let (1, wire) = part? {
                raw = wire.bytes(name)?;
            }
        }
        return if raw.is_empty() { Ok(Value::Null) } else { json(name, raw) };
    };
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    for part in Reader(bytes) {
        let (number, wire) = part?;
        if number == alternatives.schema {
            let props = alternatives.props;
            message(props, props, wire.bytes(name)?, schema.get_or_insert_with(Map::new), depth)?;
        } else if number == alternatives.other {
            match alternatives.kind {
                Other::Allows => allows = wire.number(name)? != 0,
                Other::Texts => list.push(wire.text(name)?.into()),
                Other::Schemas => {
                    let mut one = Map::new();
                    message(alternatives.props, alternatives.props, wire.bytes(name)?, &mut one, depth)?;
                    list.push(Value::Object(one));
                }
            }
        }
    }
    Ok(match (schema, alternatives.kind) {
        _ if !list.is_empty() => Value::Array(list),
        (Some(schema), _) => Value::Object(schema),
        (None, Other::Allows) => allows.into(),
        (None, _) => Value::Null,
    })
}

fn json(name: &str, raw: &[u8]) -> Result<Value> {
    let read = crate::decode::parse(raw, crate::decode::Media::Json);
    read.map_err(|status| Malformed::Json { field: name.to_owned(), error: status.message })
}
