//! Upstream's printer columns.

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::Resource;

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Name as shown.
    pub name: &'static str,
    /// JSON type.
    pub ty: &'static str,
    /// Format, `name` for the name's column.
    pub format: &'static str,
    /// Description.
    pub description: &'static str,
    /// 0 always shown, 1 only wide.
    pub priority: i32,
}

/// The columns of a resource.
pub fn columns(_resource: &Resource) -> &'static [Column] {
    &[]
}

/// The cells of an object, one a column.
pub fn row(_resource: &Resource, _object: &Value, _now: Timestamp) -> Vec<Value> {
    Vec::new()
}
