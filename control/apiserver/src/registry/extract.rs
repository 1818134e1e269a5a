//! Reads labels and selectable fields out of an object's bytes, without building the object.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use store::{Extractor, Selectable};

use crate::strategy::{path, stand_in, zero};

/// Paths looked for at once: one bit each.
const MAX_PATHS: usize = 31;
/// The bit of `metadata.labels`.
const LABELS: u32 = 1 << MAX_PATHS;

struct Paths {
    fields: Vec<Vec<String>>,
    zeros: Vec<&'static str>,
    /// A field and the one whose value it takes where it is empty.
    stand_ins: Vec<(usize, usize)>,
}

/// An extractor of labels and of these fields.
pub(super) fn extractor(fields: &[&str]) -> Extractor {
    debug_assert!(fields.len() <= MAX_PATHS);
    let place = |name: &str| fields.iter().position(|field| *field == name);
    let paths = Paths {
        fields: fields.iter().map(|field| path(field).split('.').map(str::to_owned).collect()).collect(),
        zeros: fields.iter().map(|field| zero(field)).collect(),
        stand_ins: fields.iter().enumerate().filter_map(|(at, field)| Some((at, place(stand_in(field)?)?))).collect(),
    };
    Arc::new(move |bytes| {
        let mut found =
            Selectable { labels: Vec::new(), fields: paths.zeros.iter().map(|zero| (*zero).to_owned()).collect() };
        let all = LABELS | ((1u32 << paths.fields.len()) - 1);
        let seed = Level { paths: &paths, live: all, depth: 0, found: &mut found };
        // Stored bytes are our own encoding; should they not parse, the object is found by no selector but stays readable.
        if let Err(error) = seed.deserialize(&mut serde_json::Deserializer::from_slice(bytes)) {
            tracing::error!(%error, "a stored object is not valid JSON");
        }
        for &(field, other) in &paths.stand_ins {
            if found.fields[field].is_empty() {
                found.fields[field] = found.fields[other].clone();
            }
        }
        found
    })
}

/// One level of the object: the paths in `live` lead here.
struct Level<'a> {
    paths: &'a Paths,
    live: u32,
    depth: usize,
    found: &'a mut Selectable,
}

impl Level<'_> {
    fn step(&self, key: &str) -> u32 {
        let mut next = 0;
        for (bit, path) in self.paths.fields.iter().enumerate() {
            if self.live & (1 << bit) != 0 && path.get(self.depth).is_some_and(|step| step == key) {
                next |= 1 << bit;
            }
        }
        let on_labels = match self.depth {
            0 => key == "metadata",
            1 => key == "labels",
            _ => true,
        };
        if self.live & LABELS != 0 && on_labels { next | LABELS } else { next }
    }

    fn leaf(self, text: &str) {
        for (bit, path) in self.paths.fields.iter().enumerate() {
            if self.live & (1 << bit) != 0 && path.len() == self.depth {
                text.clone_into(&mut self.found.fields[bit]);
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.live & LABELS != 0 && self.depth == 2 {
                let value: Option<String> = map.next_value::<serde_json::Value>()?.as_str().map(str::to_owned);
                if let Some(value) = value {
                    self.found.labels.push((key.into_owned(), value));
                }
                continue;
            }
            match self.step(&key) {
                0 => {
                    map.next_value::<IgnoredAny>()?;
                }
                live => {
                    let next = Level { paths: self.paths, live, depth: self.depth + 1, found: &mut *self.found };
                    map.next_value_seed(next)?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.leaf(text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.leaf(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.leaf(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_labels_and_fields() {
        let extract = extractor(&["spec.nodeName", "spec.unschedulable", "status.phase", "type"]);
        type Case = (&'static str, &'static [(&'static str, &'static str)], [&'static str; 4]);
        let cases: [Case; 4] = [
            ("{}", &[], ["", "false", "", ""]),
            (
                r#"{"type":"Opaque","metadata":{"labels":{"a":"1","b":""}},"spec":{"nodeName":"n","unschedulable":true}}"#,
                &[("a", "1"), ("b", "")],
                ["n", "true", "", "Opaque"],
            ),
            (
                r#"{"spec":{"x":[{"nodeName":"no"}],"template":{"metadata":{"labels":{"no":"no"}}}},"status":{"phase":"Run\u006eing"}}"#,
                &[],
                ["", "false", "Running", ""],
            ),
            (r#"{"spec":null,"metadata":{"labels":null},"status":3}"#, &[], ["", "false", "", ""]),
        ];
        for (object, labels, fields) in cases {
            let found = extract(object.as_bytes());
            let got: Vec<_> = found.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(
                (got.as_slice(), found.fields.as_slice()),
                (labels, fields.map(str::to_owned).as_slice()),
                "{object}"
            );
        }
    }
}
