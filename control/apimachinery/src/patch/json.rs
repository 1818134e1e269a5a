//! JSON patch (RFC 6902).

use serde_json::Value;

use super::depth;
use crate::MAX_DEPTH;
use crate::decode::{self, Media};
use crate::status::{Result, Status};

const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED_BYTES: usize = 3 << 20;

/// Applies a JSON patch. A malformed patch is 400, one that does not apply is 422 and names the operation.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value> {
    let patch = decode::parse(patch, Media::Json)?;
    let Value::Array(operations) = &patch else {
        return Err(Status::bad_request("a JSON patch must be a list of operations"));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::too_large(format_args!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patcher = Patcher { document: object.clone(), copied: 0 };
    for (index, operation) in operations.iter().enumerate() {
        let operation = Operation::read(operation)
            .map_err(|why| Status::bad_request(format!("operation {index} of the JSON patch: {why}")))?;
        patcher.apply(&operation).map_err(|why| {
            let Operation { op, path, .. } = &operation;
            Status::unprocessable(format!(
                "operation {index} of the JSON patch ({op} \"{path}\") does not apply: {why}"
            ))
        })?;
    }
    Ok(patcher.document)
}

struct Operation<'a> {
    op: &'a str,
    path: &'a str,
    from: Option<&'a str>,
    value: Option<&'a Value>,
}

impl<'a> Operation<'a> {
    fn read(operation: &'a Value) -> std::result::Result<Self, String> {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let op = text("op").ok_or("it has no \"op\"")?;
        let path = text("path").ok_or("it has no \"path\"")?;
        let (from, value) = (text("from"), operation.get("value"));
        match op {
            "add" | "replace" | "test" if value.is_none() => Err(format!("{op} needs a \"value\"")),
            "move" | "copy" if from.is_none() => Err(format!("{op} needs \"from\"")),
            "add" | "remove" | "replace" | "move" | "copy" | "test" => Ok(Self { op, path, from, value }),
            other => Err(format!("unknown operation \"{other}\"")),
        }
    }
}

struct Patcher {
    document: Value,
    copied: usize,
}

type Applied = std::result::Result<(), String>;

impl Patcher {
    fn apply(&mut self, operation: &Operation<'_>) -> Applied {
        let path = pointer(operation.path)?;
        let value = || operation.value.cloned().unwrap_or(Value::Null);
        let from = || pointer(operation.from.unwrap_or_default());
        match operation.op {
            "add" => self.add(&path, value()),
            "remove" => self.remove(&path).map(|_| ()),
            "replace" => self.replace(&path, value()),
            "test" => {
                let found = self.find(&path).ok();
                let equal = found.unwrap_or(&Value::Null) == operation.value.unwrap_or(&Value::Null);
                if equal { Ok(()) } else { Err("the value is another".to_owned()) }
            }
            "move" => {
                let from = from()?;
                if path.len() > from.len() && path[..from.len()] == from[..] {
                    return Err("a value cannot move into itself".to_owned());
                }
                let moved = self.remove(&from)?;
                self.add(&path, moved)
            }
            _ => {
                let copy = self.find(&from()?)?.clone();
                self.copied = self.copied.saturating_add(copy.to_string().len());
                if self.copied > MAX_COPIED_BYTES {
                    return Err(format!("copies make up more than {MAX_COPIED_BYTES} bytes"));
                }
                self.add(&path, copy)
            }
        }
    }

    fn find(&self, path: &[String]) -> std::result::Result<&Value, String> {
        path.iter().try_fold(&self.document, |at, step| {
            let next = match at {
                Value::Object(map) => map.get(step),
                Value::Array(items) => items.get(index(step, items.len())?),
                _ => None,
            };
            next.ok_or_else(|| missing(step))
        })
    }

    fn find_mut(&mut self, path: &[String]) -> std::result::Result<&mut Value, String> {
        path.iter().try_fold(&mut self.document, |at, step| {
            let next = match at {
                Value::Object(map) => map.get_mut(step),
                Value::Array(items) => {
                    let at = index(step, items.len())?;
                    items.get_mut(at)
                }
                _ => None,
            };
            next.ok_or_else(|| missing(step))
        })
    }

    fn add(&mut self, path: &[String], value: Value) -> Applied {
        if path.len() + depth(&value) > MAX_DEPTH {
            return Err(format!("the result would nest deeper than {MAX_DEPTH} levels"));
        }
        let Some((last, parent)) = path.split_last() else {
            self.document = value;
            return Ok(());
        };
        match self.find_mut(parent)? {
            Value::Object(map) => {
                map.insert(last.clone(), value);
            }
            Value::Array(items) if last == "-" => items.push(value),
            Value::Array(items) => {
                let at = index(last, items.len() + 1)?;
                items.insert(at, value);
            }
            _ => return Err(missing(last)),
        }
        Ok(())
    }

    fn replace(&mut self, path: &[String], value: Value) -> Applied {
        if path.len() + depth(&value) > MAX_DEPTH {
            return Err(format!("the result would nest deeper than {MAX_DEPTH} levels"));
        }
        *self.find_mut(path)? = value;
        Ok(())
    }

    fn remove(&mut self, path: &[String]) -> std::result::Result<Value, String> {
        let Some((last, parent)) = path.split_last() else {
            return Ok(self.document.take());
        };
        match self.find_mut(parent)? {
            Value::Object(map) => map.remove(last).ok_or_else(|| missing(last)),
            Value::Array(items) => {
                let at = index(last, items.len())?;
                Ok(items.remove(at))
            }
            _ => Err(missing(last)),
        }
    }
}

fn missing(step: &str) -> String {
    format!("there is no \"{step}\"")
}

/// The steps of a JSON pointer.
fn pointer(text: &str) -> std::result::Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or_else(|| format!("the path \"{text}\" does not begin with a slash"))?;
    Ok(rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

/// A list's index below `limit`; a negative one counts from the end, as upstream allows.
fn index(step: &str, limit: usize) -> std::result::Result<usize, String> {
    let outside = || format!("the index {step} is outside the list of {limit}");
    let bare = step.strip_prefix('-').unwrap_or(step);
    if bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_digit()) || (bare.len() > 1 && bare.starts_with('0')) {
        return Err(format!("\"{step}\" is no index of a list"));
    }
    let number: usize = bare.parse().map_err(|_| outside())?;
    let at = if bare.len() == step.len() { Some(number) } else { limit.checked_sub(number) };
    at.filter(|at| *at < limit).ok_or_else(outside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply(object: &Value, patch: &Value) -> std::result::Result<Value, (u16, String)> {
        json_patch(object, patch.to_string().as_bytes()).map_err(|status| (status.code, status.message))
    }

    #[test]
    fn applies() {
        let cases = [
            (json!({"a": 1}), json!([]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), json!({"a": 2})),
            (json!([1, 3]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2, 3])),
            (json!([1]), json!([{"op": "add", "path": "/-", "value": 2}]), json!([1, 2])),
            (json!([1]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2])),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2})),
            (json!([1, 2]), json!([{"op": "remove", "path": "/-1"}]), json!([1])),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": null}]), json!({"a": null})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": [1]}]), json!([1])),
            (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "c": 1})),
            (json!({"a": [1]}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": [1], "b": [1]})),
            (json!({"a/b~": 1}), json!([{"op": "test", "path": "/a~1b~0", "value": 1}]), json!({"a/b~": 1})),
            (json!({}), json!([{"op": "test", "path": "/a", "value": null}]), json!({})),
        ];
        for (object, patch, expect) in cases {
            assert_eq!(apply(&object, &patch), Ok(expect), "{patch}");
        }
    }

    #[test]
    fn refuses() {
        let cases = [
            (json!({}), 400, "must be a list"),
            (json!([{"op": "jump", "path": "/a"}]), 400, "unknown operation \"jump\""),
            (json!([{"op": "add", "path": "/a"}]), 400, "needs a \"value\""),
            (json!([{"path": "/a"}]), 400, "no \"op\""),
            (json!([{"op": "move", "path": "/a"}]), 400, "needs \"from\""),
            (
                json!([{"op": "remove", "path": "/x"}]),
                422,
                "operation 0 of the JSON patch (remove \"/x\") does not apply: there is no \"x\"",
            ),
            (json!([{"op": "replace", "path": "/x", "value": 1}]), 422, "there is no"),
            (json!([{"op": "add", "path": "/x/y", "value": 1}]), 422, "there is no \"x\""),
            (json!([{"op": "test", "path": "/a", "value": 2}]), 422, "the value is another"),
            (json!([{"op": "add", "path": "/l/2", "value": 2}]), 422, "outside the list"),
            (json!([{"op": "remove", "path": "/l/01"}]), 422, "is no index"),
            (json!([{"op": "move", "from": "/a", "path": "/a/b"}]), 422, "into itself"),
            (json!([{"op": "add", "path": "a", "value": 1}]), 422, "begin with a slash"),
        ];
        for (patch, code, expect) in cases {
            let (got, message) = apply(&json!({"a": 1, "l": [1]}), &patch).unwrap_err();
            assert_eq!(got, code, "{patch}");
            assert!(message.contains(expect), "{message} should have {expect}");
        }
    }

    #[test]
    fn hostile_patches_end() {
        let copy = json!({"op": "copy", "from": "", "path": "/a"});
        let many = Value::from(vec![copy.clone(); MAX_OPERATIONS + 1]);
        assert_eq!(apply(&json!({}), &many).unwrap_err().0, 413);
        let nesting = Value::from(vec![copy; MAX_OPERATIONS]);
        assert_eq!(apply(&json!({}), &nesting).unwrap_err().0, 422);
        let doubling = json!({"op": "copy", "from": "/l", "path": "/l/-"});
        assert_eq!(apply(&json!({"l": ["x".repeat(1000)]}), &Value::from(vec![doubling; 90])).unwrap_err().0, 422);
    }
}
