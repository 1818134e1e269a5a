//! `metav1.Status`, built from fields and worded as upstream's `apimachinery/pkg/api/errors` words it.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::FieldError;
use crate::gvk::qualified;
use crate::quote::quote;

/// Machine-readable reasons of failures.
pub mod reason {
    /// 400.
    pub const BAD_REQUEST: &str = "BadRequest";
    /// 401.
    pub const UNAUTHORIZED: &str = "Unauthorized";
    /// 403.
    pub const FORBIDDEN: &str = "Forbidden";
    /// 404.
    pub const NOT_FOUND: &str = "NotFound";
    /// 405.
    pub const METHOD_NOT_ALLOWED: &str = "MethodNotAllowed";
    /// 406.
    pub const NOT_ACCEPTABLE: &str = "NotAcceptable";
    /// 409: the name is taken.
    pub const ALREADY_EXISTS: &str = "AlreadyExists";
    /// 409: someone else wrote meanwhile.
    pub const CONFLICT: &str = "Conflict";
    /// 410: the thing is gone for good.
    pub const GONE: &str = "Gone";
    /// 410: the revision is no longer kept.
    pub const EXPIRED: &str = "Expired";
    /// 413.
    pub const REQUEST_ENTITY_TOO_LARGE: &str = "RequestEntityTooLarge";
    /// 415.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "UnsupportedMediaType";
    /// 422.
    pub const INVALID: &str = "Invalid";
    /// 429.
    pub const TOO_MANY_REQUESTS: &str = "TooManyRequests";
    /// 500.
    pub const INTERNAL_ERROR: &str = "InternalError";
    /// 500: try again.
    pub const SERVER_TIMEOUT: &str = "ServerTimeout";
    /// 500: a stored object cannot be read.
    pub const STORE_READ_ERROR: &str = "StorageReadError";
    /// 503.
    pub const SERVICE_UNAVAILABLE: &str = "ServiceUnavailable";
    /// 504.
    pub const TIMEOUT: &str = "Timeout";
    /// 507.
    pub const INSUFFICIENT_STORAGE: &str = "InsufficientStorage";
    /// Nothing is known.
    pub const UNKNOWN: &str = "";

    pub(super) const ALL: [&str; 21] = [
        BAD_REQUEST,
        UNAUTHORIZED,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        NOT_ACCEPTABLE,
        ALREADY_EXISTS,
        CONFLICT,
        GONE,
        EXPIRED,
        REQUEST_ENTITY_TOO_LARGE,
        UNSUPPORTED_MEDIA_TYPE,
        INVALID,
        TOO_MANY_REQUESTS,
        INTERNAL_ERROR,
        SERVER_TIMEOUT,
        STORE_READ_ERROR,
        SERVICE_UNAVAILABLE,
        TIMEOUT,
        INSUFFICIENT_STORAGE,
        UNKNOWN,
    ];
}

const CAUSES: [&str; 18] = [
    "FieldValueNotFound",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueTooLong",
    "FieldValueTooShort",
    "FieldValueTooMany",
    "FieldValueTooFew",
    "InternalError",
    "FieldValueTypeInvalid",
    "UnexpectedServerResponse",
    "FieldManagerConflict",
    "ResourceVersionTooLarge",
    "NamespaceTerminating",
    "DisruptionBudget",
    "",
];

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// One of [`reason`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// What a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The resource's group.
    pub group: String,
    /// The resource (plural), or the kind where the failure is about the object's content.
    pub kind: String,
    /// The object's UID.
    pub uid: String,
    /// Each single cause.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: u32,
}

/// One of the causes of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The field's path.
    pub field: String,
}

impl std::error::Error for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A result whose error answers the client.
pub type Result<T> = std::result::Result<T, Status>;

impl Status {
    fn bare(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(code: u16, reason: &'static str, group: &str, kind: &str, name: &str, message: String) -> Self {
        let details = Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() };
        Self { code, reason, message, details: Some(Box::new(details)) }
    }

    fn retry(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &'static str, message: impl Into<String>, field: impl Into<String>) -> Self {
        let cause = Cause { reason, message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// 400 BadRequest.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::bare(400, reason::BAD_REQUEST, message)
    }

    /// 401 Unauthorized.
    pub fn unauthorized() -> Self {
        Self::bare(401, reason::UNAUTHORIZED, "Unauthorized")
    }

    /// 403 Forbidden: `pods "x" is forbidden: message`.
    pub fn forbidden(group: &str, resource: &str, name: &str, message: impl fmt::Display) -> Self {
        let text = match (resource, name) {
            ("", _) => format!("forbidden: {message}"),
            (_, "") => format!("{} is forbidden: {message}", qualified(group, resource)),
            _ => format!("{} {} is forbidden: {message}", qualified(group, resource), quote(name)),
        };
        Self::about(403, reason::FORBIDDEN, group, resource, name, text)
    }

    /// 404 NotFound: `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self::about(404, reason::NOT_FOUND, group, resource, name, message)
    }

    /// 404 NotFound for a path that is no resource.
    pub fn page_not_found() -> Self {
        let message = "the server could not find the requested resource";
        Self { details: Some(Box::default()), ..Self::bare(404, reason::NOT_FOUND, message) }
    }

    /// 409 AlreadyExists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        Self::about(409, reason::ALREADY_EXISTS, group, resource, name, message)
    }

    /// 409 AlreadyExists after the attempts to find a free generated name.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource),
            quote(name)
        );
        Self::about(409, reason::ALREADY_EXISTS, group, resource, name, message).retry(retry_after_seconds)
    }

    /// 409 Conflict: `Operation cannot be fulfilled on pods "x": message`.
    pub fn conflict(group: &str, resource: &str, name: &str, message: impl fmt::Display) -> Self {
        let text =
            format!("Operation cannot be fulfilled on {} {}: {message}", qualified(group, resource), quote(name));
        Self::about(409, reason::CONFLICT, group, resource, name, text)
    }

    /// 409 Conflict of a write against an older revision than the stored one.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let message =
            "the object has been modified; please apply your changes to the latest version and try again".to_owned();
        Self::conflict(group, resource, name, message)
    }

    /// 410 Gone.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::bare(410, reason::GONE, message)
    }

    /// 410 Expired: the revision is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::bare(410, reason::EXPIRED, message)
    }

    /// 422 Invalid, with a cause a field. `kind` is the kind, not the plural.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let subject = format!("{} {} is invalid", qualified(group, kind), quote(name));
        let mut messages: Vec<String> = Vec::with_capacity(errors.len());
        for error in &errors {
            let message = error.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let message = match messages.as_slice() {
            [] => subject,
            [one] => format!("{subject}: {one}"),
            several => format!("{subject}: [{}]", several.join(", ")),
        };
        let mut status = Self::about(422, reason::INVALID, group, kind, name, message);
        for error in errors {
            let body = error.body();
            status = status.with_cause(error.kind.reason(), body, error.path);
        }
        status
    }

    /// 405 MethodNotAllowed.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&qualified(group, resource)));
        Self::about(405, reason::METHOD_NOT_ALLOWED, group, resource, "", message)
    }

    /// 406 NotAcceptable.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::bare(406, reason::NOT_ACCEPTABLE, message)
    }

    /// 415 UnsupportedMediaType.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::bare(415, reason::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// 413 RequestEntityTooLarge.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::bare(413, reason::REQUEST_ENTITY_TOO_LARGE, format!("Request entity too large: {message}"))
    }

    /// 422 Unprocessable for a request that is well formed but cannot be carried out, such as a JSON patch whose test fails.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self { details: Some(Box::default()), ..Self::bare(422, reason::INVALID, message) }
    }

    /// 500 InternalError.
    pub fn internal(message: impl fmt::Display) -> Self {
        let text = message.to_string();
        Self::bare(500, reason::INTERNAL_ERROR, format!("Internal error occurred: {text}")).with_cause("", text, "")
    }

    /// 504 Timeout.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::bare(504, reason::TIMEOUT, format!("Timeout: {message}")).retry(0)
    }

    /// 429 TooManyRequests; the client may try again after so many seconds, where that is known.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self::bare(429, reason::TOO_MANY_REQUESTS, message).retry(seconds)
    }

    /// 503 ServiceUnavailable.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::bare(503, reason::SERVICE_UNAVAILABLE, message)
    }

    /// 507: the store is full.
    pub fn insufficient_storage(message: impl Into<String>) -> Self {
        Self::bare(507, reason::INSUFFICIENT_STORAGE, message)
    }

    /// The `v1.Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }

    /// Reads a `v1.Status` object; `None` for anything else.
    pub fn from_value(value: &Value) -> Option<Self> {
        if value.get("kind")?.as_str()? != "Status" {
            return None;
        }
        let given = text(value, "reason");
        Some(Self {
            code: value.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            reason: known(&reason::ALL, &given),
            message: text(value, "message"),
            details: value.get("details").map(|details| Box::new(Details::from_value(details))),
        })
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut details = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            details.insert(key.into(), text.as_str().into());
        }
        if !self.causes.is_empty() {
            details.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            details.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(details)
    }

    fn from_value(value: &Value) -> Self {
        let causes = value.get("causes").and_then(Value::as_array).into_iter().flatten();
        Self {
            name: text(value, "name"),
            group: text(value, "group"),
            kind: text(value, "kind"),
            uid: text(value, "uid"),
            causes: causes
                .map(|cause| Cause {
                    reason: known(&CAUSES, &text(cause, "reason")),
                    message: text(cause, "message"),
                    field: text(cause, "field"),
                })
                .collect(),
            retry_after_seconds: value
                .get("retryAfterSeconds")
                .and_then(Value::as_u64)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Map::new();
        let texts = [("reason", self.reason), ("message", &self.message), ("field", &self.field)];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            cause.insert(key.into(), text.into());
        }
        Value::Object(cause)
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn known(all: &[&'static str], given: &str) -> &'static str {
    all.iter().copied().find(|known| *known == given).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn wording() {
        let cases = [
            (Status::not_found("", "pods", "x"), 404, r#"pods "x" not found"#),
            (Status::already_exists("apps", "deployments", "x"), 409, r#"deployments.apps "x" already exists"#),
            (
                Status::modified("", "pods", "x"),
                409,
                r#"Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
            (Status::forbidden("", "pods", "", "no"), 403, "pods is forbidden: no"),
            (Status::forbidden("", "pods", "x", "no"), 403, r#"pods "x" is forbidden: no"#),
            (Status::forbidden("", "", "", "no"), 403, "forbidden: no"),
            (Status::invalid("", "Pod", "x", vec![]), 422, r#"Pod "x" is invalid"#),
            (
                Status::invalid("", "Pod", "x", vec![FieldError::required(&Path::new("spec").child("containers"), "")]),
                422,
                r#"Pod "x" is invalid: spec.containers: Required value"#,
            ),
            (
                Status::invalid(
                    "apps",
                    "Deployment",
                    "x",
                    vec![FieldError::required(&Path::new("a"), ""), FieldError::forbidden(&Path::new("b"), "no")],
                ),
                422,
                r#"Deployment.apps "x" is invalid: [a: Required value, b: Forbidden: no]"#,
            ),
            (
                Status::method_not_supported("", "pods", "delete"),
                405,
                r#"delete is not supported on resources of kind "pods""#,
            ),
            (Status::internal("boom"), 500, "Internal error occurred: boom"),
        ];
        for (status, code, message) in cases {
            assert_eq!((status.code, status.message.as_str()), (code, message));
            assert_eq!(Status::from_value(&status.to_value()), Some(status));
        }
    }

    #[test]
    fn invalid_names_each_field() {
        let value = Status::invalid("", "Pod", "x", vec![FieldError::invalid(&Path::new("a"), "v", "bad")]).to_value();
        assert_eq!(
            value["details"],
            json!({"name": "x", "kind": "Pod", "causes":
                [{"reason": "FieldValueInvalid", "message": "Invalid value: \"v\": bad", "field": "a"}]})
        );
    }
}
