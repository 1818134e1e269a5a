//! From a request to what must be allowed, as upstream maps it.

use http::Method;

/// What a caller wants of this node, in the words of a SubjectAccessReview.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// The node.
    pub node: String,
    /// get, create, update, patch or delete.
    pub verb: &'static str,
    /// Subresources of `nodes`: any of these suffices, tried in order.
    pub subresources: &'static [&'static str],
    /// Path of the request.
    pub path: String,
}

/// An answer to [`Attributes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, as the API server says it.
    pub reason: String,
}

impl Attributes {
    /// The attributes of a request: the verb from its method, the subresource from its path.
    ///
    /// Fine-grained subresources (KEP-2862) come first, `proxy` stays the fallback.
    pub fn of(node: &str, method: &Method, path: &str) -> Self {
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        let subresources: &'static [&'static str] = if below("/stats") {
            &["stats"]
        } else if below("/metrics") {
            &["metrics"]
        } else if below("/logs") {
            &["log"]
        } else if below("/checkpoint") {
            &["checkpoint"]
        } else if below("/statusz") {
            &["statusz"]
        } else if below("/healthz") {
            &["healthz", "proxy"]
        } else if below("/pods") || below("/runningPods") || below("/runningpods") {
            &["pods", "proxy"]
        } else if below("/configz") {
            &["configz", "proxy"]
        } else {
            &["proxy"]
        };
        Attributes { node: node.to_owned(), verb, subresources, path: path.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_is_upstreams() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/stats/summary", "get", &["stats"] as &[&str]),
            (Method::GET, "/metrics", "get", &["metrics"]),
            (Method::GET, "/metrics/cadvisor", "get", &["metrics"]),
            (Method::GET, "/metricsX", "get", &["proxy"]),
            (Method::GET, "/logs/x", "get", &["log"]),
            (Method::GET, "/pods", "get", &["pods", "proxy"]),
            (Method::GET, "/runningpods/", "get", &["pods", "proxy"]),
            (Method::GET, "/healthz/ping", "get", &["healthz", "proxy"]),
            (Method::POST, "/exec/ns/pod/c", "create", &["proxy"]),
            (Method::GET, "/exec/ns/pod/c", "get", &["proxy"]),
            (Method::GET, "/containerLogs/ns/pod/c", "get", &["proxy"]),
            (Method::HEAD, "/", "get", &["proxy"]),
            (Method::PUT, "/run/a/b/c", "update", &["proxy"]),
        ] {
            let got = Attributes::of("n", &method, path);
            assert_eq!((got.verb, got.subresources), (verb, subresources), "{method} {path}");
        }
    }
}
