//! From JSON, as bytes or as a tree, to the wire.

use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::wire::wire_type::FIXED64;
use super::wire::{put_bytes, put_nested, put_number, put_tag, put_varint, varint_len};
use super::{Alternatives, MAGIC, Other, unknown};
use crate::schema::{Field, Schema, Type};
use crate::{MAX_DEPTH, time};

/// JSON that does not fit its schema.
#[derive(Debug, thiserror::Error)]
#[error("it has no protobuf form: {0}")]
pub struct EncodeError(#[from] serde_json::Error);

/// A kind that has a form on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    api_version: &'a str,
    kind: &'a str,
    schema: &'static Schema,
}

impl<'a> Kind<'a> {
    /// The kind of these names; `None` where it has no form on the wire.
    pub fn of(api_version: &'a str, kind: &'a str) -> Option<Self> {
        Some(Self { api_version, kind, schema: super::schema(api_version, kind)? })
    }

    /// The kind that an object says it is.
    pub fn of_object(object: &'a Value) -> Option<Self> {
        let text = |name| object.get(name).and_then(Value::as_str);
        Self::of(text("apiVersion")?, text("kind")?)
    }

    /// Appends the bare message of an object's JSON.
    pub fn message(&self, json: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut json = serde_json::Deserializer::from_slice(json);
        Ok(Message { schema: self.schema, out, depth: 0 }.deserialize(&mut json)?)
    }

    /// Appends the bare message of an object.
    pub fn message_of(&self, object: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(Message { schema: self.schema, out, depth: 0 }.deserialize(object)?)
    }

    /// An object's JSON, enveloped.
    pub fn object(&self, json: &[u8]) -> Result<Vec<u8>, EncodeError> {
        self.envelope(json.len(), |out| self.message(json, out))
    }

    /// An object, enveloped.
    pub fn value(&self, object: &Value) -> Result<Vec<u8>, EncodeError> {
        self.envelope(512, |out| self.message_of(object, out))
    }

    fn envelope(
        &self,
        size: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(size);
        self.head(&mut out);
        put_nested(&mut out, unknown::RAW, write)?;
        out.extend_from_slice(TAIL);
        Ok(out)
    }

    fn head(&self, out: &mut Vec<u8>) {
        let mut meta = Vec::with_capacity(64);
        put_bytes(&mut meta, unknown::API_VERSION, self.api_version.as_bytes());
        put_bytes(&mut meta, unknown::KIND, self.kind.as_bytes());
        out.extend_from_slice(MAGIC);
        put_bytes(out, unknown::TYPE_META, &meta);
    }
}

/// What follows an enveloped message: no encoding and no content type, said as Go says it.
pub const TAIL: &[u8] = &[(unknown::CONTENT_ENCODING << 3 | 2) as u8, 0, (unknown::CONTENT_TYPE << 3 | 2) as u8, 0];

/// The fields that all lists have.
const LIST_METADATA: u32 = 1;
const LIST_ITEMS: u32 = 2;

/// The beginning of a list whose items take `items` bytes (the sum of [`list_item_len`]); then come [`list_item`]s and
/// [`TAIL`].
pub fn list_head(kind: Kind<'_>, metadata: &Value, items: usize) -> Result<Vec<u8>, EncodeError> {
    let mut list = Vec::new();
    let schema = match kind.schema.field("metadata").map(|field| &field.ty) {
        Some(Type::Struct(schema)) => schema.get(),
        _ => return Err(EncodeError(serde_json::Error::custom(format_args!("{} is no list", kind.kind)))),
    };
    put_nested(&mut list, LIST_METADATA, |out| Message { schema, out, depth: 1 }.deserialize(metadata))?;
    let mut out = Vec::with_capacity(128);
    kind.head(&mut out);
    put_tag(&mut out, unknown::RAW, super::wire::wire_type::BYTES);
    put_varint(&mut out, (list.len() + items) as u64);
    out.extend_from_slice(&list);
    Ok(out)
}

/// The bytes that an item takes in a list.
pub fn list_item_len(message: usize) -> usize {
    1 + varint_len(message as u64) + message
}

/// Appends an item, a bare message, to a list.
pub fn list_item(message: &[u8], out: &mut Vec<u8>) {
    put_bytes(out, LIST_ITEMS, message);
}

/// Appends a `metav1.WatchEvent` with an enveloped object, after its length in four bytes, the highest first.
pub fn watch_event(ty: &str, object: &[u8], out: &mut Vec<u8>) {
    let raw = list_item_len(object.len());
    let length = 1 + varint_len(ty.len() as u64) + ty.len() + list_item_len(raw);
    out.reserve(4 + length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    put_bytes(out, 1, ty.as_bytes());
    put_tag(out, 2, super::wire::wire_type::BYTES);
    put_varint(out, raw as u64);
    put_bytes(out, 1, object);
}

/// Writes a JSON object as a message. JSON has fields by name and all in one, the wire by number and some nested: each field is
/// written where it comes, and put where it belongs at the end.
struct Message<'a> {
    schema: &'a Schema,
    out: &'a mut Vec<u8>,
    depth: usize,
}

/// A written field: the numbers that lead to it, outermost first, the last ones 0; and where it is.
#[derive(Clone)]
struct Part {
    route: Route,
    at: Range<usize>,
}

/// Three is what the API needs: `NamedRuleWithOperations.ruleWithOperations.rule`.
type Route = [u32; 3];

/// The way to a JSON field, and the field as the wire's message has it.
fn route<'a>(schema: &'a Schema, name: &str) -> Option<(Route, &'a Field)> {
    let direct = schema.field(name).filter(|field| field.proto != 0);
    if let Some(field) = direct {
        return Some(([field.proto, 0, 0], field));
    }
    schema.inline.iter().find_map(|inline| {
        let ([first, second, _], field) = route(&inline.message, name)?;
        Some(([inline.proto, first, second], field))
    })
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of type {}", self.schema.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth > MAX_DEPTH {
            return Err(A::Error::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (start, mut parts) = (self.out.len(), Vec::with_capacity(self.schema.fields.len()));
        while let Some(name) = map.next_key_seed(Name)? {
            let Some((route, field)) = route(self.schema, name.as_ref()) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let number = route.iter().rev().copied().find(|number| *number != 0).unwrap_or_default();
            let from = self.out.len();
            let place = Place { number, wrapped: field.proto_type.is_some(), element: false };
            map.next_value_seed(FieldSeed { place, ty: &field.ty, out: self.out, depth: self.depth + 1 })?;
            parts.push(Part { route, at: from..self.out.len() });
        }
        let in_place = parts.is_sorted_by_key(|part| part.route) && parts.iter().all(|part| part.route[1] == 0);
        if !in_place {
            parts.sort_by_key(|part| part.route);
            let written = self.out[start..].to_vec();
            self.out.truncate(start);
            assemble(&parts, 0, start, &written, self.out);
        }
        Ok(())
    }
}

/// Puts fields in their order and into the messages that JSON does not have.
fn assemble(parts: &[Part], level: usize, start: usize, written: &[u8], out: &mut Vec<u8>) {
    let nested = |part: &Part| part.route.get(level + 1).is_some_and(|number| *number != 0);
    for parts in parts.chunk_by(|a, b| nested(a) && nested(b) && a.route[level] == b.route[level]) {
        let first = &parts[0];
        if nested(first) {
            let write = |out: &mut Vec<u8>| {
                assemble(parts, level + 1, start, written, out);
                Ok::<_, std::convert::Infallible>(())
            };
            let Ok(()) = put_nested(out, first.route[level], write);
        } else {
            out.extend_from_slice(&written[first.at.start - start..first.at.end - start]);
        }
    }
}

/// A key, borrowed where it can be.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = std::borrow::Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = std::borrow::Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(name.into())
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(name.to_owned().into())
    }
}

/// Where a value goes.
#[derive(Clone, Copy)]
struct Place {
    number: u32,
    /// Whether a list is a message of its own.
    wrapped: bool,
    /// Whether it is one of a list or map: null is the type's zero value there, and nothing elsewhere.
    element: bool,
}

/// Writes one value.
struct FieldSeed<'a> {
    place: Place,
    ty: &'a Type,
    out: &'a mut Vec<u8>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.ty {
            Type::Any(ty) | Type::Object(ty) => match Alternatives::of(ty) {
                Some(alternatives) => self.alternative(&alternatives, &Value::deserialize(json)?),
                None => self.raw(<Box<RawValue>>::deserialize(json)?.get()),
            },
            _ => json.deserialize_any(self),
        }
    }
}

impl FieldSeed<'_> {
    /// JSON as it is.
    fn raw<E: Error>(self, json: &str) -> Result<(), E> {
        if json != "null" {
            let write = |out: &mut Vec<u8>| {
                put_bytes(out, 1, json.as_bytes());
                Ok(())
            };
            return put_nested(self.out, self.place.number, write);
        }
        self.nothing();
        Ok(())
    }

    /// One of two things, each with its field.
    fn alternative<E: Error>(self, alternatives: &Alternatives, value: &Value) -> Result<(), E> {
        let Alternatives { schema: number, other, kind, props } = *alternatives;
        if value.is_null() {
            self.nothing();
            return Ok(());
        }
        let depth = self.depth + 1;
        let props = |number, value: &Value, out: &mut Vec<u8>| {
            put_nested(out, number, |out| Message { schema: props, out, depth }.deserialize(value)).map_err(E::custom)
        };
        put_nested(self.out, self.place.number, |out| {
            match (value, kind) {
                (Value::Bool(allows), Other::Allows) => put_number(out, other, u64::from(*allows)),
                (Value::Array(list), Other::Texts | Other::Schemas) => {
                    for item in list {
                        match item {
                            Value::String(text) => put_bytes(out, other, text.as_bytes()),
                            item => props(other, item, out)?,
                        }
                    }
                }
                (value, kind) => {
                    if matches!(kind, Other::Allows) {
                        put_number(out, other, 1);
                    }
                    props(number, value, out)?;
                }
            }
            Ok(())
        })
    }

    /// Null: the zero value where there must be one.
    fn nothing(self) {
        if !self.place.element {
            return;
        }
        match self.ty {
            Type::Int32 | Type::Int64 | Type::Boolean => put_number(self.out, self.place.number, 0),
            Type::Double => self.double(0.0),
            _ => put_bytes(self.out, self.place.number, b""),
        }
    }

    fn double(self, value: f64) {
        put_tag(self.out, self.place.number, FIXED64);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    fn integer<E: Error>(self, value: i64) -> Result<(), E> {
        let number = self.place.number;
        match self.ty {
            Type::Int32 if i32::try_from(value).is_err() => {
                return Err(E::custom(format_args!("{value} does not fit 32 bits")));
            }
            Type::Int32 | Type::Int64 => put_number(self.out, number, value.cast_unsigned()),
            Type::Double => self.double(value as f64),
            Type::IntOrString if i32::try_from(value).is_ok() => self.int_or_string(0, value, ""),
            Type::Quantity => self.quantity(&value.to_string()),
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn int_or_string(self, ty: u64, int: i64, text: &str) {
        let write = |out: &mut Vec<u8>| {
            put_number(out, 1, ty);
            put_number(out, 2, int.cast_unsigned());
            put_bytes(out, 3, text.as_bytes());
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = put_nested(self.out, self.place.number, write);
    }

    fn quantity(self, text: &str) {
        let write = |out: &mut Vec<u8>| {
            put_bytes(out, 1, text.as_bytes());
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = put_nested(self.out, self.place.number, write);
    }

    fn time<E: Error>(self, text: &str) -> Result<(), E> {
        let at = time::parse(text).ok_or_else(|| E::custom(format_args!("{text:?} is no time")))?;
        // Before the epoch the fraction is counted from the second before, as Go does.
        let nanos = at.subsec_nanosecond();
        let (seconds, nanos) =
            if nanos < 0 { (at.as_second() - 1, nanos + 1_000_000_000) } else { (at.as_second(), nanos) };
        let nanos = if matches!(self.ty, Type::MicroTime) { nanos / 1000 * 1000 } else { 0 };
        put_nested(self.out, self.place.number, |out| {
            put_number(out, 1, seconds.cast_unsigned());
            put_number(out, 2, i64::from(nanos).cast_unsigned());
            Ok(())
        })
    }

    fn wrong<E: Error>(&self, found: &str) -> E {
        E::custom(format_args!("{found} where the type is {}", self.ty.go_name()))
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ty.go_name())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.nothing();
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.ty {
            Type::Boolean => put_number(self.out, self.place.number, u64::from(value)),
            _ => return Err(self.wrong("a boolean")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match (i64::try_from(value), self.ty) {
            (Ok(value), _) => self.integer(value)?,
            (Err(_), Type::Double) => self.double(value as f64),
            (Err(_), _) => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.ty {
            Type::Double => self.double(value),
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.ty {
            Type::String => put_bytes(self.out, self.place.number, text.as_bytes()),
            Type::Quantity => self.quantity(text),
            Type::IntOrString => self.int_or_string(1, 0, text),
            Type::Time | Type::MicroTime => return self.time(text),
            Type::Bytes => {
                let bytes = STANDARD.decode(text).map_err(E::custom)?;
                put_bytes(self.out, self.place.number, &bytes);
            }
            _ => return Err(self.wrong("text")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Type::List(item) = self.ty else { return Err(self.wrong("a list")) };
        let mut items = |number: u32, depth: usize, out: &mut Vec<u8>| {
            let place = Place { number, wrapped: false, element: true };
            while list.next_element_seed(FieldSeed { place, ty: item, out, depth })?.is_some() {}
            Ok(())
        };
        if self.place.wrapped {
            return put_nested(self.out, self.place.number, |out| items(1, self.depth, out));
        }
        items(self.place.number, self.depth, self.out)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Place { number, wrapped, .. } = self.place;
        match self.ty {
            Type::Struct(schema) => put_nested(self.out, number, |out| {
                Message { schema: schema.get(), out, depth: self.depth }.visit_map(map)
            }),
            Type::Map(value) => {
                let place = Place { number: 2, wrapped, element: true };
                while let Some(key) = map.next_key_seed(Name)? {
                    put_nested(self.out, number, |out| {
                        put_bytes(out, 1, key.as_bytes());
                        map.next_value_seed(FieldSeed { place, ty: value, out, depth: self.depth + 1 })
                    })?;
                }
                Ok(())
            }
            _ => Err(self.wrong("an object")),
        }
    }
}
