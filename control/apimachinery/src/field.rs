//! Paths of fields and what can be wrong with a field, worded as upstream words it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::quote::quote;

/// The path of a field: `spec.containers[0].name`. Cheap to extend; the text is made when it is shown.
#[derive(Clone, Debug, Default)]
pub struct Path(Option<Arc<Node>>);

#[derive(Debug)]
struct Node {
    parent: Path,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Child(Cow<'static, str>),
    Index(usize),
    Key(String),
}

impl Path {
    /// A path of one field. The field without a name is the object as a whole, shown as `[]`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self::root().child(name)
    }

    /// The path of the object itself, shown as nothing.
    pub fn root() -> Self {
        Self(None)
    }

    /// A field of this field. The name may be several joined by dots.
    #[must_use]
    pub fn child(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Child(name.into()))
    }

    /// An item of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    fn step(&self, step: Step) -> Self {
        Self(Some(Arc::new(Node { parent: self.clone(), step })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(node) = &at.0 {
            steps.push(&node.step);
            at = &node.parent;
        }
        for (position, step) in steps.iter().rev().enumerate() {
            match step {
                Step::Child(name) if name.is_empty() => f.write_str("[]")?,
                Step::Child(name) if position == 0 => f.write_str(name)?,
                Step::Child(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key}]")?,
            }
        }
        if steps.is_empty() { f.write_str("<nil>") } else { Ok(()) }
    }
}

/// The kinds of errors that a field can have; each is a cause's `reason` in a Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A referred value does not exist.
    NotFound,
    /// A value is missing.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value that is none of those supported.
    NotSupported,
    /// A value that would be well formed but is not allowed here.
    Forbidden,
    /// A value is too long.
    TooLong,
    /// A value is too short.
    TooShort,
    /// A list has too many items.
    TooMany,
    /// A list has too few items.
    TooFew,
    /// Something failed that is not the user's fault.
    Internal,
    /// A value of the wrong type.
    TypeInvalid,
}

impl ErrorKind {
    /// The cause's reason in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        })
    }
}

/// What is wrong with one field. `Display` is `spec.x: Invalid value: "y": detail`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of error it is.
    pub kind: ErrorKind,
    /// The field.
    pub path: String,
    /// More about it, may be empty.
    pub detail: String,
    /// The offending value where the message shows it.
    pub bad_value: Option<Value>,
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path, bad_value: Option<Value>, detail: String) -> Self {
        Self { kind, path: path.to_string(), detail, bad_value }
    }

    /// The message without the field's path: a cause's `message` in a Status.
    pub fn body(&self) -> String {
        let mut body = self.kind.to_string();
        if let Some(value) = &self.bad_value {
            body.push_str(": ");
            match value {
                Value::String(text) => body.push_str(&quote(text)),
                other => body.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    /// A malformed value.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, path, Some(value.into()), detail.into())
    }

    /// A missing value.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, path, None, detail.into())
    }

    /// A value that is none of the supported ones.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut detail = String::new();
        if !supported.is_empty() {
            let quoted: Vec<String> = supported.iter().map(|value| quote(value)).collect();
            detail = format!("supported values: {}", quoted.join(", "));
        }
        Self::new(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// A value that must be unique and is not.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, path, Some(value.into()), String::new())
    }

    /// A value that is not allowed here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, path, None, detail.into())
    }

    /// A value longer than `max` bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    /// A list of more than `max` items.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(ErrorKind::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
    }

    /// A referred value that does not exist.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, path, Some(value.into()), String::new())
    }

    /// A value of the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::TypeInvalid, path, Some(value.into()), detail.into())
    }

    /// Something failed that is not the user's fault.
    pub fn internal(path: &Path, error: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, path, None, error.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wording() {
        let path = Path::new("spec").child("containers").index(0).child("name");
        let cases = [
            (FieldError::required(&path, ""), "spec.containers[0].name: Required value"),
            (FieldError::invalid(&path, "x", "bad"), r#"spec.containers[0].name: Invalid value: "x": bad"#),
            (FieldError::invalid(&path, 3, "must be > 3"), "spec.containers[0].name: Invalid value: 3: must be > 3"),
            (FieldError::invalid(&path, json!({"a": [1]}), ""), r#"spec.containers[0].name: Invalid value: {"a":[1]}"#),
            (
                FieldError::not_supported(&path, "X", &["A", "B"]),
                r#"spec.containers[0].name: Unsupported value: "X": supported values: "A", "B""#,
            ),
            (FieldError::duplicate(&path, "x"), r#"spec.containers[0].name: Duplicate value: "x""#),
            (FieldError::forbidden(&path, "no"), "spec.containers[0].name: Forbidden: no"),
            (FieldError::too_long(&path, 63), "spec.containers[0].name: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&path, 4, 3), "spec.containers[0].name: Too many: 4: must have at most 3 items"),
            (FieldError::not_found(&Path::new("a").key("k"), "v"), r#"a[k]: Not found: "v""#),
            (FieldError::too_long(&Path::new(""), 63), "[]: Too long: may not be more than 63 bytes"),
            (FieldError::internal(&path, "oops"), "spec.containers[0].name: Internal error: oops"),
        ];
        for (error, expect) in cases {
            assert_eq!(error.to_string(), expect);
        }
    }
}
