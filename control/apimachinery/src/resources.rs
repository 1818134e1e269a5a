//! The resources that the API serves, as data: names, scope, verbs, subresources, short names, categories.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::gvk::Gvk;
use crate::schema::Text;

/// A resource in a version of a group.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: Text,
    /// Version.
    pub version: Text,
    /// Plural name.
    pub resource: Text,
    /// Singular name.
    pub singular: Text,
    /// Kind.
    pub kind: Text,
    /// Kind of lists.
    pub list_kind: Text,
    /// Whether objects belong to a namespace.
    pub namespaced: bool,
    /// Verbs (with `watch` where there is `list`).
    pub verbs: Cow<'static, [&'static str]>,
    /// Short names for the command line.
    pub short_names: Cow<'static, [Text]>,
    /// Categories such as `all`.
    pub categories: Cow<'static, [Text]>,
    /// Subresources, sorted by name.
    pub subresources: Cow<'static, [Subresource]>,
    /// The group under which objects are stored: events of `events.k8s.io` are those of the core group.
    pub storage_group: Text,
    /// The version in which objects are stored.
    pub storage_version: Text,
}

/// A subresource, such as `status`.
#[derive(Clone, Debug, Default)]
pub struct Subresource {
    /// Name, such as `status`.
    pub name: Text,
    /// Kind of the body.
    pub kind: Text,
    /// Group of the kind.
    pub group: Text,
    /// Version of the kind.
    pub version: Text,
    /// Verbs; `connect` for streams.
    pub verbs: Cow<'static, [&'static str]>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        crate::gvk::api_version(&self.group, &self.version)
    }

    /// The kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(&*self.group, &*self.version, &*self.kind)
    }

    /// Whether the resource has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}

/// All built-in resources, sorted by group, version and name.
pub fn all() -> &'static [Resource] {
    static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
    ALL.get_or_init(crate::facts::resources::read)
}

/// The built-in resource of this name.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    let wanted = (group, version, resource);
    let all = all();
    let found = all.binary_search_by(|one| (&*one.group, &*one.version, &*one.resource).cmp(&wanted));
    found.ok().map(|index| &all[index])
}

/// The built-in resource of this kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    all().iter().find(|one| one.kind == kind && one.group == group && one.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_found_and_well_formed() {
        assert!(all().len() > 90);
        for resource in all() {
            let found = find(&resource.group, &resource.version, &resource.resource);
            assert!(found.is_some_and(|found| std::ptr::eq(found, resource)), "{}", resource.resource);
            assert!(crate::schema::Schema::of(&resource.gvk()).is_some(), "{} has a schema", resource.kind);
            assert!(!resource.storage_version.is_empty() && resource.verbs.iter().all(|verb| !verb.is_empty()));
            assert!(find(&resource.storage_group, &resource.storage_version, &resource.resource).is_some());
            assert_eq!(
                resource.has_verb("watch"),
                resource.has_verb("list") && resource.resource != "componentstatuses"
            );
        }
    }

    #[test]
    fn pods() {
        let pods = find("", "v1", "pods").unwrap();
        assert!(pods.namespaced && pods.short_names[0] == "po" && pods.categories[0] == "all");
        assert_eq!((&*pods.singular, &*pods.list_kind), ("pod", "PodList"));
        let eviction = pods.subresource("eviction").unwrap();
        assert_eq!((&*eviction.group, &*eviction.kind, &*eviction.verbs), ("policy", "Eviction", &["create"][..]));
        assert_eq!(find("events.k8s.io", "v1", "events").unwrap().storage_group, "");
        assert_eq!(find("autoscaling", "v1", "horizontalpodautoscalers").unwrap().storage_version, "v2");
        assert_eq!(find_kind("apps", "v1", "Deployment").unwrap().resource, "deployments");
    }
}
