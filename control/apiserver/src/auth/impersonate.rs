//! Impersonation: acting as another user, where RBAC allows `impersonate`.

use std::collections::BTreeMap;

use apimachinery::status::Status;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User, tokens};
use crate::authz::{Attributes, Authorizer, forbidden};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user that the `Impersonate-*` headers ask to be; `None` without them.
pub(crate) fn impersonated(headers: &HeaderMap, user: &User, authorizer: &Authorizer) -> Result<Option<User>, Status> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let name = all("impersonate-user").into_iter().next().unwrap_or_default();
    let groups = all("impersonate-group");
    let uid = all("impersonate-uid").into_iter().next().unwrap_or_default();
    let extra = extra(headers);
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::internal("requested groups, uid or extra without impersonating a user"));
    }
    let check = |attributes: Attributes<'_>| {
        let attributes = Attributes { verb: "impersonate", is_resource: true, ..attributes };
        let decision = authorizer.decide(user, &attributes);
        if decision.allowed { Ok(()) } else { Err(forbidden(user, &attributes, &decision.reason)) }
    };
    let account = name.strip_prefix(tokens::USER_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => {
            check(Attributes { resource: "serviceaccounts", version: "v1", namespace, name, ..Attributes::default() })?;
        }
        None => check(Attributes { resource: "users", version: "v1", name: &name, ..Attributes::default() })?,
    }
    for group in &groups {
        check(Attributes { resource: "groups", version: "v1", name: group, ..Attributes::default() })?;
    }
    let authentication = Attributes { group: "authentication.k8s.io", version: "v1", ..Attributes::default() };
    if !uid.is_empty() {
        check(Attributes { resource: "uids", name: &uid, ..authentication })?;
    }
    for (key, values) in &extra {
        for value in values {
            check(Attributes { resource: "userextras", subresource: key, name: value, ..authentication })?;
        }
    }
    let mut groups = groups;
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = vec![tokens::ALL_GROUP.to_owned(), format!("{}:{namespace}", tokens::ALL_GROUP)];
    }
    let implied = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(implied.to_owned());
    }
    Ok(Some(User { name, uid, groups, extra }))
}

fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            extra.entry(crate::request::percent_decode(key, false)).or_default().push(value.to_owned());
        }
    }
    extra
}
