//! The resources of `resources.txt`, whose form `xtask/codegen/src/resources.rs` describes.

use std::borrow::Cow;

use crate::resources::{Resource, Subresource};
use crate::schema::Text;

const RESOURCES: &str = include_str!("resources.txt");

/// All resources, sorted by group, version and name.
pub(crate) fn read() -> Vec<Resource> {
    RESOURCES.lines().map(read_resource).collect()
}

fn read_resource(line: &'static str) -> Resource {
    let mut parts = line.split('\t');
    let mut next = || parts.next().map_or("", undash);
    Resource {
        group: next().into(),
        version: next().into(),
        resource: next().into(),
        singular: next().into(),
        kind: next().into(),
        list_kind: next().into(),
        namespaced: next() == "N",
        verbs: Cow::Owned(next().split(',').collect()),
        short_names: texts(next()),
        categories: texts(next()),
        storage_group: next().into(),
        storage_version: next().into(),
        subresources: Cow::Owned(parts.map(read_subresource).collect()),
    }
}

fn read_subresource(part: &'static str) -> Subresource {
    let mut words = part.split(' ');
    let mut next = || words.next().map_or("", undash);
    Subresource {
        name: next().into(),
        group: next().into(),
        version: next().into(),
        kind: next().into(),
        verbs: Cow::Owned(next().split(',').collect()),
    }
}

fn undash(text: &'static str) -> &'static str {
    if text == "-" { "" } else { text }
}

fn texts(list: &'static str) -> Cow<'static, [Text]> {
    list.split(',').filter(|text| !text.is_empty()).map(Text::from).collect::<Vec<_>>().into()
}
