//! Placeholder until the registry's owner writes it.

use std::sync::Arc;

use apimachinery::status::Status;
use bytes::Bytes;
use http::Response;
use store::Store;

use crate::Config;
use crate::request::{RequestContext, ResponseBody};

/// Serves every resource by one generic path.
pub struct Registry {
    _config: Arc<Config>,
    _store: Arc<dyn Store>,
}

impl Registry {
    /// A registry over a store.
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>) -> Self {
        Self { _config: config, _store: store }
    }

    /// Serves one authorised request.
    pub async fn handle(&self, ctx: RequestContext, _body: Bytes) -> Result<Response<ResponseBody>, Status> {
        Err(Status::not_found(&ctx.info.group, &ctx.info.resource, &ctx.info.name))
    }
}
