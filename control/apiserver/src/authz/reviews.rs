//! The virtual resources that ask instead of storing: access reviews, token reviews, "who am I".

use apimachinery::decode::{FieldValidation, decode};
use apimachinery::field::{FieldError, Path};
use apimachinery::gvk::Gvk;
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use apimachinery::time;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Attributes, Rule};
use crate::auth::{AUTHENTICATED, User};
use crate::registry::body;
use crate::request::{RequestInfo, Services, Verb};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whether a request creates one of the reviews.
pub(crate) fn is_review(info: &RequestInfo) -> bool {
    info.verb == Verb::Create
        && info.subresource.is_empty()
        && info.version == "v1"
        && matches!(
            (info.group.as_str(), info.resource.as_str()),
            (
                AUTHORIZATION,
                "subjectaccessreviews"
                    | "localsubjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
            ) | (AUTHENTICATION, "tokenreviews" | "selfsubjectreviews")
        )
}

/// Answers a review: the object with its status filled in.
pub(crate) fn review(
    info: &RequestInfo,
    user: &User,
    services: &Services,
    content_type: &str,
    bytes: &Bytes,
) -> Result<Value, Status> {
    let kind = match info.resource.as_str() {
        "subjectaccessreviews" => "SubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "selfsubjectrulesreviews" => "SelfSubjectRulesReview",
        "tokenreviews" => "TokenReview",
        _ => "SelfSubjectReview",
    };
    let gvk = Gvk { group: info.group.clone(), version: info.version.clone(), kind: kind.to_owned() };
    let schema = Schema::of(&gvk);
    let media = body::media(content_type, schema)?;
    let mut object = decode(bytes, media, schema, FieldValidation::Ignore)?.object;
    if !object.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    object["apiVersion"] = json!(format!("{}/{}", info.group, info.version));
    object["kind"] = json!(kind);
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    if kind == "SelfSubjectReview" {
        object["metadata"]["creationTimestamp"] = time::now_rfc3339().into();
    }
    let spec = object["spec"].clone();
    object["status"] = match kind {
        "SubjectAccessReview" => access(services, &subject(kind, &spec)?, &checked(kind, &spec)?),
        "LocalSubjectAccessReview" => {
            let spec = checked(kind, &spec)?;
            if spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default() != info.namespace {
                let at = Path::new("spec").child("resourceAttributes").child("namespace");
                let detail = "must match metadata.namespace";
                let value = spec["resourceAttributes"]["namespace"].clone();
                return Err(invalid(kind, FieldError::invalid(&at, value, detail)));
            }
            access(services, &subject(kind, &spec)?, &spec)
        }
        "SelfSubjectAccessReview" => access(services, user, &checked(kind, &spec)?),
        "SelfSubjectRulesReview" => {
            let namespace = spec["namespace"].as_str().unwrap_or_default();
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            rules(&services.authorizer.rules_for(user, namespace))
        }
        "TokenReview" => token(services, &spec),
        _ => json!({ "userInfo": user_info(user) }),
    };
    Ok(object)
}

fn invalid(kind: &str, error: FieldError) -> Status {
    Status::invalid(AUTHORIZATION, kind, "", vec![error])
}

fn checked(kind: &str, spec: &Value) -> Result<Value, Status> {
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let at = Path::new("spec").child("resourceAttributes");
        return Err(invalid(kind, FieldError::invalid(&at, spec["resourceAttributes"].clone(), detail)));
    }
    Ok(spec.clone())
}

fn subject(kind: &str, spec: &Value) -> Result<User, Status> {
    let user = User {
        name: text(&spec["user"]).to_owned(),
        uid: text(&spec["uid"]).to_owned(),
        groups: strings(&spec["groups"]),
        extra: spec["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), strings(values)))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let detail = "at least one of user or group must be specified";
        return Err(invalid(kind, FieldError::invalid(&Path::new("spec").child("user"), spec["user"].clone(), detail)));
    }
    Ok(user)
}

fn access(services: &Services, user: &User, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let path = &spec["nonResourceAttributes"];
    let attributes = if resource.is_null() {
        Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() }
    } else {
        Attributes {
            verb: text(&resource["verb"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: "",
            is_resource: true,
            field_selector: text(&resource["fieldSelector"]["rawSelector"]),
        }
    };
    let decision = services.authorizer.decide(user, &attributes);
    let mut status = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    status
}

fn rules(rules: &[Rule]) -> Value {
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in rules {
        let value = super::bootstrap::rule_value(rule);
        if rule.non_resource_urls.is_empty() { resource_rules.push(value) } else { path_rules.push(value) }
    }
    json!({ "resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false })
}

fn token(services: &Services, spec: &Value) -> Value {
    let audiences = strings(&spec["audiences"]);
    match services.tokens.authenticate(text(&spec["token"]), &audiences) {
        Ok((user, audiences)) => json!({ "authenticated": true, "user": user_info(&user), "audiences": audiences }),
        Err(error) => json!({ "authenticated": false, "user": {}, "error": error.to_string() }),
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if user.groups.is_empty() {
        info["groups"] = json!([AUTHENTICATED]);
    }
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
