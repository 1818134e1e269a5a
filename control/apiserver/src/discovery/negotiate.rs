//! Which form of a discovery document the client wants.

use http::HeaderMap;
use http::header::ACCEPT;

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

/// The acceptable form of the highest quality, the first among equals; `None` if nothing fits.
pub(super) fn format(headers: &HeaderMap, aggregates: bool) -> Option<Format> {
    let mut best: Option<(f32, Format)> = None;
    let mut asked = false;
    for header in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
        for range in header.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            asked = true;
            let Some((quality, format)) = one(range, aggregates) else { continue };
            if quality > 0.0 && best.is_none_or(|(known, _)| quality > known) {
                best = Some((quality, format));
            }
        }
    }
    if asked { best.map(|(_, format)| format) } else { Some(Format::Plain) }
}

fn one(range: &str, aggregates: bool) -> Option<(f32, Format)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?;
    let (mut quality, mut group, mut version, mut kind) = (1.0, "", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("q", value)) => quality = value.trim().parse().ok()?,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            Some(("as", value)) => kind = value,
            _ => {}
        }
    }
    if !matches!(media, "*/*" | "application/*" | "application/json") {
        return None;
    }
    match (group, version, kind) {
        ("", "", "") => Some((quality, Format::Plain)),
        ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") if aggregates => Some((quality, Format::V2)),
        ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") if aggregates => Some((quality, Format::V2Beta1)),
        _ => None,
    }
}
