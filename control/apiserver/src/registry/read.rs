//! Get and list, from the watch cache.

use std::sync::Arc;

use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Entry, Revision, Snapshot, WatchCache};

use super::list::ListMeta;
use super::options::{At, ListOptions, get_at};
use super::resource::Storage;
use super::{Call, errors, list, respond};
use crate::accept::Encoding;
use crate::request::ResponseBody;
use crate::server::respond as answer;

const TOKEN_TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can \
start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder \
of the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Answers one object.
pub(super) async fn get(call: &Call<'_>) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let accepted = call.accepted()?;
    let cache = at_least(storage, get_at(call.query)?).await?;
    let entry = cache.get(&storage.key(call.namespace, call.name)).ok_or_else(|| storage.not_found(call.name))?;
    respond::object(StatusCode::OK, call.served, storage, accepted, &entry.bytes)
}

/// Answers a collection.
pub(super) async fn list(call: &Call<'_>) -> Result<Response<ResponseBody>, Status> {
    let storage = call.served.storage()?;
    let accepted = call.accepted()?;
    let options = ListOptions::parse(call.query, call.served)?;
    match select(storage, call.namespace, &options).await? {
        Selected::Page(page) => {
            let served = call.served;
            list::list(served.resource, &served.api_version, storage, accepted, &page.meta, page.entries).await
        }
        Selected::TokenExpired(token) => {
            let mut status = Status::expired(TOKEN_TOO_OLD).to_value();
            status["metadata"] = json!({"continue": token});
            Ok(answer::object(StatusCode::GONE, Encoding::liked(call.accept), &status))
        }
    }
}

/// The cache, at a revision that a read asks for.
pub(super) async fn at_least(storage: &Storage, at: At) -> Result<&WatchCache, Status> {
    let cache = match at {
        At::Newest => storage.fresh_cache().await?,
        At::Any | At::NotOlderThan(_) | At::Exact(_) => storage.cache().await?,
    };
    if let At::NotOlderThan(revision) | At::Exact(revision) = at
        && cache.revision() < revision
    {
        match tokio::time::timeout(storage.patience(), cache.wait_for(revision)).await {
            Ok(reached) => reached.map_err(|error| errors::cache(&error))?,
            Err(_) => return Err(errors::too_large(revision, cache.revision())),
        }
    }
    Ok(cache)
}

/// A page of a list.
pub(super) struct Page {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) meta: ListMeta,
}

/// What a list finds.
pub(super) enum Selected {
    /// Objects.
    Page(Page),
    /// The continue token's revision is gone; this one goes on from the present state.
    TokenExpired(String),
}

/// Finds the objects of a list.
pub(super) async fn select(storage: &Storage, namespace: &str, options: &ListOptions) -> Result<Selected, Status> {
    let range = storage.range(namespace);
    let token = match options.continuation.as_str() {
        "" => None,
        text => Some(Token::decode(text, &range)?),
    };
    let at = match &token {
        Some(Token { revision: Some(revision), .. }) => At::Exact(*revision),
        Some(Token { revision: None, .. }) => At::Newest,
        None => options.at,
    };
    let cache = at_least(storage, at).await?;
    let snapshot = match at {
        At::Exact(revision) => match cache.snapshot_at(revision).await {
            Ok(snapshot) => snapshot,
            Err(store::CacheError::Compacted { .. }) if token.is_some() => {
                let start = token.map(|token| token.start).unwrap_or_default();
                return Ok(Selected::TokenExpired(Token { revision: None, start }.encode(&range)));
            }
            Err(error) => return Err(errors::cache(&error)),
        },
        _ => cache.snapshot(),
    };
    let start = token.map(|token| token.start);
    Ok(Selected::Page(page(&snapshot, &range, start.as_deref(), storage, options)))
}

fn page(snapshot: &Snapshot, range: &str, start_after: Option<&str>, storage: &Storage, options: &ListOptions) -> Page {
    let selection = &options.selection;
    let meta = ListMeta { revision: snapshot.revision(), ..ListMeta::default() };
    if let (Some(name), false) = (selection.name(), storage.namespaced && range == storage.prefix) {
        let entry = snapshot.get(&format!("{range}{name}")).filter(|entry| selection.matches(entry));
        return Page { entries: entry.cloned().into_iter().collect(), meta };
    }
    let mut entries = Vec::new();
    let mut rest = snapshot.range(range, start_after);
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    if limit == usize::MAX && selection.is_everything() {
        entries.reserve(rest.remaining());
    }
    for entry in rest.by_ref() {
        if selection.matches(entry) {
            entries.push(entry.clone());
            if entries.len() == limit {
                break;
            }
        }
    }
    let remaining = rest.remaining();
    if remaining == 0 {
        return Page { entries, meta };
    }
    let start = entries.last().map(|entry| entry.key.to_string()).unwrap_or_default();
    let continuation = Token { revision: Some(snapshot.revision()), start }.encode(range);
    let remaining = selection.is_everything().then_some(remaining);
    Page { entries, meta: ListMeta { continuation, remaining, ..meta } }
}

/// Where a list goes on: opaque to clients, who are not shown the store's keys.
struct Token {
    /// The revision of all pages; none where consistency was given up.
    revision: Option<Revision>,
    /// The last key that was listed.
    start: String,
}

impl Token {
    fn encode(&self, range: &str) -> String {
        let start = self.start.strip_prefix(range).unwrap_or("");
        let revision = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
    }

    fn decode(text: &str, range: &str) -> Result<Self, Status> {
        let invalid = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(&error.to_string()))?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if token["v"] != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version"));
        }
        let start = token["start"].as_str().filter(|start| !start.is_empty() && !start.contains(".."));
        let start = start.ok_or_else(|| invalid("encoded start key is not below the requested collection"))?;
        let revision = match token["rv"].as_i64() {
            Some(-1) => None,
            Some(revision) if revision > 0 => u64::try_from(revision).ok(),
            _ => return Err(invalid("incorrect encoded start resourceVersion")),
        };
        Ok(Self { revision, start: format!("{range}{start}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_hide_keys() {
        let token = Token { revision: Some(7), start: "/registry/core/pods/a/x".into() };
        let text = token.encode("/registry/core/pods/a/");
        assert!(!String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(&text).unwrap()).contains("registry"));
        let back = Token::decode(&text, "/registry/core/pods/a/").unwrap();
        assert_eq!((back.revision, back.start), (token.revision, token.start));
        for bad in ["!", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJ4In0"] {
            assert_eq!(Token::decode(bad, "/r/").err().map(|status| status.code), Some(400), "{bad}");
        }
    }
}
