//! OpenAPI v3 documents from the facts.

use serde_json::Value;

/// The document of a group version; `None` where it is not served.
pub fn v3_group(_group: &str, _version: &str) -> Option<Value> {
    None
}
