//! Field selectors: `spec.nodeName=a,status.phase!=Running`, with backslash escapes in values.

use std::fmt;

/// Which field values an object must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// All must hold. Empty selects everything.
    pub requirements: Vec<FieldRequirement>,
}

/// One requirement on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// Whether the value must be equal; else it must differ.
    pub equal: bool,
    /// The value.
    pub value: String,
}

impl FieldSelector {
    /// Reads a selector; the error says what is wrong, as upstream does.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_terms(text).into_iter().filter(|term| !term.is_empty()) {
            let (field, equal, value) =
                split_term(term).ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let value = unescape(value)?;
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value });
        }
        Ok(Self { requirements })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the fields match; an absent field is passed as its zero value's text.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|one| (field(&one.field) == one.value) == one.equal)
    }

    /// The value that a field must have, where the selector asks for exactly one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|one| one.equal && one.field == field).map(|one| one.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if one.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", one.field, escape(&one.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for at in 0..term.len() {
        let Some(rest) = term.get(at..) else { continue };
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=")
}

fn unescape(value: &str) -> Result<String, String> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(value.to_owned());
    }
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                Some(other) => return Err(format!("invalid field selector: invalid escape sequence: \\{other}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {character}"));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(field: &str, equal: bool, value: &str) -> FieldRequirement {
        FieldRequirement { field: field.into(), equal, value: value.into() }
    }

    #[test]
    fn parses() {
        let cases = [
            ("", vec![]),
            ("a=b", vec![requirement("a", true, "b")]),
            ("a==b,c!=d", vec![requirement("a", true, "b"), requirement("c", false, "d")]),
            ("a=,", vec![requirement("a", true, "")]),
            (r"a=x\,y\=z\\", vec![requirement("a", true, r"x,y=z\")]),
            ("a!=é", vec![requirement("a", false, "é")]),
        ];
        for (text, expect) in cases {
            let selector = FieldSelector::parse(text).unwrap();
            assert_eq!(selector.requirements, expect, "{text}");
            assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
        let errors = [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=b=c", "invalid field selector: unescaped character in value: ="),
        ];
        for (text, expect) in errors {
            assert_eq!(FieldSelector::parse(text).unwrap_err(), expect);
        }
    }

    #[test]
    fn matches() {
        let fields = |name: &str| if name == "status.phase" { "Running" } else { "" };
        for (text, expect) in
            [("", true), ("status.phase=Running", true), ("status.phase!=Running", false), ("x=", true)]
        {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(fields), expect, "{text}");
        }
    }
}
