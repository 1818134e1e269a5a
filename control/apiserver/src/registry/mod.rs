//! The registry: every resource by one generic path.
//!
//! [`resource`] is the table of what is served and where it is stored. A request becomes a [`Call`]; there is one function a
//! verb: [`read`] (get, list), [`watch`], [`write`] (create, update; [`patch`] and [`apply`] make the wanted object of the present one) and
//! [`delete`]. What a kind adds is in [`crate::strategy`], what refuses or changes writes across kinds in
//! [`crate::admission`]. Reads are answered from watch caches with the bytes that are stored.

mod apply;
pub(crate) mod body;
mod component_status;
mod convert;
mod delete;
mod errors;
mod extract;
mod list;
mod managers;
mod object_meta;
mod options;
mod patch;
mod read;
mod required;
mod resource;
pub(crate) mod respond;
mod services;
mod subresources;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::decode::FieldValidation;
use apimachinery::meta;
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use store::{Budget, Store, WatchCache};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::admission::Chain;
use crate::auth::User;
use crate::authz::Attributes;
use crate::request::{Query, RequestContext, ResponseBody, Services, Verb, Warnings};
use crate::strategy;
use body::Expected;
pub(crate) use options::DeleteOptions;
use options::WriteOptions;
use patch::Patch;
use resource::{Environment, Resources, Served};
use services::Allocators;
pub(crate) use watch::PROTOBUF_STREAM;
use write::Part;
pub(crate) use write::Writer;

/// Serves every resource by one generic path. Clones share everything.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    environment: Environment,
    resources: Resources,
    admission: Chain,
    allocators: OnceCell<Arc<Allocators>>,
    timing: Timing,
}

/// How long things take that wait.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// A read waits so long for a revision that is still to come.
    patience: Duration,
    /// An idle watcher learns the revision about so often.
    bookmarks: Duration,
}

/// Bytes that recent events of all resources may take.
const EVENTS: usize = 16 << 20;

const TIMING: Timing = Timing { patience: Duration::from_secs(3), bookmarks: Duration::from_secs(60) };

/// One request to a resource, as the verbs see it.
struct Call<'a> {
    registry: &'a Registry,
    served: &'a Served,
    verb: Verb,
    namespace: &'a str,
    name: &'a str,
    /// Whether the name is the URL's, not a field selector's.
    named_by_path: bool,
    query: &'a Query,
    accept: &'a str,
    content_type: &'a str,
    user_agent: &'a str,
    user: &'a User,
    warnings: &'a Warnings,
    services: &'a Services,
}

impl Registry {
    /// A registry over a store. Watch caches start when they are first asked for.
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self::with_timing(config, store, tasks, shutdown, TIMING)
    }

    fn with_timing(
        config: Arc<Config>,
        store: Arc<dyn Store>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
        timing: Timing,
    ) -> Self {
        let budget = Budget::new(EVENTS);
        let environment = Environment { store, tasks, shutdown, budget, patience: timing.patience };
        let resources = Resources::new(&environment);
        let (admission, allocators) = (Chain::new(), OnceCell::new());
        let inner = Inner { config, environment, resources, admission, allocators, timing };
        Self { inner: Arc::new(inner) }
    }

    /// Serves one authorised request. Streams (exec, log, proxy …), discovery and reviews are not resources in this sense.
    pub async fn handle(&self, ctx: RequestContext, body: Bytes) -> Result<Response<ResponseBody>, Status> {
        let info = &ctx.info;
        let served = self.find(&info.group, &info.version, &info.resource)?;
        let call = Call {
            registry: self,
            served,
            verb: info.verb,
            namespace: if served.resource.namespaced { &info.namespace } else { "" },
            name: &info.name,
            named_by_path: info.named_by_path,
            query: &ctx.query,
            accept: ctx.accept(),
            content_type: ctx.content_type(),
            user_agent: ctx.user_agent(),
            user: &ctx.user,
            warnings: &ctx.warnings,
            services: &ctx.services,
        };
        call.check_scope(&info.namespace)?;
        if let Some(text) = strategy::deprecation(served.group(), served.name()) {
            ctx.warnings.push(text);
        }
        Box::pin(call.dispatch(&info.subresource, body)).await
    }

    /// The watch cache of a resource, started when first asked for. Entries are in the stored version.
    pub async fn cache(&self, group: &str, resource: &str) -> Result<&WatchCache, Status> {
        self.stored(group, resource)?.storage()?.cache().await
    }

    /// The store's key of an object, as caches know it.
    pub fn key(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<String, Status> {
        Ok(self.stored(group, resource)?.storage()?.key(namespace, name))
    }

    /// The service range's first address and whatever else is handed out.
    pub(crate) async fn allocators(&self) -> Result<&Arc<Allocators>, Status> {
        self.inner.allocators.get_or_try_init(|| async { services::allocators(self).await.map(Arc::new) }).await
    }

    fn find(&self, group: &str, version: &str, resource: &str) -> Result<&Served, Status> {
        self.inner.resources.find(group, version, resource).ok_or_else(Status::page_not_found)
    }

    /// A resource in its stored version.
    fn stored(&self, group: &str, resource: &str) -> Result<&Served, Status> {
        self.inner.resources.stored(group, resource).ok_or_else(Status::page_not_found)
    }

    /// A writer for the server's own objects, which exist before anyone can be authorised.
    pub(crate) fn writer<'a>(
        &'a self,
        group: &str,
        resource: &str,
        namespace: &'a str,
        user: &'a User,
        warnings: &'a Warnings,
    ) -> Result<Writer<'a>, Status> {
        let storage = self.stored(group, resource)?.storage()?;
        let (manager, applies) = ("kube-apiserver", false);
        Ok(Writer {
            registry: self,
            storage,
            namespace,
            user,
            authorizer: None,
            warnings,
            dry_run: false,
            manager,
            applies,
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    fn admission(&self) -> &Chain {
        &self.inner.admission
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.inner.environment.store
    }

    fn bookmarks(&self) -> Duration {
        self.inner.timing.bookmarks
    }

    fn shutdown(&self) -> &CancellationToken {
        &self.inner.environment.shutdown
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Call<'_> {
    /// The namespace of the URL must fit the resource's scope.
    fn check_scope(&self, namespace: &str) -> Result<(), Status> {
        let namespaced = self.served.resource.namespaced;
        let is_namespace = self.served.group().is_empty() && self.served.name() == "namespaces";
        if !namespaced && !namespace.is_empty() && !is_namespace {
            return Err(Status::page_not_found());
        }
        if namespaced && namespace.is_empty() {
            if self.named_by_path && self.verb != Verb::Watch {
                return Err(Status::page_not_found());
            }
            if matches!(self.verb, Verb::Create | Verb::DeleteCollection) {
                return Err(method_not_allowed());
            }
        }
        Ok(())
    }

    async fn dispatch(&self, subresource: &str, body: Bytes) -> Result<Response<ResponseBody>, Status> {
        if subresource.is_empty() {
            return self.main(body).await;
        }
        let facts = self.served.resource.subresource(subresource).ok_or_else(Status::page_not_found)?;
        if !facts.verbs.contains(&self.verb.as_str()) || self.name.is_empty() {
            return Err(method_not_allowed());
        }
        if subresource != "status" {
            return subresources::handle(self, facts, body).await;
        }
        match self.verb {
            Verb::Get => read::get(self).await,
            Verb::Update => self.update(Part::Status, body).await,
            Verb::Patch => self.patch(Part::Status, body).await,
            _ => Err(self.unsupported()),
        }
    }

    async fn main(&self, body: Bytes) -> Result<Response<ResponseBody>, Status> {
        let resource = self.served.resource;
        let verb = if self.verb == Verb::Watch { "list" } else { self.verb.as_str() };
        let on_object = matches!(self.verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
        if !resource.has_verb(verb) || (self.verb == Verb::Create && self.named_by_path) {
            return Err(method_not_allowed());
        }
        if on_object != self.named_by_path && self.verb != Verb::Watch {
            return Err(method_not_allowed());
        }
        if self.served.storage.is_none() {
            return self.unstored(&body).await;
        }
        match self.verb {
            Verb::Get => read::get(self).await,
            Verb::List => read::list(self).await,
            Verb::Watch => watch::watch(self).await,
            Verb::Create => self.create(&body).await,
            Verb::Update => self.update(Part::Main, body).await,
            Verb::Patch => self.patch(Part::Main, body).await,
            Verb::Delete => delete::delete(self, &self.delete_options(&body)?).await,
            Verb::DeleteCollection => delete::delete_collection(self, &self.delete_options(&body)?).await,
            _ => Err(self.unsupported()),
        }
    }

    /// Resources that keep no objects. (Reviews are answered before they get here.)
    async fn unstored(&self, body: &[u8]) -> Result<Response<ResponseBody>, Status> {
        match (self.served.name(), self.verb) {
            ("bindings", Verb::Create) => subresources::legacy_binding(self, body).await,
            ("componentstatuses", Verb::List | Verb::Get) => component_status::answer(self).await,
            _ => Err(self.unsupported()),
        }
    }

    async fn create(&self, body: &[u8]) -> Result<Response<ResponseBody>, Status> {
        let storage = self.served.storage()?;
        let accepted = self.accepted()?;
        let options = WriteOptions::parse(self.query, "CreateOptions")?;
        let object = self.decode(body, options)?;
        let written = self.writer(options.dry_run)?.create(object).await?;
        respond::object(StatusCode::CREATED, self.served, storage, accepted, &written.bytes)
    }

    async fn update(&self, part: Part, body: Bytes) -> Result<Response<ResponseBody>, Status> {
        let storage = self.served.storage()?;
        let accepted = self.accepted()?;
        let options = WriteOptions::parse(self.query, "UpdateOptions")?;
        let object = self.decode(&body, options)?;
        self.check_name(&object)?;
        let may_create = matches!(part, Part::Main) && storage.facts.create_on_update && self.may_create();
        let mut first = Some(object);
        // A second attempt is rare: it reads the body again.
        let mut change = |_: &Value| first.take().map_or_else(|| self.decode(&body, options), Ok);
        let written = self.writer(options.dry_run)?.update(self.name, part, may_create, &mut change).await?;
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        respond::object(code, self.served, storage, accepted, &written.bytes)
    }

    async fn patch(&self, part: Part, body: Bytes) -> Result<Response<ResponseBody>, Status> {
        if patch::media(self.content_type) == apply::MEDIA {
            return self.apply(part, &body).await;
        }
        let storage = self.served.storage()?;
        let accepted = self.accepted()?;
        let options = WriteOptions::parse(self.query, "PatchOptions")?;
        let patch = Patch::parse(self.content_type, body)?;
        let served = self.served;
        let expected = self.expected();
        let mut change = |old: &Value| {
            if served.api_version == storage.api_version {
                return patch.apply(old, expected, options.validation, self.warnings);
            }
            let mut current = old.clone();
            convert::from_storage(served, storage, &mut current);
            let mut new = patch.apply(&current, expected, options.validation, self.warnings)?;
            convert::to_storage(served, storage, &mut new);
            Ok(new)
        };
        let written = self.writer(options.dry_run)?.update(self.name, part, false, &mut change).await?;
        respond::object(StatusCode::OK, self.served, storage, accepted, &written.bytes)
    }

    /// What the client gets of what it accepts.
    fn accepted(&self) -> Result<respond::Accepted, Status> {
        respond::Accepted::negotiate(self.accept, self.query, self.served.schema.is_some())
    }

    fn expected(&self) -> Expected<'_> {
        Expected { api_version: &self.served.api_version, kind: self.served.kind(), schema: self.served.schema }
    }

    /// Decodes a body into the stored version.
    fn decode(&self, bytes: &[u8], options: WriteOptions) -> Result<Value, Status> {
        let mut object = body::decode(bytes, self.content_type, self.expected(), options.validation, self.warnings)?;
        convert::to_storage(self.served, self.served.storage()?, &mut object);
        Ok(object)
    }

    fn delete_options(&self, bytes: &[u8]) -> Result<DeleteOptions, Status> {
        if bytes.is_empty() {
            return DeleteOptions::parse(self.query, None);
        }
        let schema = apimachinery::schema::Schema::named(options::DELETE_OPTIONS);
        let media = body::media(self.content_type, schema)?;
        let object = apimachinery::decode::decode(bytes, media, schema, FieldValidation::Ignore)?.object;
        if !matches!(meta::kind(&object), "" | "DeleteOptions") {
            return Err(Status::bad_request(format!(
                "decoded object cannot be converted to DeleteOptions: it is of kind {}",
                meta::kind(&object)
            )));
        }
        DeleteOptions::parse(self.query, Some(&object))
    }

    /// The body's name and namespace must be those of the URL.
    fn check_name(&self, object: &Value) -> Result<(), Status> {
        let name = meta::name(object);
        if name.is_empty() && self.verb == Verb::Update {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.name
            )));
        }
        if !name.is_empty() && name != self.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        let namespace = meta::namespace(object);
        if !namespace.is_empty() && !self.namespace.is_empty() && namespace != self.namespace {
            return Err(Status::bad_request(format!(
                "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
                self.namespace
            )));
        }
        Ok(())
    }

    /// Whether the user of an update may create as well.
    fn may_create(&self) -> bool {
        self.services.authorizer.allowed(self.user, &self.creation())
    }

    /// Why they may not; `otherwise` if they may after all.
    fn creation_forbidden(&self, otherwise: Status) -> Status {
        self.services.authorizer.authorize(self.user, &self.creation()).err().unwrap_or(otherwise)
    }

    fn creation(&self) -> Attributes<'_> {
        let resource = self.served.resource;
        Attributes {
            verb: "create",
            group: &resource.group,
            version: &resource.version,
            resource: &resource.resource,
            subresource: "",
            namespace: self.namespace,
            name: self.name,
            path: "",
            is_resource: true,
            field_selector: "",
        }
    }

    /// Who this user's client says that it is.
    fn manager(&self) -> &str {
        let named = self.query.get("fieldManager").unwrap_or("");
        let product = self.user_agent.split('/').next().unwrap_or("");
        let product = product.char_indices().nth(128).map_or(product, |(end, _)| &product[..end]);
        [named, product].into_iter().find(|name| !name.is_empty()).unwrap_or(&self.user.name)
    }

    fn writer(&self, dry_run: bool) -> Result<Writer<'_>, Status> {
        let storage = self.served.storage()?;
        Ok(Writer {
            registry: self.registry,
            storage,
            namespace: self.namespace,
            user: self.user,
            authorizer: Some(&self.services.authorizer),
            warnings: self.warnings,
            dry_run,
            manager: self.manager(),
            applies: false,
        })
    }

    fn unsupported(&self) -> Status {
        Status::method_not_supported(self.served.group(), self.served.name(), self.verb.as_str())
    }
}

fn method_not_allowed() -> Status {
    let mut status = Status::method_not_supported("", "", "");
    status.message = "the server does not allow this method on the requested resource".to_owned();
    status.details = Some(Box::default());
    status
}
