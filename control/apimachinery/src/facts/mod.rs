//! The compact facts of the built-in API, expanded a type at a time. `cargo xtask codegen` writes the data files and describes their
//! form (`xtask/codegen/src/types.rs`); that they are well formed is pinned by the tests below.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::schema::{Field, Inline, ListType, Schema, SchemaRef, Text, Type, Union};

pub(crate) mod resources;

const TYPES: &str = include_str!("types.txt");

struct Index {
    /// Each type's line, by number; sorted by name.
    lines: Vec<&'static str>,
    /// Each type, once it has been asked for.
    built: Vec<OnceLock<Box<Schema>>>,
    /// Kinds and the numbers of their types, sorted.
    kinds: Vec<([&'static str; 3], u16)>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let (types, kinds) = TYPES.split_once("\n\n").unwrap_or((TYPES, ""));
    let lines: Vec<&str> = types.lines().collect();
    let built = lines.iter().map(|_| OnceLock::new()).collect();
    let kind = |line: &'static str| {
        let mut parts = line.split(' ');
        let group = parts.next().filter(|group| *group != "-").unwrap_or_default();
        let mut next = || parts.next().unwrap_or_default();
        ([group, next(), next()], next().parse().unwrap_or(u16::MAX))
    };
    Index { lines, built, kinds: kinds.lines().map(kind).collect() }
});

/// A built-in type by its number.
pub(crate) fn schema(number: u16) -> &'static Schema {
    let index = &*INDEX;
    let built = index.built.get(usize::from(number)).expect("the facts refer to types that they have");
    built.get_or_init(|| Box::new(read(index.lines[usize::from(number)])))
}

/// A built-in type by the kind it is served as.
pub(crate) fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Schema> {
    let found = INDEX.kinds.binary_search_by(|(one, _)| one.cmp(&[group, version, kind])).ok()?;
    Some(schema(INDEX.kinds[found].1))
}

/// The kinds that are served in a group version, with their types' numbers.
pub(crate) fn kinds_of(group: &str, version: &str) -> impl Iterator<Item = (&'static str, u16)> {
    let start = INDEX.kinds.partition_point(|(one, _)| one[..2] < [group, version][..]);
    let rest = &INDEX.kinds[start..];
    let end = rest.partition_point(|(one, _)| one[..2] == [group, version][..]);
    rest[..end].iter().map(|([_, _, kind], number)| (*kind, *number))
}

/// All kinds that a type is served as: group, version, kind.
pub(crate) fn kinds_of_type(number: u16) -> impl Iterator<Item = [&'static str; 3]> {
    INDEX.kinds.iter().filter(move |(_, one)| *one == number).map(|(kind, _)| *kind)
}

/// A built-in type by its full name.
pub(crate) fn named(name: &str) -> Option<&'static Schema> {
    number(name).map(schema)
}

/// A built-in type's number by its full name.
pub(crate) fn number(name: &str) -> Option<u16> {
    let found = INDEX.lines.binary_search_by(|line| name_of(line).cmp(name)).ok()?;
    u16::try_from(found).ok()
}

/// A built-in type's full name.
pub(crate) fn name(number: u16) -> &'static str {
    INDEX.lines.get(usize::from(number)).map_or("", |line| name_of(line))
}

fn name_of(line: &'static str) -> &'static str {
    line.split('\t').next().unwrap_or_default()
}

fn read(line: &'static str) -> Schema {
    let mut parts = line.split('\t');
    let mut schema = Schema { name: parts.next().unwrap_or_default().into(), ..Schema::default() };
    let (mut fields, mut unions, mut inline) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part.as_bytes().first() {
            Some(b'!') => schema.atomic = true,
            Some(b'?') => unions.push(read_union(&part[1..])),
            Some(b'&') => inline.push(read_inline(&part[1..])),
            _ => fields.push(read_field(part)),
        }
    }
    schema.numbers = crate::schema::numbers(&fields, &inline);
    schema.fields = fields.into();
    schema.unions = unions.into();
    schema.inline = inline.into();
    schema
}

fn read_union(part: &'static str) -> Union {
    let mut words = part.split(' ');
    let discriminator = words.next().filter(|name| !name.is_empty()).map(Text::from);
    let members = words.filter_map(|word| word.split_once('=')).map(|(field, value)| (field.into(), value.into()));
    Union { discriminator, members: members.collect() }
}

fn read_inline(part: &'static str) -> Inline {
    let mut words = part.split(' ');
    let name = words.next().unwrap_or_default().into();
    let proto = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let message = words.next().and_then(|word| word.strip_prefix('@')).and_then(|number| number.parse().ok());
    Inline { name, proto, message: SchemaRef::Fact(message.unwrap_or(u16::MAX)) }
}

fn read_field(part: &'static str) -> Field {
    let mut options = part.split(';');
    let name = options.next().unwrap_or_default().into();
    let ty = read_type(options.next().unwrap_or_default());
    let mut field = Field::new(name, ty);
    let mut written = false;
    for option in options {
        let rest = |prefix: &str| &option[prefix.len().min(option.len())..];
        match option.as_bytes() {
            b"r" => field.required = true,
            b"a" => field.atomic = true,
            b"p" => field.zero_is_value = true,
            b"w" => written = true,
            b"pm" => field.patch_merge = true,
            b"pr" => field.patch_retain_keys = true,
            b"lA" => field.list_type = ListType::Atomic,
            b"lS" => field.list_type = ListType::Set,
            [b'l', b'M', b':', ..] => {
                field.list_type = ListType::Map;
                field.list_map_keys = rest("lM:").split(',').map(Text::from).collect();
            }
            [b'p', b'k', b':', ..] => field.patch_merge_key = Some(rest("pk:").into()),
            [b'#', ..] => field.proto = rest("#").parse().unwrap_or(0),
            [b'=', ..] => field.proto_type = Some(rest("=").into()),
            [b'e', b':', ..] => field.enum_values = rest("e:").split('|').map(Text::from).collect(),
            [b'd', b':', ..] => field.default = serde_json::from_str(rest("d:")).ok().map(Box::new),
            _ => {}
        }
    }
    let never_empty = matches!(
        field.ty,
        Type::Struct(_)
            | Type::Any(_)
            | Type::Object(_)
            | Type::Quantity
            | Type::IntOrString
            | Type::Time
            | Type::MicroTime
    );
    field.omit_empty = !(never_empty || written || field.required || field.zero_is_value);
    field
}

/// Reads a type; the lists and maps of the facts nest twice at most.
fn read_type(text: &'static str) -> Type {
    let number = || text[1..].parse().unwrap_or(u16::MAX);
    match text.as_bytes().first() {
        Some(b'[') => Type::List(Arc::new(read_type(&text[1..]))),
        Some(b'{') => Type::Map(Arc::new(read_type(&text[1..]))),
        Some(b'@') => Type::Struct(SchemaRef::Fact(number())),
        Some(b'A') => Type::Any(Cow::Borrowed(name(number()))),
        Some(b'O') => Type::Object(Cow::Borrowed(name(number()))),
        Some(b'y') => Type::Bytes,
        Some(b'i') => Type::Int32,
        Some(b'l') => Type::Int64,
        Some(b'd') => Type::Double,
        Some(b'b') => Type::Boolean,
        Some(b'q') => Type::Quantity,
        Some(b'n') => Type::IntOrString,
        Some(b't') => Type::Time,
        Some(b'u') => Type::MicroTime,
        _ => Type::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Numbered;
    use serde_json::json;

    /// Every line expands, every reference leads somewhere, names and fields are sorted.
    #[test]
    fn the_files_are_well_formed() {
        let count = u16::try_from(INDEX.lines.len()).unwrap();
        assert!(count > 700);
        for number in 0..count {
            let schema = schema(number);
            assert!(schema.fields.is_sorted_by(|a, b| a.name < b.name), "{}", schema.name);
            assert_eq!(super::number(&schema.name), Some(number));
            for inline in &schema.inline {
                assert!(
                    matches!(schema.numbered(inline.proto), Some(Numbered::Inline(one)) if one.name == inline.name)
                );
                assert!(!inline.message.name.is_empty());
            }
            for field in &schema.fields {
                let numbered = |one: Numbered<'_>| matches!(one, Numbered::Field(one) if one.name == field.name);
                assert!(field.proto == 0 || schema.numbered(field.proto).is_some_and(numbered), "{}", field.name);
                check_type(&field.ty);
                assert!(field.patch_merge_key.is_none() || matches!(field.ty, Type::List(_)));
            }
        }
        assert!(INDEX.kinds.is_sorted() && INDEX.kinds.iter().all(|(_, number)| *number < count));
    }

    fn check_type(ty: &Type) {
        match ty {
            Type::List(item) | Type::Map(item) => check_type(item),
            Type::Struct(schema) => assert!(!schema.name.is_empty()),
            Type::Any(name) | Type::Object(name) => assert!(!name.is_empty()),
            _ => {}
        }
    }

    #[test]
    fn a_pod() {
        let pod = kind("", "v1", "Pod").unwrap();
        let Type::Struct(spec) = &pod.field("spec").unwrap().ty else { panic!("spec is an object") };
        let containers = spec.field("containers").unwrap();
        assert!(containers.required && containers.patch_merge && containers.proto == 2);
        assert_eq!((containers.list_type, containers.patch_merge_key.as_deref()), (ListType::Map, Some("name")));
        assert_eq!(containers.ty.go_name(), "[]v1.Container");
        assert_eq!(spec.field("restartPolicy").unwrap().enum_values.as_ref(), ["Always", "Never", "OnFailure"]);
        assert!(spec.field("nodeSelector").unwrap().atomic && spec.field("nothing").is_none());
        assert!(kind("", "v1", "Nothing").is_none() && named("nothing").is_none());
        assert_eq!(kinds_of("apps", "v1").filter(|(kind, _)| *kind == "Deployment").count(), 1);
    }

    #[test]
    fn zeros_are_what_go_writes() {
        let daemons = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        for (name, zero) in [
            ("apps.v1.DeploymentStatus", json!({})),
            ("apps.v1.ReplicaSetStatus", json!({"replicas": 0})),
            ("apps.v1.StatefulSetStatus", json!({"replicas": 0, "availableReplicas": 0})),
            ("apps.v1.DaemonSetStatus", daemons),
            ("storage.v1.VolumeAttachmentStatus", json!({"attached": false})),
            ("core.v1.ContainerPort", json!({"containerPort": 0})),
            ("core.v1.EnvVar", json!({"name": ""})),
        ] {
            assert_eq!(named(&format!("io.k8s.api.{name}")).unwrap().zero(), zero, "{name}");
        }
    }
}
