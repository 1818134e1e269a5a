//! What types and fields are for, in upstream's words. Kept compressed: they are a hundred times as large as what one document needs, and
//! documents are made once.

use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::GzDecoder;

/// Made by `cargo xtask codegen`; its form is described in `xtask/codegen/src/prose.rs`.
const PACKED: &[u8] = include_bytes!("../facts/prose.txt.gz");

/// The words about every type, by its name.
pub(super) struct Prose {
    types: HashMap<String, Type>,
}

#[derive(Default)]
struct Type {
    description: String,
    fields: HashMap<String, String>,
}

impl Prose {
    /// Unpacks them. Documents do without where that fails, which the tests rule out.
    pub(super) fn unpack() -> Self {
        let mut text = String::new();
        if GzDecoder::new(PACKED).read_to_string(&mut text).is_err() {
            text.clear();
        }
        Self { types: text.lines().filter_map(line).collect() }
    }

    /// What a type is for.
    pub(super) fn of(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(|found| &*found.description).filter(|text| !text.is_empty())
    }

    /// What a type's field is for.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        self.types.get(name)?.fields.get(field).map(String::as_str)
    }
}

fn line(line: &str) -> Option<(String, Type)> {
    let mut parts = line.split('\t');
    let name = parts.next()?.to_owned();
    let description = unescaped(parts.next()?);
    let fields = parts.filter_map(|part| part.split_once('=')).map(|(field, said)| (field.to_owned(), unescaped(said)));
    Some((name, Type { description, fields: fields.collect() }))
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        plain.push(match next {
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                _ => '\\',
            },
            other => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts;

    #[test]
    fn types_and_fields_are_described() {
        let prose = Prose::unpack();
        let pod = "io.k8s.api.core.v1.PodSpec";
        assert_eq!(prose.of(pod), Some("PodSpec is a description of a pod."));
        assert!(prose.of_field(pod, "restartPolicy").unwrap().starts_with("Restart policy for all containers"));
        // A field of another type has words of its own.
        assert!(prose.of_field(pod, "securityContext").unwrap().starts_with("SecurityContext holds pod-level"));
        assert_eq!(prose.of_field(pod, "none"), None);
        // Lists have no type of their own in the source.
        for (kind, number) in facts::kinds_of("apps", "v1").filter(|(kind, _)| !kind.ends_with("List")) {
            assert!(prose.of(facts::name(number)).is_some(), "{kind}");
        }
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescaped(r"a\nb\tc\\n"), "a\nb\tc\\n");
    }
}
