//! Request bodies in protobuf, as kubectl 1.33 and client-go send them for built-in kinds, turned into JSON by the schema.
//!
//! The wire says less than JSON: a scalar that is no pointer in Go is always sent, so a zero may mean "absent". Zeros are
//! left out, but where Go has a pointer and zero is a choice ([`MEANT_ZERO`]).

use apimachinery::MAX_DEPTH;
use apimachinery::gvk::{Gvk, parse_api_version};
use apimachinery::schema::{Field, Schema, Type};
use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Optional fields whose zero or empty value is not the same as their absence.
const MEANT_ZERO: [&str; 31] = [
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completions",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "leaseTransitions",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "parallelism",
    "partition",
    "priority",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsUser",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "volumeAttributesClassName",
    "weight",
];

/// The JSON form of an enveloped object.
pub(crate) fn to_json(body: &[u8]) -> Result<Bytes, Status> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| invalid("it does not begin with the magic number"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for part in Reader(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Reader(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = parse_api_version(&api_version).ok_or_else(|| invalid("its apiVersion is malformed"))?;
    let gvk = Gvk { group: group.to_owned(), version: version.to_owned(), kind: kind.clone() };
    let schema =
        Schema::of(&gvk).or_else(|| (kind == "DeleteOptions").then(|| Schema::named(DELETE_OPTIONS)).flatten());
    let schema = schema.ok_or_else(|| {
        Status::unsupported_media_type(format!(
            "{kind} in {api_version} cannot be sent as {MEDIA_TYPE}; send application/json"
        ))
    })?;
    let mut object = message(schema, raw, 0)?;
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object).to_string().into())
}

fn message(schema: &Schema, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Status> {
    let mut object = Map::new();
    if depth > MAX_DEPTH {
        return Err(invalid("it is nested too deeply"));
    }
    for part in Reader(bytes) {
        let (number, wire) = part?;
        if let Some(field) = schema.fields.iter().find(|field| field.proto == number) {
            put(&mut object, field, field, wire, depth)?;
        } else if let Some(inline) = schema.inline.iter().find(|inline| inline.proto == number) {
            let Some(nested) = Schema::named(&inline.message) else { continue };
            flatten(&mut object, nested, schema, wire.bytes()?, depth + 1)?;
        }
    }
    Ok(object)
}

/// A message whose fields are the parent's in JSON: it knows the numbers, the parent the types.
fn flatten(
    object: &mut Map<String, Value>,
    nested: &Schema,
    parent: &Schema,
    bytes: &[u8],
    depth: usize,
) -> Result<(), Status> {
    if depth > MAX_DEPTH {
        return Err(invalid("it is nested too deeply"));
    }
    for part in Reader(bytes) {
        let (number, wire) = part?;
        if let Some(field) = nested.fields.iter().find(|field| field.proto == number) {
            put(object, field, parent.field(&field.name).unwrap_or(field), wire, depth)?;
        } else if let Some(inline) = nested.inline.iter().find(|inline| inline.proto == number)
            && let Some(inner) = Schema::named(&inline.message)
        {
            flatten(object, inner, parent, wire.bytes()?, depth + 1)?;
        }
    }
    Ok(())
}

fn put(
    object: &mut Map<String, Value>,
    wire_field: &Field,
    field: &Field,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), Status> {
    let name = field.name.to_string();
    match &field.ty {
        // `map<string, ExtraValue>` and its like: the list is a message of its own.
        Type::List(item) if wire_field.proto_type.is_some() => {
            object.insert(name, wrapped_list(item, wire.bytes()?, depth)?);
        }
        Type::List(item) => {
            let value = value(item, wire, depth)?;
            if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
                list.push(value);
            }
        }
        Type::Map(item) => {
            let (key, value) = map_entry(item, wire_field.proto_type.is_some(), wire.bytes()?, depth)?;
            if let Value::Object(map) = object.entry(name).or_insert_with(|| json!({})) {
                map.insert(key, value);
            }
        }
        ty => {
            let value = value(ty, wire, depth)?;
            let zero = value.is_null() || value == json!("") || value == json!(0);
            if !zero || (!value.is_null() && MEANT_ZERO.contains(&field.name.as_ref())) {
                object.insert(name, value);
            }
        }
    }
    Ok(())
}

fn wrapped_list(item: &Type, bytes: &[u8], depth: usize) -> Result<Value, Status> {
    let parts = Reader(bytes).map(|part| value(item, part?.1, depth));
    parts.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn map_entry(item: &Type, wrapped: bool, bytes: &[u8], depth: usize) -> Result<(String, Value), Status> {
    let (mut key, mut found) = (String::new(), None);
    for part in Reader(bytes) {
        match part? {
            (1, wire) => key = string(wire.bytes()?)?,
            (2, wire) => {
                found = Some(match item {
                    Type::List(inner) if wrapped => wrapped_list(inner, wire.bytes()?, depth)?,
                    item => value(item, wire, depth)?,
                });
            }
            _ => {}
        }
    }
    // proto3 encoders leave out an empty value.
    let empty = match item {
        Type::String | Type::Bytes | Type::Quantity => json!(""),
        Type::List(_) => json!([]),
        _ => json!({}),
    };
    Ok((key, found.unwrap_or(empty)))
}

fn value(ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, Status> {
    Ok(match ty {
        Type::String => Value::String(string(wire.bytes()?)?),
        Type::Bytes => Value::String(STANDARD.encode(wire.bytes()?)),
        // Negative numbers are sent as 64 bits of two's complement.
        Type::Int32 | Type::Int64 => json!(wire.number()?.cast_signed()),
        Type::Boolean => json!(wire.number()? != 0),
        Type::Double => json!(wire.double()?),
        Type::Quantity => first_string(wire.bytes()?, 1)?,
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Time => time(wire.bytes()?, false)?,
        Type::MicroTime => time(wire.bytes()?, true)?,
        Type::Any(_) | Type::Object(_) => raw_json(wire.bytes()?)?,
        Type::Struct(schema) => Value::Object(message(schema, wire.bytes()?, depth + 1)?),
        Type::List(_) | Type::Map(_) => return Err(invalid("it has a list in a list")),
    })
}

fn first_string(bytes: &[u8], wanted: u32) -> Result<Value, Status> {
    for part in Reader(bytes) {
        let (number, wire) = part?;
        if number == wanted {
            return string(wire.bytes()?).map(Value::String);
        }
    }
    Ok(json!("0"))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Status> {
    let (mut is_string, mut int, mut text) = (false, 0, String::new());
    for part in Reader(bytes) {
        match part? {
            (1, wire) => is_string = wire.number()? == 1,
            (2, wire) => int = wire.number()?.cast_signed(),
            (3, wire) => text = string(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_string { json!(text) } else { json!(int) })
}

/// A time; the empty message is Go's zero time, which JSON has as null.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Status> {
    let (mut seconds, mut nanos) = (None, 0);
    for part in Reader(bytes) {
        match part? {
            (1, wire) => seconds = Some(wire.number()?.cast_signed()),
            (2, wire) => nanos = wire.number()?.cast_signed(),
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let nanos = i32::try_from(nanos).map_err(|_| invalid("it has a time out of range"))?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| invalid("it has a time out of range"))?;
    Ok(json!(if micro { format!("{time:.6}") } else { format!("{time:.0}") }))
}

fn raw_json(bytes: &[u8]) -> Result<Value, Status> {
    for part in Reader(bytes) {
        if let (1, wire) = part? {
            return serde_json::from_slice(wire.bytes()?).map_err(|error| invalid(&format!("embedded JSON: {error}")));
        }
    }
    Ok(Value::Null)
}

fn string(bytes: &[u8]) -> Result<String, Status> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| invalid("it has a string that is not UTF-8"))
}

fn invalid(problem: &str) -> Status {
    Status::bad_request(format!("the body is not a valid protobuf object: {problem}"))
}

/// One field's value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], Status> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(invalid("a number stands where text or a message belongs")),
        }
    }

    fn number(self) -> Result<u64, Status> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(invalid("no number stands where one belongs")),
        }
    }

    fn double(self) -> Result<f64, Status> {
        match self {
            Self::Fixed(bits) => Ok(f64::from_bits(bits)),
            _ => Err(invalid("no number stands where one belongs")),
        }
    }
}

/// The fields of a message, in order. Ends after the first error.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Status> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| invalid("it is cut short"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(invalid("it has a number of more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Status> {
        let cut = || invalid("it is cut short");
        let length = usize::try_from(length).map_err(|_| cut())?;
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), Status> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| invalid("it has a field number out of range"))?;
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(little(self.take(4)?)),
            _ => return Err(invalid("it has an unknown wire type")),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with bytes.
    fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [part(1, api_version.as_bytes()), part(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), part(1, &meta), part(2, raw)].concat()
    }

    #[test]
    fn objects_become_json() {
        let time = part(8, &[8, 1]);
        let meta = [part(1, b"a"), part(2, b""), time, part(11, &[part(1, b"k"), part(2, b"v")].concat())].concat();
        let data = [part(1, b"x"), part(2, b"yz")].concat();
        let secret = [part(1, &meta), part(2, &data), part(3, b"Opaque")].concat();
        let volume = [part(1, b"v"), part(2, &part(2, b""))].concat();
        let spec = [part(1, &volume), part(2, &part(1, b"c")), vec![4 << 3, 0]].concat();
        let cases = [
            (
                envelope("v1", "Secret", &secret),
                json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"x": "eXo="},
                    "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:01Z", "labels": {"k": "v"}}}),
            ),
            (
                envelope("v1", "Pod", &part(2, &spec)),
                json!({"apiVersion": "v1", "kind": "Pod", "spec": {"terminationGracePeriodSeconds": 0,
                    "volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c"}]}}),
            ),
            (
                envelope("v1", "DeleteOptions", &[8, 0]),
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}),
            ),
        ];
        for (body, expected) in cases {
            let found: Value = serde_json::from_slice(&to_json(&body).unwrap()).unwrap();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn malformed_bodies_are_bad_requests() {
        let cut = envelope("v1", "Secret", &[10, 9, 1]);
        for body in [&b"{}"[..], b"k8s\0\xff", b"k8s\0\x0a\x7f", &cut] {
            assert_eq!(to_json(body).unwrap_err().code, 400, "{body:?}");
        }
        assert_eq!(to_json(&envelope("example.com/v1", "Widget", b"")).unwrap_err().code, 415);
    }
}
