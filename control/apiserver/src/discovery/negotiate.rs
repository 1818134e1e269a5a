//! Which form of a discovery document the client wants.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::accept;

/// The forms of a discovery document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    /// One document a level.
    Plain,
    /// All in one, `apidiscovery.k8s.io/v2`.
    V2,
    /// The same at v2beta1, for kubectl before 1.30.
    V2Beta1,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Plain => "application/json",
            Format::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Format::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

/// The form that the client likes best; `None` if it takes none.
pub(super) fn format(headers: &HeaderMap, aggregates: bool) -> Option<Format> {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return Some(Format::Plain);
    }
    accept::clauses(&accept).iter().filter(|clause| clause.takes_json()).find_map(|clause| match clause.target() {
        ("", "", "") => Some(Format::Plain),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if aggregates => Some(Format::V2),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") if aggregates => Some(Format::V2Beta1),
        _ => None,
    })
}
