//! The three kinds of patches.

use serde_json::Value;

use crate::schema::Schema;
use crate::status::{Result, Status};

/// JSON patch (RFC 6902).
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value> {
    let _: Value = serde_json::from_slice(patch).map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(object.clone())
}

/// JSON merge patch (RFC 7386).
pub fn merge_patch(object: &Value, _patch: &Value) -> Value {
    object.clone()
}

/// Strategic merge patch.
pub fn strategic_merge(object: &Value, patch: &Value, _schema: &Schema) -> Result<Value> {
    Ok(merge_patch(object, patch))
}
