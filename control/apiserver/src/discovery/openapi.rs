//! OpenAPI v3: an index of documents, one a group version, each built when first asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::openapi::v3_group;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::Document;
use super::documents::Catalog;
use crate::request::{Query, ResponseBody};
use crate::server::respond;

/// The OpenAPI documents.
pub(super) struct OpenApi {
    /// `api/v1` or `apis/G/V` → (group, version)
    versions: HashMap<String, (String, String)>,
    index: Document,
    /// Documents are the same for a program's whole life: its version is their hash, and no document has to be built to
    /// list it.
    hash: String,
    built: Mutex<HashMap<String, Arc<Document>>>,
}

impl OpenApi {
    pub(super) fn new(catalog: &Catalog, version: &str) -> Self {
        let hash =
            respond::etag(format!("{version} {} described", env!("CARGO_PKG_VERSION")).as_bytes()).replace('"', "");
        let mut versions = HashMap::new();
        let mut paths = serde_json::Map::new();
        for group in catalog.groups() {
            for version in &group.versions {
                let path = version.path(&group.name).trim_start_matches('/').to_owned();
                paths.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }));
                versions.insert(path, (group.name.clone(), version.name.clone()));
            }
        }
        let index = Document::new(&json!({ "paths": paths }));
        Self { versions, index, hash, built: Mutex::default() }
    }

    pub(super) fn answer(&self, path: &str, query: &Query, headers: &HeaderMap) -> Option<Response<ResponseBody>> {
        if path == "/openapi/v3" {
            return Some(respond::cached(headers, "application/json", &self.index.body, &self.index.etag));
        }
        if path == "/openapi/v2" {
            return Some(version_two(headers));
        }
        let path = path.strip_prefix("/openapi/v3/")?;
        let (group, version) = self.versions.get(path)?;
        let asked = query.get("hash");
        if asked.is_some_and(|hash| hash != self.hash) {
            return Some(self.moved(path));
        }
        let document = self.document(path, group, version)?;
        let mut response = respond::cached(headers, "application/json", &document.body, &document.etag);
        if asked.is_some() {
            let forever = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(CACHE_CONTROL, forever);
        }
        Some(response)
    }

    fn moved(&self, path: &str) -> Response<ResponseBody> {
        let mut response = respond::text(StatusCode::MOVED_PERMANENTLY, "");
        if let Ok(location) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={}", self.hash)) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    fn document(&self, path: &str, group: &str, version: &str) -> Option<Arc<Document>> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = built.get(path) {
            return Some(document.clone());
        }
        let body = Bytes::from(v3_group(group, version)?.to_string());
        let document = Arc::new(Document { etag: respond::etag(&body), body });
        built.insert(path.to_owned(), document.clone());
        Some(document)
    }
}

/// OpenAPI v2 without definitions. kubectl before 1.30 asks for it before it patches, and takes its own types where a kind is
/// missing; the whole document comes with the protobuf codec.
fn version_two(headers: &HeaderMap) -> Response<ResponseBody> {
    let wants_protobuf = headers
        .get_all(http::header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("proto-openapi.spec.v2")));
    let (title, version) = ("Kubernetes", crate::server::health::KUBERNETES_VERSION);
    if !wants_protobuf {
        let document = json!({
            "swagger": "2.0", "info": { "title": title, "version": version }, "paths": {}, "definitions": {},
        });
        return respond::json(StatusCode::OK, &document);
    }
    // A gnostic Document: 1 swagger, 2 info (1 title, 2 version), 8 paths, 9 definitions.
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)], bytes].concat();
    let info = [field(1, title.as_bytes()), field(2, version.as_bytes())].concat();
    let document = [field(1, b"2.0"), field(2, &info), field(8, b""), field(9, b"")].concat();
    let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    respond::bytes(StatusCode::OK, content_type, document)
}
