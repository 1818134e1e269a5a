//! Names of kinds.

use std::fmt;

/// A kind in a version of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group, empty for the core group.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Kind, such as `Pod`.
    pub kind: String,
}

impl Gvk {
    /// A kind by its three names.
    pub fn new(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The kind that an object says it is; `None` without both `apiVersion` and `kind`.
    pub fn of(object: &serde_json::Value) -> Option<Self> {
        let (group, version) = parse_api_version(object.get("apiVersion")?.as_str()?)?;
        Some(Self::new(group, version, object.get("kind")?.as_str()?))
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// `v1` for the core group, `group/version` otherwise.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits `apps/v1` into group and version, `v1` into the core group and version. `None` with more than one slash or no version.
pub fn parse_api_version(text: &str) -> Option<(&str, &str)> {
    match text.split_once('/') {
        None if text.is_empty() => None,
        None => Some(("", text)),
        Some((_, version)) if version.is_empty() || version.contains('/') => None,
        Some(pair) => Some(pair),
    }
}

/// `deployments.apps`, or `pods` in the core group: how messages name a resource or a kind.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions() {
        assert_eq!(parse_api_version("v1"), Some(("", "v1")));
        assert_eq!(parse_api_version("apps/v1"), Some(("apps", "v1")));
        assert_eq!(parse_api_version("a/b/c"), None);
        assert_eq!(parse_api_version(""), None);
        assert_eq!(parse_api_version("apps/"), None);
        assert_eq!(Gvk::new("apps", "v1", "Deployment").api_version(), "apps/v1");
        assert_eq!(Gvk::new("", "v1", "Pod").to_string(), "v1, Kind=Pod");
    }
}
