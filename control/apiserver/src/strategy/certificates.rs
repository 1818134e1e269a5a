//! CertificateSigningRequests. Who asks is set in admission, which knows the user.

use apimachinery::field::{FieldError, Path};
use apimachinery::{names, time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::Strategy;
use super::tools::{Problems, empty, immutable, indexed, int, items, keep, strings, text};

const PEM_TYPE: &str = "CERTIFICATE REQUEST";

/// The conditions that say what became of a request: they are final.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The strategy of CertificateSigningRequests.
#[derive(Debug)]
pub(super) struct Request;

impl Strategy for Request {
    fn validate(&self, request: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &request["spec"]);
        if let Err(why) = with_request(spec, |_| ()) {
            let value = spec.get("request").cloned().unwrap_or(Value::Null);
            problems.push(FieldError::invalid(&path.child("request"), value, why));
        }
        if empty(spec, "usages") {
            problems.push(FieldError::required(&path.child("usages"), ""));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, usage) in strings(spec, "usages").enumerate() {
            let at = path.child("usages").index(index);
            if !USAGES.contains(&usage) {
                problems.push(FieldError::not_supported(&at, usage, &USAGES));
            } else if !seen.insert(usage) {
                problems.push(FieldError::duplicate(&at, usage));
            }
        }
        signer_name(&path.child("signerName"), text(spec, "signerName"), &mut problems);
        if let Some(seconds) = int(spec, "expirationSeconds").filter(|seconds| *seconds < 600) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            problems.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
        }
        problems
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
    }

    fn validate_update(&self, _: &Value, _: &Value) -> Problems {
        Vec::new()
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        // Approval has a subresource of its own.
        let approval = |one: &Value| matches!(text(one, "type"), "Approved" | "Denied");
        let mut all: Vec<Value> =
            items(&old["status"], "conditions").iter().filter(|one| approval(one)).cloned().collect();
        all.extend(items(&new["status"], "conditions").iter().filter(|one| !approval(one)).cloned());
        if !all.is_empty() {
            new["status"]["conditions"] = all.into();
        }
        stamp(new, old);
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = conditions(new, old);
        if !empty(&old["status"], "certificate") {
            immutable(&Path::new("status"), &new["status"], &old["status"], "certificate", &mut problems);
        }
        problems
    }
}

/// Reads the request that a spec carries.
pub(crate) fn with_request<T>(
    spec: &Value,
    read: impl FnOnce(&X509CertificationRequest<'_>) -> T,
) -> Result<T, String> {
    let bytes = STANDARD.decode(text(spec, "request")).map_err(|error| error.to_string())?;
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| format!("PEM block type must be {PEM_TYPE}"))?;
    if pem.label != PEM_TYPE {
        return Err(format!("PEM block type must be {PEM_TYPE}"));
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    Ok(read(&request))
}

fn signer_name(path: &Path, name: &str, problems: &mut Problems) {
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        problems.push(FieldError::invalid(path, name, detail));
        return;
    };
    for message in names::is_dns1123_subdomain(domain) {
        problems.push(FieldError::invalid(path, domain, format!("validating label {domain:?}: {message}")));
    }
    if !domain.contains('.') {
        problems.push(FieldError::invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for message in names::is_dns1123_subdomain(rest) {
        problems.push(FieldError::invalid(path, rest, format!("validating label {rest:?}: {message}")));
    }
}

/// Gives new conditions their times.
pub(crate) fn stamp(new: &mut Value, old: &Value) {
    let now = time::now_rfc3339();
    let known = items(&old["status"], "conditions").to_vec();
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for one in conditions {
        if empty(one, "lastUpdateTime") {
            one["lastUpdateTime"] = now.as_str().into();
        }
        if empty(one, "lastTransitionTime") {
            let before =
                known.iter().find(|old| text(old, "type") == text(one, "type") && old["status"] == one["status"]);
            let since = before.map_or("", |before| text(before, "lastTransitionTime"));
            one["lastTransitionTime"] = if since.is_empty() { &*now } else { since }.into();
        }
    }
}

/// What is wrong with the conditions of an update.
pub(crate) fn conditions(new: &Value, old: &Value) -> Problems {
    let mut problems = Vec::new();
    let path = Path::new("status").child("conditions");
    let has =
        |object: &Value, kind: &str| items(&object["status"], "conditions").iter().any(|one| text(one, "type") == kind);
    for (path, one) in indexed(&new["status"], "conditions", &Path::new("status")) {
        let (kind, status) = (text(one, "type"), text(one, "status"));
        if kind.is_empty() {
            problems.push(FieldError::required(&path.child("type"), ""));
        }
        let at = path.child("status");
        match status {
            "True" => {}
            "" => problems.push(FieldError::required(&at, "")),
            "False" | "Unknown" if FINAL.contains(&kind) => {
                problems.push(FieldError::not_supported(&at, status, &["True"]));
            }
            "False" | "Unknown" => {}
            other => problems.push(FieldError::not_supported(&at, other, &["False", "True", "Unknown"])),
        }
    }
    for kind in FINAL {
        if has(old, kind) && !has(new, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            problems.push(FieldError::forbidden(&path, detail));
        }
    }
    if has(new, "Approved") && has(new, "Denied") {
        let value = new["status"]["conditions"].clone();
        problems.push(FieldError::invalid(&path, value, "Approved and Denied conditions are mutually exclusive"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(spec: &Value) -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let mut whole =
            json!({"request": STANDARD.encode(pem), "signerName": "example.com/s", "usages": ["client auth"]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"spec": whole})
    }

    #[test]
    fn requests() {
        let cases = [
            (json!({}), vec![]),
            (
                json!({"request": "anVuaw=="}),
                vec!["spec.request: Invalid value: \"anVuaw==\": PEM block type must be CERTIFICATE REQUEST"],
            ),
            (json!({"usages": []}), vec!["spec.usages: Required value"]),
            (
                json!({"signerName": "x"}),
                vec![
                    "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            (
                json!({"expirationSeconds": 5}),
                vec![
                    "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
                ],
            ),
        ];
        for (spec, expected) in cases {
            let said: Vec<_> = Request.validate(&request(&spec)).iter().map(ToString::to_string).collect();
            assert_eq!(said, expected, "{spec}");
        }
    }

    #[test]
    fn an_approval_is_final() {
        let with = |kinds: &[&str]| {
            let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"status": {"conditions": all}})
        };
        assert!(conditions(&with(&["Approved"]), &with(&[])).is_empty());
        assert_eq!(conditions(&with(&[]), &with(&["Approved"])).len(), 1);
        assert_eq!(conditions(&with(&["Approved", "Denied"]), &with(&["Approved"])).len(), 1);
        let (old, mut new) = (with(&["Approved"]), with(&["Ready"]));
        Request.prepare_status_update(&mut new, &old);
        let kinds: Vec<_> = items(&new["status"], "conditions").iter().map(|one| text(one, "type")).collect();
        assert_eq!(kinds, ["Approved", "Ready"]);
        assert!(!empty(&new["status"]["conditions"][1], "lastTransitionTime"));
    }
}
