//! The three-way merge of `kubectl apply`: what is wanted now, without what was wanted last time and is not now, and with
//! what others have added meanwhile.

use serde_json::{Map, Value};

use super::strategic::Facts;
use crate::schema::{Field, ListType, Schema, Type};

/// Brings `current` from `last` to `wanted`. Without a schema, as for custom resources, a list is replaced as a whole.
///
/// Recurses as deep as `wanted` nests, which whoever parsed it has bounded.
pub fn three_way(last: &Value, current: &Value, wanted: &Value, schema: Option<&Schema>) -> Value {
    merge(last, current, wanted, schema.map_or(Facts::Nothing, Facts::Fields))
}

fn merge(last: &Value, current: &Value, wanted: &Value, facts: Facts<'_>) -> Value {
    let (Value::Object(current), Value::Object(wanted)) = (current, wanted) else { return wanted.clone() };
    let is_gone = |key: &str| last.get(key).is_some() && !wanted.contains_key(key);
    let mut merged: Map<String, Value> =
        current.iter().filter(|(key, _)| !is_gone(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in wanted {
        if value.is_null() {
            merged.remove(key);
            continue;
        }
        let (last, now) = (&last[key.as_str()], current.get(key).unwrap_or(&Value::Null));
        let value = match (now, value, facts.field(key).and_then(Items::of)) {
            (Value::Array(now), Value::Array(value), Some(items)) => merge_list(last, now, value, &items),
            _ => merge(last, now, value, facts.entry(key)),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

fn merge_list(last: &Value, current: &[Value], wanted: &[Value], items: &Items<'_>) -> Value {
    let last = last.as_array().map_or(&[][..], Vec::as_slice);
    let find = |list: &'_ [Value], item: &Value| list.iter().find(|other| items.same(other, item)).cloned();
    let mut merged: Vec<Value> = wanted
        .iter()
        .map(|item| match find(current, item) {
            Some(now) => merge(&find(last, item).unwrap_or_default(), &now, item, items.facts),
            None => item.clone(),
        })
        .collect();
    let others = current.iter().filter(|item| find(wanted, item).is_none() && find(last, item).is_none());
    merged.extend(others.cloned());
    Value::Array(merged)
}

/// What is known of a list whose items can be told apart.
struct Items<'a> {
    facts: Facts<'a>,
    /// The fields that do; none for scalars, which are their own key.
    keys: Vec<&'a str>,
}

impl<'a> Items<'a> {
    fn of(field: &'a Field) -> Option<Self> {
        let Type::List(item) = &field.ty else { return None };
        let facts = Facts::of(item);
        let keys: Vec<&str> = match field.list_type {
            // More exact than a patch's one key: a Service has port 53 over UDP and over TCP.
            ListType::Map => field.list_map_keys.iter().map(AsRef::as_ref).collect(),
            ListType::Set => Vec::new(),
            ListType::Atomic => return None,
            ListType::Unset if field.patch_merge => field.patch_merge_key.as_deref().into_iter().collect(),
            ListType::Unset => return None,
        };
        Some(Self { facts, keys })
    }

    fn same(&self, one: &Value, other: &Value) -> bool {
        if self.keys.is_empty() {
            return one == other;
        }
        self.keys.iter().all(|key| self.key(one, key) == self.key(other, key))
    }

    /// A key's value, or the one that it has where it is left out.
    fn key<'v>(&self, item: &'v Value, key: &str) -> Option<&'v Value>
    where
        'a: 'v,
    {
        item.get(key).or_else(|| self.facts.field(key)?.default.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gvk::Gvk;

    #[test]
    fn merges() {
        let service = Schema::of(&Gvk::new("", "v1", "Service"));
        let pod = Schema::of(&Gvk::new("", "v1", "Pod"));
        assert!(service.is_some() && pod.is_some());
        let cases = [
            (
                "what others added stays, what was left out goes",
                None,
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": "1", "b": "2", "c": "3"}, "uid": "u"}, "status": {"x": 1}}),
                json!({"metadata": {"labels": {"a": "9"}}}),
                json!({"metadata": {"labels": {"a": "9", "c": "3"}, "uid": "u"}, "status": {"x": 1}}),
            ),
            (
                "a list without a schema is replaced",
                None,
                json!({"spec": {"list": [1, 2]}}),
                json!({"spec": {"list": [1, 2, 3]}}),
                json!({"spec": {"list": [2]}}),
                json!({"spec": {"list": [2]}}),
            ),
            (
                "ports by number and protocol, and what the server allocated stays",
                service,
                json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}, {"port": 80}]}}),
                json!({"spec": {"clusterIP": "10.96.0.7", "ports": [
                    {"port": 53, "protocol": "UDP", "nodePort": 30001}, {"port": 53, "protocol": "TCP", "nodePort": 30002},
                    {"port": 80, "protocol": "TCP"}]}}),
                json!({"spec": {"ports": [{"port": 53, "name": "tcp"}, {"port": 53, "protocol": "UDP"}]}}),
                json!({"spec": {"clusterIP": "10.96.0.7", "ports": [
                    {"port": 53, "name": "tcp", "protocol": "TCP", "nodePort": 30002},
                    {"port": 53, "protocol": "UDP", "nodePort": 30001}]}}),
            ),
            (
                "containers by name, with one that somebody injected",
                pod,
                json!({"spec": {"containers": [{"name": "web", "env": [{"name": "A", "value": "1"}]}]}}),
                json!({"spec": {"containers": [
                    {"name": "mesh"}, {"name": "web", "image": "old", "env": [{"name": "A", "value": "1"}, {"name": "B"}]}]}}),
                json!({"spec": {"containers": [{"name": "web", "image": "new"}]}}),
                json!({"spec": {"containers": [{"name": "web", "image": "new"}, {"name": "mesh"}]}}),
            ),
            (
                "null removes",
                None,
                json!({}),
                json!({"spec": {"a": 1, "b": 2}}),
                json!({"spec": {"a": null}}),
                json!({"spec": {"b": 2}}),
            ),
            (
                "finalizers are a set",
                pod,
                json!({"metadata": {"finalizers": ["x/mine"]}}),
                json!({"metadata": {"finalizers": ["x/mine", "x/theirs"]}}),
                json!({"metadata": {"finalizers": ["x/new"]}}),
                json!({"metadata": {"finalizers": ["x/new", "x/theirs"]}}),
            ),
        ];
        for (name, schema, last, current, wanted, expected) in cases {
            assert_eq!(three_way(&last, &current, &wanted, schema), expected, "{name}");
        }
    }
}
