//! Facts of a kind that no schema tells: how it may be named, whether updates may create, what can be selected by field.

use std::time::Duration;

/// How the name of an object is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// A DNS subdomain (most kinds).
    Subdomain,
    /// A DNS label by RFC 1123.
    Label,
    /// A DNS label by RFC 1035, which must start with a letter.
    Label1035,
    /// Anything that fits one segment of a URL's path.
    PathSegment,
}

/// One kind's facts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// How names are checked.
    pub(crate) name: NameRule,
    /// Whether `metadata.generation` counts changes of what the user wants.
    pub(crate) generation: bool,
    /// Whether annotations count as such a change.
    pub(crate) generation_counts_annotations: bool,
    /// Whether PUT of an object that does not exist creates it.
    pub(crate) create_on_update: bool,
    /// Whether PUT without a resourceVersion replaces whatever is there.
    pub(crate) unconditional_update: bool,
    /// Whether deletion takes a grace period (pods).
    pub(crate) graceful: bool,
    /// How long an object lives (events).
    pub(crate) ttl: Option<Duration>,
    /// Selectable fields beside `metadata.name` and `metadata.namespace`, by their names in the stored version.
    pub(crate) fields: &'static [&'static str],
    /// Whether a new object keeps the status it was sent with (nodes register themselves with theirs).
    pub(crate) keeps_initial_status: bool,
    /// The metadata that a write of the status leaves as it is.
    pub(crate) status_leaves: &'static [&'static str],
    /// Whether a deletion that does not say leaves dependents behind.
    pub(crate) orphans_dependents: bool,
    /// Whether DELETE answers the object rather than a Status.
    pub(crate) returns_deleted: bool,
}

/// Kinds whose DELETE answers the object.
const RETURNS_DELETED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
];

/// Kinds older than the garbage collector: clients that do not know it expect the pods to stay.
const ORPHANS_DEPENDENTS: &[(&str, &str)] = &[("", "replicationcontrollers"), ("batch", "jobs")];

/// Kinds with a status subresource that nevertheless have no generation.
const NO_GENERATION: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "resourcequotas"),
    ("", "services"),
    ("apiregistration.k8s.io", "apiservices"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("internal.apiserver.k8s.io", "storageversions"),
    ("resource.k8s.io", "resourceclaims"),
    ("storage.k8s.io", "volumeattachments"),
    ("storagemigration.k8s.io", "storageversionmigrations"),
];

/// Kinds without a status subresource that have a generation.
const GENERATION: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
];

/// Kinds that PUT may create.
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose updates must name a resourceVersion.
const CONDITIONAL_UPDATE: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", ""),
    ("apiextensions.k8s.io", ""),
    ("apiregistration.k8s.io", ""),
    ("coordination.k8s.io", ""),
    ("flowcontrol.apiserver.k8s.io", ""),
    ("internal.apiserver.k8s.io", ""),
    ("networking.k8s.io", "ipaddresses"),
    ("node.k8s.io", ""),
    ("policy", ""),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("storagemigration.k8s.io", ""),
];

fn listed(list: &[(&str, &str)], group: &str, resource: &str) -> bool {
    list.iter().any(|(g, r)| *g == group && (*r == resource || r.is_empty()))
}

fn name_rule(group: &str, resource: &str) -> NameRule {
    match (group, resource) {
        ("rbac.authorization.k8s.io", _) => NameRule::PathSegment,
        ("", "namespaces") => NameRule::Label,
        ("", "services") => NameRule::Label1035,
        ("certificates.k8s.io", "clustertrustbundles") | ("networking.k8s.io", "ipaddresses") => NameRule::PathSegment,
        _ => NameRule::Subdomain,
    }
}

fn fields(group: &str, resource: &str) -> &'static [&'static str] {
    match (group, resource) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => &["spec.signerName"],
        ("certificates.k8s.io", "podcertificaterequests") => &["spec.signerName", "spec.nodeName"],
        ("resource.k8s.io", "resourceslices") => &["spec.driver", "spec.nodeName"],
        _ => &[],
    }
}

/// What every answer tells of an API that is on its way out.
pub(crate) fn deprecation(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

/// The facts of a resource. `has_status` tells whether it has a status subresource.
pub(crate) fn facts(group: &str, resource: &str, has_status: bool) -> Facts {
    Facts {
        name: name_rule(group, resource),
        generation: (has_status && !listed(NO_GENERATION, group, resource)) || listed(GENERATION, group, resource),
        generation_counts_annotations: (group, resource) == ("apps", "deployments"),
        create_on_update: listed(CREATE_ON_UPDATE, group, resource),
        unconditional_update: !listed(CONDITIONAL_UPDATE, group, resource),
        graceful: (group, resource) == ("", "pods"),
        ttl: matches!((group, resource), ("" | "events.k8s.io", "events")).then(|| Duration::from_secs(3600)),
        fields: fields(group, resource),
        keeps_initial_status: (group, resource) == ("", "nodes"),
        status_leaves: status_leaves(group, resource),
        orphans_dependents: listed(ORPHANS_DEPENDENTS, group, resource),
        returns_deleted: listed(RETURNS_DELETED, group, resource),
    }
}

/// Upstream's status strategies: most leave only what others rely on, some all that clients may write.
fn status_leaves(group: &str, resource: &str) -> &'static [&'static str] {
    match (group, resource) {
        ("apps", "deployments") => &["ownerReferences", "finalizers", "labels"],
        ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" | "resource.k8s.io", _)
        | ("storage.k8s.io", "volumeattachments")
        | ("certificates.k8s.io", "podcertificaterequests") => {
            &["ownerReferences", "finalizers", "labels", "annotations"]
        }
        _ => &["ownerReferences", "finalizers"],
    }
}

/// Where a selectable field stands in the stored version.
pub(crate) fn path(field: &str) -> &str {
    match field {
        "source" => "source.component",
        own => own,
    }
}

/// The field whose value counts where this one is empty: events of new clients have a reporting controller only.
pub(crate) fn stand_in(field: &str) -> Option<&'static str> {
    (field == "source").then_some("reportingComponent")
}

/// What a selectable field that is absent from an object counts as.
pub(crate) fn zero(field: &str) -> &'static str {
    match field {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}
