//! The order of merged lists: what a patch names keeps the patch's order; the other items keep theirs, and go behind what the patch
//! names unless the server had them before it.

use serde_json::Value;

/// How items of a list are told apart.
#[derive(Clone, Copy)]
pub(super) enum Identity<'a> {
    /// By this field.
    Key(&'a str),
    /// By value.
    Value,
}

impl Identity<'_> {
    /// What tells the item from others; `None` where it lacks the key.
    pub(super) fn of<'v>(&self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Key(key) => item.get(key),
            Self::Value => Some(item),
        }
    }

    /// Where the item is in a list.
    pub(super) fn position(&self, list: &[Value], item: &Value) -> Option<usize> {
        let wanted = self.of(item)?;
        list.iter().position(|one| self.of(one) == Some(wanted))
    }
}

/// Orders `merged`: items in `patch_order` in that order, the others in `server_order`, interleaved as the server had them.
pub(super) fn arrange(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    identity: Identity<'_>,
) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| identity.position(list, item);
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(patch_order, item).is_some());
    named.sort_by_key(|item| place(patch_order, item));
    others.sort_by_key(|item| place(server_order, item).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(name), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (place(server_order, other), place(server_order, name)) {
            (Some(other), Some(name)) => other < name,
            _ => false,
        };
        ordered.extend(if other_first { others.next() } else { named.next() });
    }
    ordered.extend(named);
    ordered.extend(others);
    ordered
}
