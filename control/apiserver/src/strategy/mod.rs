//! What a kind adds to the generic path: a row of [`Facts`] and, where it has rules of its own, a [`Strategy`].
//!
//! To give a kind defaults or validation: write a unit struct that implements [`Strategy`] in the module of its API
//! group and name it in [`strategy`]. Nothing else is needed; a kind that is not named there takes the generic path.

mod apps;
mod batch;
pub(crate) mod certificates;
mod core;
mod discovery;
mod facts;
mod limits;
mod networking;
mod plain;
mod rbac;
mod rules;
mod storage;
mod template;
mod tools;

use apimachinery::field::FieldError;
use serde_json::Value;

pub(crate) use self::core::service::cluster_ips;
pub(crate) use self::core::small::validate_finalize;
pub(crate) use self::core::{pod_resize as resize, pod_update};
pub(crate) use facts::{Facts, NameRule, deprecation, facts, path, stand_in, zero};

/// A kind's own rules. All objects are in the storage version of the kind, with `apiVersion`, `kind` and `metadata`
/// present; generic metadata, the split of spec and status, generation and resource versions are handled around it.
pub(crate) trait Strategy: Send + Sync + 'static {
    /// Fills in what the client left out. Runs on every decoded object (create, update, patch) before admission and
    /// once more after it, so it must be idempotent.
    fn defaults(&self, _object: &mut Value) {}

    /// Sets what clients may not choose on a new object. The generic path has removed `status` where the kind has
    /// a status subresource, so initial status is set here.
    fn prepare_create(&self, _object: &mut Value) {}

    /// Checks a new object (after admission), `metadata` excepted.
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Puts back what an update of the main resource may not change. `status` is already the old one.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}

    /// Checks an update of the main resource. The default checks the new object alone; an implementation calls
    /// [`Strategy::validate`] itself where it wants that as well.
    fn validate_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(new)
    }

    /// Puts back what an update of `/status` may not change. All but `status` and `metadata` is already the old one.
    fn prepare_status_update(&self, _new: &mut Value, _old: &Value) {}

    /// Checks an update of `/status`.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Whether the generic path should refuse objects without the texts and objects that the schema calls required,
    /// because nothing here does.
    fn checks_requiredness_by_schema(&self) -> bool {
        false
    }

    /// Texts for the client's `Warning` headers; `old` is there on updates.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
}

/// The strategy of kinds without rules of their own.
#[derive(Debug)]
pub(crate) struct Default;

impl Strategy for Default {
    fn checks_requiredness_by_schema(&self) -> bool {
        true
    }
}

/// The strategy of a resource.
pub(crate) fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    // One line a kind.
    match (group, resource) {
        ("", "configmaps") => &core::small::ConfigMap,
        ("", "endpoints") => &core::small::Endpoints,
        ("" | "events.k8s.io", "events") => &core::small::Event,
        ("", "limitranges") => &limits::LimitRange,
        ("", "namespaces") => &core::small::Namespace,
        ("", "nodes") => &core::node::Node,
        ("", "persistentvolumeclaims") => &storage::Claim,
        ("", "persistentvolumes") => &storage::Volume,
        ("", "pods") => &core::pod::Pod,
        ("", "podtemplates") => &apps::PodTemplate,
        ("", "replicationcontrollers") => &apps::ReplicationController,
        ("", "resourcequotas") => &limits::Quota,
        ("", "secrets") => &core::small::Secret,
        ("", "serviceaccounts") => &core::small::ServiceAccount,
        ("", "services") => &core::service::Service,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => &rules::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => &rules::VALIDATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "validatingadmissionpolicies") => &rules::POLICY,
        ("admissionregistration.k8s.io", _) => &rules::POLICY_BINDING,
        ("apps", "controllerrevisions") => &apps::REVISION,
        ("apps", "daemonsets") => &apps::DaemonSet,
        ("apps", "deployments") => &apps::Deployment,
        ("apps", "replicasets") => &apps::ReplicaSet,
        ("apps", "statefulsets") => &apps::StatefulSet,
        ("autoscaling", "horizontalpodautoscalers") => &limits::Autoscaler,
        ("batch", "cronjobs") => &batch::CronJob,
        ("batch", "jobs") => &batch::Job,
        ("certificates.k8s.io", "certificatesigningrequests") => &certificates::Request,
        ("coordination.k8s.io", "leases") => &discovery::Lease,
        ("discovery.k8s.io", "endpointslices") => &discovery::EndpointSlice,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &rules::FLOW,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &rules::LEVEL,
        ("networking.k8s.io", "ingressclasses") => &networking::INGRESS_CLASS,
        ("networking.k8s.io", "ingresses") => &networking::Ingress,
        ("networking.k8s.io", "ipaddresses") => &networking::ADDRESS,
        ("networking.k8s.io", "networkpolicies") => &networking::NetworkPolicy,
        ("networking.k8s.io", "servicecidrs") => &networking::SERVICE_CIDR,
        ("node.k8s.io", "runtimeclasses") => &limits::RUNTIME_CLASS,
        ("policy", "poddisruptionbudgets") => &limits::BUDGET,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => &rbac::Binding { cluster: true },
        ("rbac.authorization.k8s.io", "clusterroles") => &rbac::Role { cluster: true },
        ("rbac.authorization.k8s.io", "rolebindings") => &rbac::Binding { cluster: false },
        ("rbac.authorization.k8s.io", "roles") => &rbac::Role { cluster: false },
        ("scheduling.k8s.io", "priorityclasses") => &limits::PRIORITY_CLASS,
        ("storage.k8s.io", "csidrivers") => &storage::DRIVER,
        ("storage.k8s.io", "csistoragecapacities") => &storage::CAPACITY,
        ("storage.k8s.io", "storageclasses") => &storage::CLASS,
        ("storage.k8s.io", "volumeattachments") => &storage::ATTACHMENT,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::ATTRIBUTES,
        _ => &Default,
    }
}
