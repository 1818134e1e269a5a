//! Label and field selectors.

/// Which labels an object must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// All must hold. Empty selects everything.
    pub requirements: Vec<Requirement>,
    /// Selects nothing at all (a selector object that is absent).
    pub nothing: bool,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// With which values, sorted.
    pub values: Vec<String>,
}

/// How a label's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=` and `==`.
    Equals,
    /// `!=`; holds without the label as well.
    NotEquals,
    /// `in`.
    In,
    /// `notin`; holds without the label as well.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// `>` of whole numbers.
    GreaterThan,
    /// `<` of whole numbers.
    LessThan,
}

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
