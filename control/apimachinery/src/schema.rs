//! The schema of a kind: its fields, their types, and how they merge. Built-in kinds come from the compact facts, lazily, a type at
//! a time; custom resources build the same types at run time.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::facts;
use crate::gvk::Gvk;

/// Text that is part of the program for built-in types and owned for custom ones.
pub type Text = Cow<'static, str>;

/// An object type: a set of fields.
#[derive(Debug, Default)]
pub struct Schema {
    /// The type's name, such as `io.k8s.api.core.v1.PodSpec`.
    pub name: Text,
    /// The fields, sorted by name.
    pub fields: Box<[Field]>,
    /// Whether the object is replaced as a whole when merged (server-side apply).
    pub atomic: bool,
    /// Whether fields that are not in `fields` are kept (custom resources).
    pub preserve_unknown: bool,
    /// Groups of fields of which one may be set.
    pub unions: Box<[Union]>,
    /// Messages that the protobuf wire nests where JSON has their fields inline.
    pub inline: Box<[Inline]>,
    /// Where the fields' numbers on the protobuf wire lead to: by number, see [`numbers`].
    pub(crate) numbers: Box<[u8]>,
}

/// What a number on the protobuf wire stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbered<'a> {
    /// A field.
    Field(&'a Field),
    /// A message of fields that are the parent's in JSON.
    Inline(&'a Inline),
}

/// In the table of numbers, the first of the inlined messages; the fields count from 1.
const FIRST_INLINE: usize = 128;

/// The table of numbers: 0 for none, then the fields, then the inlined messages.
pub(crate) fn numbers(fields: &[Field], inline: &[Inline]) -> Box<[u8]> {
    let fields = fields.iter().enumerate().map(|(index, field)| (field.proto, index + 1));
    let inlined = inline.iter().enumerate().map(|(index, inline)| (inline.proto, FIRST_INLINE + index));
    let mut table = Vec::new();
    for (number, entry) in fields.chain(inlined).filter(|(number, _)| *number != 0) {
        let at = number as usize;
        table.resize(table.len().max(at + 1), 0);
        table[at] = u8::try_from(entry).expect("no type has so many fields");
    }
    table.into()
}

/// A group of fields of which one may be set.
#[derive(Clone, Debug, Default)]
pub struct Union {
    /// The field that says which one is set, where there is one.
    pub discriminator: Option<Text>,
    /// Field and the discriminator's value for it.
    pub members: Box<[(Text, Text)]>,
}

/// A message that the protobuf wire nests where JSON has its fields inline.
#[derive(Clone, Debug)]
pub struct Inline {
    /// The Go field's name.
    pub name: Text,
    /// The protobuf field's number.
    pub proto: u32,
    /// The message's type.
    pub message: SchemaRef,
}

/// A field of an object type.
#[derive(Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: Text,
    /// The type.
    pub ty: Type,
    /// Whether it must be set.
    pub required: bool,
    /// Whether what is empty (a list or map, text, zero, false) is the same as nothing, and left out (Go's `omitempty`).
    pub omit_empty: bool,
    /// An optional scalar, or a status, whose zero differs from its absence: a pointer in Go.
    pub zero_is_value: bool,
    /// How server-side apply merges a list.
    pub list_type: ListType,
    /// Whether server-side apply replaces a map or object as a whole.
    pub atomic: bool,
    /// Strategic merge patch: lists merge, by key where there is one.
    pub patch_merge: bool,
    /// Strategic merge patch: a patch names the keys to keep.
    pub patch_retain_keys: bool,
    /// The key that a strategic merge patch merges a list by.
    pub patch_merge_key: Option<Text>,
    /// The keys of a list of type `map`.
    pub list_map_keys: Box<[Text]>,
    /// The values allowed, where they are closed.
    pub enum_values: Box<[Text]>,
    /// The default, where the type declares one.
    pub default: Option<Box<Value>>,
    /// The protobuf field's number; 0 where it has none of its own.
    pub proto: u32,
    /// The protobuf field's type where it does not follow from `ty`.
    pub proto_type: Option<Text>,
}

/// How server-side apply merges a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Not stated, which means atomic.
    #[default]
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects by key.
    Map,
}

/// The type of a field, an item or a value.
#[derive(Clone, Debug)]
pub enum Type {
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Double,
    /// True or false.
    Boolean,
    /// A [`crate::quantity::Quantity`]: text, or a number as its text.
    Quantity,
    /// A whole number or text.
    IntOrString,
    /// A time with seconds.
    Time,
    /// A time with microseconds.
    MicroTime,
    /// Any JSON value; the name tells which type it is.
    Any(Text),
    /// An object of any content; the name tells which type it is.
    Object(Text),
    /// A list.
    List(Arc<Type>),
    /// A map by text.
    Map(Arc<Type>),
    /// An object with fields.
    Struct(SchemaRef),
}

/// A reference to an object type, resolved when it is used (types may refer to themselves).
#[derive(Clone, Debug)]
pub enum SchemaRef {
    /// A built-in type by its number in the facts.
    Fact(u16),
    /// A type built at run time.
    Owned(Arc<Schema>),
}

impl SchemaRef {
    /// The type.
    pub fn get(&self) -> &Schema {
        match self {
            Self::Fact(number) => facts::schema(*number),
            Self::Owned(schema) => schema,
        }
    }
}

impl std::ops::Deref for SchemaRef {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        self.get()
    }
}

impl Schema {
    /// The schema of a built-in kind.
    pub fn of(gvk: &Gvk) -> Option<&'static Self> {
        facts::kind(&gvk.group, &gvk.version, &gvk.kind)
    }

    /// The schema of a built-in type by its full name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn named(name: &str) -> Option<&'static Self> {
        facts::named(name)
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok().map(|index| &self.fields[index])
    }

    /// An object of this type in which nothing was set: what Go writes of it all the same.
    pub fn zero(&self) -> Value {
        let zero = |field: &Field| match field.ty {
            _ if field.omit_empty || field.zero_is_value => None,
            Type::String => Some(Value::from("")),
            Type::Int32 | Type::Int64 => Some(Value::from(0)),
            Type::Boolean => Some(Value::from(false)),
            _ => None,
        };
        self.fields.iter().filter_map(|field| Some((field.name.to_string(), zero(field)?))).collect()
    }

    /// What a number on the protobuf wire stands for.
    pub(crate) fn numbered(&self, number: u32) -> Option<Numbered<'_>> {
        let entry = usize::from(*self.numbers.get(number as usize)?);
        match entry.checked_sub(FIRST_INLINE) {
            Some(inline) => self.inline.get(inline).map(Numbered::Inline),
            None => self.fields.get(entry.checked_sub(1)?).map(Numbered::Field),
        }
    }

    /// The name as Go writes it: `v1.PodSpec`.
    pub fn go_name(&self) -> &str {
        go_name(&self.name)
    }

    /// The part of the name before the last: `v1`.
    pub fn version(&self) -> &str {
        self.name.rsplit('.').nth(1).unwrap_or_default()
    }

    /// The last part of the name: `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

fn go_name(name: &str) -> &str {
    name.rmatch_indices('.').nth(1).map_or(name, |(at, _)| &name[at + 1..])
}

impl Field {
    /// A field of this name and type, with no other facts.
    pub fn new(name: Text, ty: Type) -> Self {
        Self {
            name,
            ty,
            required: false,
            omit_empty: false,
            zero_is_value: false,
            list_type: ListType::Unset,
            atomic: false,
            patch_merge: false,
            patch_retain_keys: false,
            patch_merge_key: None,
            list_map_keys: Box::default(),
            enum_values: Box::default(),
            default: None,
            proto: 0,
            proto_type: None,
        }
    }
}

impl Type {
    /// The type as Go writes it: `[]v1.Container`.
    pub fn go_name(&self) -> String {
        match self {
            Self::String => "string".into(),
            Self::Bytes => "[]uint8".into(),
            Self::Int32 => "int32".into(),
            Self::Int64 => "int64".into(),
            Self::Double => "float64".into(),
            Self::Boolean => "bool".into(),
            Self::Quantity => "resource.Quantity".into(),
            Self::IntOrString => "intstr.IntOrString".into(),
            Self::Time => "v1.Time".into(),
            Self::MicroTime => "v1.MicroTime".into(),
            Self::Any(name) | Self::Object(name) => go_name(name).into(),
            Self::List(item) => format!("[]{}", item.go_name()),
            Self::Map(value) => format!("map[string]{}", value.go_name()),
            Self::Struct(schema) => schema.get().go_name().into(),
        }
    }
}
