//! Kinds whose rules are data: constant defaults, fields that never change, and at most one function that checks the rest.

use std::sync::LazyLock;

use apimachinery::field::{FieldError, Path};
use serde_json::Value;

use super::Strategy;
use super::tools::{Problems, changed, default_to};

/// The rules of such a kind.
#[derive(Debug)]
pub(super) struct Plain {
    /// Path and value (in JSON) of each default. It is set where the field is absent from a parent that is there; `[]`
    /// stands for every item of a list, `?` for an object that is made where it is absent.
    pub(super) defaults: LazyLock<Vec<Default>>,
    /// Fields that an update may not change, and upstream's words where they are not "field is immutable".
    pub(super) immutable: &'static [(&'static str, Option<&'static str>)],
    /// What can be wrong beside.
    pub(super) validate: fn(&Value, &mut Problems),
}

/// One default, parsed.
#[derive(Debug)]
pub(super) struct Default {
    parents: Vec<&'static str>,
    field: &'static str,
    value: Value,
}

/// The defaults of a table's rows.
pub(super) fn defaults(rows: &[(&'static str, &str)]) -> Vec<Default> {
    let parse = |&(path, value): &(&'static str, &str)| {
        let mut parents: Vec<&str> = path.split('.').collect();
        let field = parents.pop().unwrap_or_default();
        Default { parents, field, value: serde_json::from_str(value).expect("the tables are checked by a test") }
    };
    rows.iter().map(parse).collect()
}

/// For kinds that need no check of their own.
pub(super) fn no_rules(_: &Value, _: &mut Problems) {}

impl Strategy for Plain {
    fn defaults(&self, object: &mut Value) {
        for default in self.defaults.iter() {
            set(object, &default.parents, default);
        }
    }

    fn validate(&self, object: &Value) -> Problems {
        let mut problems = Vec::new();
        (self.validate)(object, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        for (field, words) in self.immutable {
            never_changes(new, old, field, *words, &mut problems);
        }
        problems
    }

    fn checks_requiredness_by_schema(&self) -> bool {
        true
    }
}

fn set(object: &mut Value, parents: &[&'static str], default: &Default) {
    let Some((first, rest)) = parents.split_first() else {
        default_to(object, default.field, default.value.clone());
        return;
    };
    if let Some(list) = first.strip_suffix("[]") {
        let items = object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        items.for_each(|item| set(item, rest, default));
        return;
    }
    let name = first.trim_end_matches('?');
    if first.ends_with('?') {
        default_to(object, name, Value::Object(serde_json::Map::new()));
    }
    if let Some(parent) = object.get_mut(name).filter(|parent| parent.is_object()) {
        set(parent, rest, default);
    }
}

fn never_changes(new: &Value, old: &Value, field: &'static str, words: Option<&str>, problems: &mut Problems) {
    let (parents, name) = field.rsplit_once('.').map_or(("", field), |(parents, name)| (parents, name));
    let at = |object: &'_ Value| {
        parents.split('.').filter(|step| !step.is_empty()).fold(object.clone(), |v, s| v[s].clone())
    };
    let (before, after) = (at(old), at(new));
    if !changed(&after, &before, name) {
        return;
    }
    let path = Path::new(field);
    problems.push(match words {
        Some(words) => FieldError::forbidden(&path, words),
        None => FieldError::invalid(&path, after[name].clone(), "field is immutable"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_go_where_a_parent_is() {
        let plain = Plain {
            defaults: LazyLock::new(|| {
                defaults(&[("a", "1"), ("list[].in.b", "\"x\""), ("made?.c", "true"), ("absent.d", "{}")])
            }),
            immutable: &[("a", None), ("made.c", Some("may not change"))],
            validate: no_rules,
        };
        let mut object = json!({"list": [{"in": {}}, {"in": {"b": "y"}}, {}]});
        plain.defaults(&mut object);
        let expected = json!({"a": 1, "list": [{"in": {"b": "x"}}, {"in": {"b": "y"}}, {}], "made": {"c": true}});
        assert_eq!(object, expected);
        let said =
            |new: Value| plain.validate_update(&new, &expected).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(said(expected.clone()).is_empty());
        assert_eq!(
            said(json!({"a": 2, "made": {"c": false}})),
            ["a: Invalid value: 2: field is immutable", "made.c: Forbidden: may not change"]
        );
    }
}
