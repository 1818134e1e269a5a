//! Discovery: what groups, versions and resources there are. The documents follow from the embedded facts alone, so each is
//! built once, when first asked for.

mod documents;
mod negotiate;
mod openapi;

use std::collections::HashMap;
use std::sync::OnceLock;

use apimachinery::status::Status;
use bytes::Bytes;
use http::{HeaderMap, Response};
use serde_json::Value;

use crate::request::{Query, ResponseBody};
use crate::server::respond;
use documents::Catalog;
use negotiate::{Format, format};

/// A document and its entity tag.
struct Document {
    body: Bytes,
    etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let etag = respond::etag(&body);
        Self { body, etag }
    }
}

/// All discovery documents.
pub(crate) struct Discovery {
    catalog: Catalog,
    documents: OnceLock<HashMap<(String, Format), Document>>,
    openapi: openapi::OpenApi,
    server_address: String,
}

impl Discovery {
    /// Discovery of a server reachable at `server_address` (`host:port`).
    pub(crate) fn new(server_address: String, version: &str) -> Self {
        let catalog = Catalog::new(apimachinery::resources::all());
        let openapi = openapi::OpenApi::new(&catalog, version);
        Self { catalog, documents: OnceLock::new(), openapi, server_address }
    }

    /// Answers a GET below `/api`, `/apis`, `/openapi` or at `/`; `None` where there is nothing.
    pub(crate) fn answer(
        &self,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Option<Result<Response<ResponseBody>, Status>> {
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        if path.starts_with("/openapi") {
            return self.openapi.answer(path, query, headers).map(Ok);
        }
        let aggregates = matches!(path, "/api" | "/apis");
        let Some(format) = format(headers, aggregates) else {
            return Some(Err(Status::not_acceptable(
                "only the following media types are accepted: application/json, application/yaml",
            )));
        };
        let documents = self.documents.get_or_init(|| self.build());
        let document = documents.get(&(path.to_owned(), format))?;
        Some(Ok(respond::cached(headers, format.content_type(), &document.body, &document.etag)))
    }

    fn build(&self) -> HashMap<(String, Format), Document> {
        let mut documents = HashMap::new();
        let mut add = |path: String, format, value: &Value| {
            documents.insert((path, format), Document::new(value));
        };
        add("/api".into(), Format::Plain, &self.catalog.api_versions(&self.server_address));
        add("/apis".into(), Format::Plain, &self.catalog.group_list());
        for (format, version) in [(Format::V2, "v2"), (Format::V2Beta1, "v2beta1")] {
            add("/api".into(), format, &self.catalog.aggregated(version, true));
            add("/apis".into(), format, &self.catalog.aggregated(version, false));
        }
        let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
            .into_iter()
            .chain([
                "/healthz",
                "/livez",
                "/metrics",
                "/openapi/v3",
                "/openapi/v3/",
                "/openid/v1/jwks",
                "/readyz",
                "/version",
            ])
            .map(str::to_owned)
            .collect();
        for group in self.catalog.groups() {
            if !group.name.is_empty() {
                paths.push(format!("/apis/{}", group.name));
                add(format!("/apis/{}", group.name), Format::Plain, &group.document(true));
            }
            for version in &group.versions {
                let path = version.path(&group.name);
                add(path.clone(), Format::Plain, &version.resource_list(&group.name));
                if !group.name.is_empty() {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        add("/".into(), Format::Plain, &serde_json::json!({ "paths": paths }));
        documents
    }
}

#[cfg(test)]
mod tests;
