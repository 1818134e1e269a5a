//! A request, understood: what is asked ([`RequestInfo`]), how ([`Query`], headers), by whom, and that it may be
//! ([`RequestContext`]).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http_body_util::combinators::UnsyncBoxBody;

pub use crate::auth::User;
use crate::auth::tokens::TokenIssuer;
use crate::authz::{Attributes, Authorized, Authorizer};

/// The error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer: whole, in large chunks, or a watch's frames.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
/// The largest request body accepted.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object (or a bare path).
    Get,
    /// Read a collection.
    List,
    /// Follow a collection or an object.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change parts of an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a collection.
    DeleteCollection,
    /// The legacy `/api/v1/proxy/…` paths.
    Proxy,
    /// POST to a bare path.
    Post,
    /// PUT to a bare path.
    Put,
    /// HEAD to a bare path.
    Head,
    /// OPTIONS to a bare path.
    Options,
    /// Any other method.
    Other,
}

impl Verb {
    /// The verb as RBAC rules and audit name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Proxy => "proxy",
            Self::Post => "post",
            Self::Put => "put",
            Self::Head => "head",
            Self::Options => "options",
            Self::Other => "",
        }
    }

    fn of_resource(method: &http::Method) -> Self {
        match method.as_str() {
            "POST" => Self::Create,
            "GET" | "HEAD" => Self::Get,
            "PUT" => Self::Update,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    fn of_path(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Method and path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names an API resource.
    pub is_resource: bool,
    /// What is to be done.
    pub verb: Verb,
    /// The API group; empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The resource's plural.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty. For a request on a Namespace itself it is that namespace.
    pub namespace: String,
    /// The object's name; empty for collections. A list or watch limited by `metadata.name` has it as well.
    pub name: String,
    /// Path segments behind the subresource (`proxy/a/b` gives `a`, `b`).
    pub rest: Vec<String>,
    /// The URL's path, undecoded.
    pub path: String,
    /// Whether the name came from the path rather than from a field selector.
    pub named_by_path: bool,
}

impl RequestInfo {
    /// Takes a request's method, path and query apart, by upstream's rules.
    pub fn parse(method: &http::Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            is_resource: false,
            verb: Verb::of_path(method),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            rest: Vec::new(),
            path: path.to_owned(),
            named_by_path: false,
        };
        let segments: Vec<String> =
            path.split('/').filter(|s| !s.is_empty()).map(|s| percent_decode(s, false)).collect();
        let mut parts: &[String] = &segments;
        if parts.len() < 3 {
            return info;
        }
        match parts[0].as_str() {
            "api" => parts = &parts[1..],
            "apis" if parts.len() >= 4 => {
                info.group.clone_from(&parts[1]);
                parts = &parts[2..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.version.clone_from(&parts[0]);
        parts = &parts[1..];
        info.verb = match parts[0].as_str() {
            special @ ("watch" | "proxy") if parts.len() >= 2 => {
                parts = &parts[1..];
                if special == "watch" { Verb::Watch } else { Verb::Proxy }
            }
            _ => Verb::of_resource(method),
        };
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace.clone_from(&parts[1]);
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                parts = &parts[2..];
            }
        }
        info.take_object(parts);
        info.refine_verb(query);
        info
    }

    fn take_object(&mut self, parts: &[String]) {
        self.resource = parts.first().cloned().unwrap_or_default();
        self.name = parts.get(1).cloned().unwrap_or_default();
        self.named_by_path = !self.name.is_empty();
        if self.verb != Verb::Proxy {
            self.subresource = parts.get(2).cloned().unwrap_or_default();
            self.rest = parts.get(3..).unwrap_or_default().to_vec();
        }
    }

    fn refine_verb(&mut self, query: &Query) {
        if self.named_by_path {
            return;
        }
        match self.verb {
            Verb::Get if query.flag("watch") => self.verb = Verb::Watch,
            Verb::Get => self.verb = Verb::List,
            Verb::Delete => self.verb = Verb::DeleteCollection,
            _ => {}
        }
        if matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
            && let Some(name) = exact_field(query.get("fieldSelector").unwrap_or(""), "metadata.name")
            && !name.contains(['/', '%'])
            && name != "."
            && name != ".."
        {
            self.name = name.to_owned();
        }
    }

    /// The request as authorizers see it.
    pub fn attributes<'a>(&'a self, query: &'a Query) -> Attributes<'a> {
        Attributes {
            verb: self.verb.as_str(),
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: &self.path,
            is_resource: self.is_resource,
            field_selector: query.get("fieldSelector").unwrap_or(""),
        }
    }
}

/// The value a field selector demands of `field` by `=` or `==`, if it does.
pub(crate) fn exact_field<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (key, value) = term.split_once('=')?;
        (key == field).then(|| value.strip_prefix('=').unwrap_or(value))
    })
}

/// The parameters after the `?`, decoded, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes a query string.
    pub fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                (percent_decode(key, true), percent_decode(value, true))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a boolean parameter is on: as upstream, present and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    /// All parameters, in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

/// Decodes `%XX` (and `+` in queries); what is not valid stays as it is, invalid UTF-8 is replaced.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.bytes().any(|b| b == b'%' || (plus_is_space && b == b'+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%').then(|| Some((hex(*bytes.get(i + 1)?)?, hex(*bytes.get(i + 2)?)?))).flatten();
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                i += 3;
            }
            None => {
                out.push(if plus_is_space && bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Texts for the answer's `Warning` headers. Cloned handles add to the same list.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds one warning, once.
    pub fn push(&self, text: impl Into<String>) {
        let text = text.into();
        let mut list = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !list.contains(&text) {
            list.push(text);
        }
    }

    /// Takes what was added so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What handlers may need beside the request: the same for all requests.
#[derive(Debug)]
pub struct Services {
    /// For checks beside the request's own (create on update, `bind`, `escalate`, …).
    pub authorizer: Arc<Authorizer>,
    /// Signs tokens for `serviceaccounts/token`.
    pub tokens: Arc<TokenIssuer>,
}

/// Everything about a request but its body. The server adds `Warning` headers from `warnings` to the answer itself.
#[derive(Debug)]
pub struct RequestContext {
    /// Method and path, taken apart.
    pub info: RequestInfo,
    /// The method, where the verb does not tell (HEAD).
    pub method: http::Method,
    /// Who asks.
    pub user: Arc<User>,
    /// The proof that they may.
    pub authorized: Authorized,
    /// The URL's parameters.
    pub query: Query,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Warnings for the client.
    pub warnings: Warnings,
    /// The server's shared services.
    pub services: Arc<Services>,
}

impl RequestContext {
    /// The `Accept` header, or empty.
    pub fn accept(&self) -> &str {
        self.header(&ACCEPT)
    }

    /// The `Content-Type` header, or empty.
    pub fn content_type(&self) -> &str {
        self.header(&CONTENT_TYPE)
    }

    /// The `User-Agent` header, or empty.
    pub fn user_agent(&self) -> &str {
        self.header(&USER_AGENT)
    }

    fn header(&self, name: &http::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn parse(method: &Method, target: &str) -> RequestInfo {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        RequestInfo::parse(method, path, &Query::parse(query))
    }

    #[test]
    fn paths_are_taken_apart() {
        // method, target, then verb group/version resource/subresource namespace name rest
        let cases = [
            (Method::GET, "/api/v1/pods", "list /v1 pods/  "),
            (Method::GET, "/api/v1/namespaces/ns/pods", "list /v1 pods/ ns "),
            (Method::GET, "/api/v1/namespaces/ns/pods?watch=1", "watch /v1 pods/ ns "),
            (Method::GET, "/api/v1/namespaces/ns/pods?watch=false", "list /v1 pods/ ns "),
            (Method::GET, "/api/v1/watch/namespaces/ns/pods/a", "watch /v1 pods/ ns a"),
            (Method::GET, "/api/v1/namespaces/ns/pods/a", "get /v1 pods/ ns a"),
            (Method::GET, "/api/v1/namespaces/ns/pods/a/log", "get /v1 pods/log ns a"),
            (Method::POST, "/api/v1/namespaces/ns/pods/a/exec", "create /v1 pods/exec ns a"),
            (Method::GET, "/api/v1/namespaces", "list /v1 namespaces/  "),
            (Method::PUT, "/api/v1/namespaces/ns", "update /v1 namespaces/ ns ns"),
            (Method::PUT, "/api/v1/namespaces/ns/finalize", "update /v1 namespaces/finalize ns ns"),
            (Method::PATCH, "/apis/apps/v1/namespaces/ns/deployments/a/scale", "patch apps/v1 deployments/scale ns a"),
            (Method::DELETE, "/apis/apps/v1/namespaces/ns/deployments", "deletecollection apps/v1 deployments/ ns "),
            (Method::DELETE, "/apis/apps/v1/namespaces/ns/deployments/a", "delete apps/v1 deployments/ ns a"),
            (Method::POST, "/apis/apps/v1/namespaces/ns/deployments/", "create apps/v1 deployments/ ns "),
            (Method::GET, "/api/v1/nodes/n/proxy/stats/summary", "get /v1 nodes/proxy  n stats/summary"),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Da,x=y", "list /v1 pods/  a"),
            (Method::GET, "/apis/g/v1/things/a%2Fb", "get g/v1 things/  a/b"),
        ];
        for (method, target, expected) in cases {
            let info = parse(&method, target);
            assert!(info.is_resource, "{target}");
            let mut text = format!(
                "{} {}/{} {}/{} {} {}",
                info.verb, info.group, info.version, info.resource, info.subresource, info.namespace, info.name
            );
            if !info.rest.is_empty() {
                text = format!("{text} {}", info.rest.join("/"));
            }
            assert_eq!(text, expected, "{target}");
        }
        for target in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz/ping", "/api/v1/"] {
            assert!(!parse(&Method::GET, target).is_resource, "{target}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("a=1&b=x+y%20z&a=2&flag&bad=%zz&off=0");
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((query.flag("flag"), query.flag("off"), query.flag("none")), (true, false, false));
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
