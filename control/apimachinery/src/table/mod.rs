//! Upstream's printer columns: what `kubectl get` shows of each kind, as columns and cells.

mod apps;
mod cells;
mod core;
mod duration;
mod others;
mod pod;

use jiff::Timestamp;
use serde_json::Value;

use crate::resources::Resource;

pub use duration::human_duration;

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

/// The columns of a kind, and how its cells are made.
struct Printer {
    columns: &'static [Column],
    row: Row,
}

/// How an object's cells are made.
type Row = fn(&Value, Timestamp) -> Vec<Value>;

const DESCRIPTION_NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.";
const DESCRIPTION_AGE: &str =
    "CreationTimestamp is a timestamp representing the server time when this object was created.";

const NAME: Column = Column { name: "Name", ty: "string", format: "name", description: DESCRIPTION_NAME, priority: 0 };
const AGE: Column = Column { name: "Age", ty: "string", format: "", description: DESCRIPTION_AGE, priority: 0 };

const fn text(name: &'static str) -> Column {
    Column { name, ty: "string", format: "", description: "", priority: 0 }
}

const fn number(name: &'static str) -> Column {
    Column { ty: "integer", ..text(name) }
}

const fn wide(name: &'static str) -> Column {
    Column { priority: 1, ..text(name) }
}

const PLAIN: Printer =
    Printer { columns: &[NAME, AGE], row: |object, now| vec![cells::name(object), cells::age(object, now)] };

/// The columns of a Scale.
pub const SCALE_COLUMNS: &[Column] = &[NAME, number("Desired"), number("Available"), AGE];

/// The cells of a Scale.
pub fn scale_row(scale: &Value, now: Timestamp) -> Vec<Value> {
    let replicas = |part: &str| Value::from(cells::number(scale, part));
    vec![cells::name(scale), replicas("spec.replicas"), replicas("status.replicas"), cells::age(scale, now)]
}

/// The columns of a resource.
pub fn columns(resource: &Resource) -> &'static [Column] {
    printer(resource).columns
}

/// The cells of an object, one a column.
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    (printer(resource).row)(object, now)
}

fn printer(resource: &Resource) -> Printer {
    let (group, name) = (&*resource.group, &*resource.resource);
    let found = match group {
        "" => core::printer(name),
        "apps" | "batch" | "autoscaling" | "policy" => apps::printer(name),
        _ => others::printer(group, name),
    };
    found.unwrap_or(PLAIN)
}

#[cfg(test)]
mod tests;
