//! JSON and YAML (and protobuf that says what it is) into a tree, with a limit on depth, noting duplicate keys.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::trail::Trail;
use super::{Complaint, Media};
use crate::MAX_DEPTH;
use crate::status::{Result, Status};

/// YAML documents larger than what a request may hold are cut off elsewhere; these bound what a small one can expand to.
const MAX_YAML_NODES: usize = 1_000_000;
/// Without optimisation the YAML reader's frames take 20 KB a level.
pub(super) const MAX_YAML_DEPTH: usize = if cfg!(debug_assertions) { 64 } else { MAX_DEPTH };
const MAX_YAML_ALIASES: usize = 1_000;

/// Decodes a body without a schema; of a duplicate field, the last wins.
pub fn parse(body: &[u8], media: Media) -> Result<Value> {
    parse_noting_duplicates(body, media).map(|(value, _)| value)
}

pub(super) fn parse_noting_duplicates(body: &[u8], media: Media) -> Result<(Value, Vec<Complaint>)> {
    let context = Context { media, duplicates: RefCell::default(), order: None };
    let value = read(body, &context)?;
    Ok((value, context.duplicates.into_inner()))
}

/// The paths of all fields as the body has them: to complain in that order. Only for bodies that could be read.
pub(super) fn fields_in_order(body: &[u8], media: Media) -> Vec<String> {
    let context = Context { media, duplicates: RefCell::default(), order: Some(RefCell::default()) };
    let _ = read(body, &context);
    context.order.map(RefCell::into_inner).unwrap_or_default()
}

fn read(body: &[u8], context: &Context) -> Result<Value> {
    let media = context.media;
    let seed = Seed { context, trail: &Trail::Root, depth: 0 };
    match media {
        Media::Json => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let value = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
            value.map_err(|error| unreadable("json parse error", &error))
        }
        Media::Yaml => {
            let text = std::str::from_utf8(body).map_err(|error| unreadable("yaml parse error", &error))?;
            let value =
                serde_saphyr::with_deserializer_from_str_with_options(first_document(text), yaml_options(), |yaml| {
                    seed.deserialize(yaml)
                });
            value.map_err(|error| unreadable("yaml parse error", &error))
        }
        Media::Protobuf => {
            crate::protobuf::decode(body, None).map_err(|error| unreadable("protobuf decode error", &error))
        }
    }
}

fn unreadable(what: &str, error: &dyn fmt::Display) -> Status {
    Status::bad_request(format!("the object provided is unrecognized: couldn't get version/kind; {what}: {error}"))
}

/// What comes before a second document: that one is nobody's, as upstream has it. Its marks stand at the beginning of a line, and
/// no text within a document may have them there.
fn first_document(text: &str) -> &str {
    let (mut begun, mut at) = (false, 0);
    for line in text.split_inclusive('\n') {
        let marks =
            |mark: &str| line.strip_prefix(mark).is_some_and(|rest| rest.trim_start() != rest || rest.is_empty());
        if begun && (marks("---") || marks("...")) {
            return &text[..at];
        }
        let idle = line.trim().is_empty() || line.starts_with(['#', '%', '\u{feff}']);
        begun |= !idle;
        at += line.len();
    }
    text
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_YAML_DEPTH,
            max_documents: 1,
            max_nodes: MAX_YAML_NODES,
            max_aliases: MAX_YAML_ALIASES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

struct Context {
    media: Media,
    duplicates: RefCell<Vec<Complaint>>,
    order: Option<RefCell<Vec<String>>>,
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    context: &'a Context,
    trail: &'a Trail<'a>,
    depth: usize,
}

impl<'a> Seed<'a> {
    fn deeper<'b>(&self, trail: &'b Trail<'b>) -> Seed<'b>
    where
        'a: 'b,
    {
        Seed { context: self.context, trail, depth: self.depth + 1 }
    }

    fn enter<E: Error>(&self) -> std::result::Result<(), E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels at {}", self.trail.path())));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> std::result::Result<Value, E> {
        // YAML's floats become JSON by way of their shortest text: 3.0 is 3.
        if self.context.media == Media::Yaml && value.fract() == 0.0 && value.abs() < 1e15 {
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("numbers must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        self.enter()?;
        let mut items = Vec::new();
        loop {
            let trail = Trail::Index(self.trail, items.len());
            let Some(item) = list.next_element_seed(self.deeper(&trail))? else { break };
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        self.enter()?;
        let mut map = Map::new();
        while let Some((key, line)) = self.next_key(&mut entries)? {
            let trail = Trail::Field(self.trail, &key);
            if let Some(order) = &self.context.order {
                order.borrow_mut().push(trail.path());
            }
            let value = entries.next_value_seed(self.deeper(&trail))?;
            match map.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) => {
                    let key = entry.key();
                    let path = Trail::Field(self.trail, key).path();
                    let text = match line {
                        0 => format!("duplicate field \"{path}\""),
                        line => format!("yaml: unmarshal errors:\n  line {line}: key \"{key}\" already set in map"),
                    };
                    self.context.duplicates.borrow_mut().push(Complaint { path, text });
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

impl Seed<'_> {
    /// The next key, and its line where the format has lines worth telling.
    fn next_key<'de, A: MapAccess<'de>>(
        &self,
        entries: &mut A,
    ) -> std::result::Result<Option<(String, u64)>, A::Error> {
        match self.context.media {
            Media::Json | Media::Protobuf => Ok(entries.next_key::<String>()?.map(|key| (key, 0))),
            Media::Yaml => {
                let key = entries.next_key::<serde_saphyr::Spanned<String>>()?;
                Ok(key.map(|key| (key.value, key.referenced.line())))
            }
        }
    }
}
