//! Watch frames, deserialised straight into the projection.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// One line of a watch.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark { resource_version: String, initial_events_end: bool },
    Error(ServerError),
}

/// The parts of a `Status` that decide what to do next.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct ServerError {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// One page of a list.
#[derive(Deserialize)]
pub(crate) struct List<T> {
    pub(crate) metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "items", bound(deserialize = "T: Deserialize<'de>"))]
    pub(crate) items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ListMeta {
    pub(crate) resource_version: String,
    pub(crate) r#continue: String,
}

/// Just enough of an object to say which revision it has.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stub {
    pub(crate) metadata: StubMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct StubMeta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) resource_version: String,
    #[serde(deserialize_with = "crate::meta::null_is_default")]
    annotations: BTreeMap<String, String>,
}

/// A frame read for its object's revision alone, where the whole could not be read.
#[derive(Deserialize)]
pub(crate) struct StubFrame {
    pub(crate) object: Stub,
}

pub(crate) fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<Frame<T>, serde_json::Error> {
    serde_json::from_slice(line)
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Frame<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor(PhantomData))
    }
}

struct FrameVisitor<T>(PhantomData<T>);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Type {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl<'de, T: DeserializeOwned> Visitor<'de> for FrameVisitor<T> {
    type Value = Frame<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a watch event with type and object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut frame, mut early) = (None, None, None::<Box<RawValue>>);
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match (key.as_ref(), kind) {
                ("type", _) => kind = Some(map.next_value::<Type>()?),
                ("object", Some(kind)) => frame = Some(map.next_value_seed(ObjectSeed(kind, PhantomData))?),
                // Servers write the type first; the other order costs a copy.
                ("object", None) => early = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match (frame, kind, early) {
            (Some(frame), _, _) => Ok(frame),
            (None, Some(kind), Some(raw)) => ObjectSeed(kind, PhantomData)
                .deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
                .map_err(A::Error::custom),
            (None, None, _) => Err(A::Error::missing_field("type")),
            (None, Some(_), None) => Err(A::Error::missing_field("object")),
        }
    }
}

struct ObjectSeed<T>(Type, PhantomData<T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for ObjectSeed<T> {
    type Value = Frame<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(match self.0 {
            Type::Added => Frame::Added(T::deserialize(deserializer)?),
            Type::Modified => Frame::Modified(T::deserialize(deserializer)?),
            Type::Deleted => Frame::Deleted(T::deserialize(deserializer)?),
            Type::Bookmark => {
                let Stub { metadata } = Stub::deserialize(deserializer)?;
                let initial_events_end =
                    metadata.annotations.get("k8s.io/initial-events-end").is_some_and(|value| value == "true");
                Frame::Bookmark { resource_version: metadata.resource_version, initial_events_end }
            }
            Type::Error => Frame::Error(ServerError::deserialize(deserializer)?),
        })
    }
}

fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Thing {
        x: u8,
    }

    #[test]
    fn frames() {
        let bookmark = |resource_version: &str, initial_events_end| Frame::Bookmark {
            resource_version: resource_version.into(),
            initial_events_end,
        };
        let cases: [(&str, Result<Frame<Thing>, &str>); 9] = [
            (r#"{"type":"ADDED","object":{"x":1,"y":[2]}}"#, Ok(Frame::Added(Thing { x: 1 }))),
            (r#"{"object":{"x":1},"type":"MODIFIED"}"#, Ok(Frame::Modified(Thing { x: 1 }))),
            (r#"{"type":"DELETED","extra":{},"object":{"x":3}}"#, Ok(Frame::Deleted(Thing { x: 3 }))),
            (r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#, Ok(bookmark("7", false))),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                Ok(bookmark("7", true)),
            ),
            (
                r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"m","status":"Failure"}}"#,
                Ok(Frame::Error(ServerError { code: 410, reason: "Expired".into(), message: "m".into() })),
            ),
            (r#"{"type":"ADDED"}"#, Err("missing field `object`")),
            (r#"{"object":{}}"#, Err("missing field `type`")),
            (r#"{"type":"ADDED","object":{"x":"no"}}"#, Err("invalid type")),
        ];
        for (line, want) in cases {
            match (parse::<Thing>(line.as_bytes()), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{line}"),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{line}: {got}"),
                (got, want) => panic!("{line}: {got:?}, wanted {want:?}"),
            }
        }
    }
}
