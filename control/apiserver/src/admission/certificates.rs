//! Certificate requests: who asks, who may approve and sign, and what nobody gets.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::auth::MASTERS;
use crate::authz;
use crate::registry::Registry;
use crate::strategy::certificates::with_request;

/// The plugin: upstream's CertificateApproval, CertificateSigning and CertificateSubjectRestriction.
pub(super) struct Certificates;

#[async_trait]
impl Plugin for Certificates {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Delete && attributes.of("certificates.k8s.io", "certificatesigningrequests")
    }

    async fn admit(&self, _registry: &Registry, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.object["spec"].is_object() {
            return Ok(());
        }
        let user = attributes.user;
        let fields = [
            ("username", json!(user.name)),
            ("uid", json!(user.uid)),
            ("groups", json!(user.groups)),
            ("extra", json!(user.extra)),
        ];
        for (field, value) in fields {
            attributes.object["spec"][field] = value;
        }
        if let Some(spec) = attributes.object["spec"].as_object_mut() {
            spec.retain(|_, value| !(value == &json!("") || value == &json!([]) || value == &json!({})));
        }
        Ok(())
    }

    async fn validate(&self, _registry: &Registry, attributes: &Attributes<'_>) -> Result<(), Status> {
        let spec = &attributes.object["spec"];
        let signer = spec["signerName"].as_str().unwrap_or_default();
        let (verb, what) = match (attributes.operation, attributes.subresource) {
            (Operation::Create, "") => return subject(attributes, spec, signer),
            (Operation::Update, "approval") => ("approve", "approve"),
            (Operation::Update, "status") if signs(attributes) => ("sign", "sign"),
            _ => return Ok(()),
        };
        if may(attributes, verb, signer) {
            return Ok(());
        }
        Err(attributes.forbidden(format_args!("user not permitted to {what} requests with signerName {signer:?}")))
    }
}

/// Whether an update of the status says more than nothing.
fn signs(attributes: &Attributes<'_>) -> bool {
    let status = |object: &Value, field: &str| object["status"][field].clone();
    attributes.old.is_some_and(|old| {
        ["certificate", "conditions"].iter().any(|field| status(old, field) != status(&attributes.object, field))
    })
}

/// Whether the user may act for a signer: by its name, or for all of its domain.
fn may(attributes: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let Some(authorizer) = attributes.authorizer else { return true };
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].into_iter().any(|name| {
        let wanted = authz::Attributes {
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            name,
            is_resource: true,
            ..authz::Attributes::default()
        };
        authorizer.allowed(attributes.user, &wanted)
    })
}

/// Nobody becomes a master by asking for a certificate.
fn subject(attributes: &Attributes<'_>, spec: &Value, signer: &str) -> Result<(), Status> {
    if signer != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let masters = with_request(spec, |request| {
        let mut groups = request.certification_request_info.subject.iter_organization();
        groups.any(|group| group.as_str() == Ok(MASTERS))
    });
    match masters {
        Ok(true) => {
            Err(attributes.forbidden(format_args!("use of {signer} signer with {MASTERS} group is not allowed")))
        }
        _ => Ok(()),
    }
}
