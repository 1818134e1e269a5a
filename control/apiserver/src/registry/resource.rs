//! The table of what is served: every resource in every version, and the one place where its objects are stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::gvk::{Gvk, api_version};
use apimachinery::resources::{self, Resource};
use apimachinery::schema::{Field, Schema, Type};
use apimachinery::status::Status;
use serde_json::{Value, json};
use store::{Budget, CacheOptions, Store, WatchCache};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::convert::{self, Convert};
use super::errors;
use super::extract::extractor;
use crate::strategy::{self, Facts, Strategy};

/// One resource in one version.
pub(crate) struct Served {
    /// Its facts.
    pub(crate) resource: &'static Resource,
    /// `v1`, `apps/v1`.
    pub(crate) api_version: String,
    /// The fields of its objects; none where they are free-form.
    pub(crate) schema: Option<&'static Schema>,
    /// Where its objects are; none for requests that leave nothing behind (reviews).
    pub(crate) storage: Option<Arc<Storage>>,
}

/// One resource as it is stored, whatever the number of versions it is served in.
pub(crate) struct Storage {
    /// The group that stores it.
    pub(crate) group: &'static str,
    /// The plural.
    pub(crate) resource: &'static str,
    /// The kind.
    pub(crate) kind: &'static str,
    /// The version of stored objects.
    pub(crate) api_version: String,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Whether `status` is written through `/status` alone.
    pub(crate) has_status: bool,
    /// `/registry/<group>/<resource>/`.
    pub(crate) prefix: String,
    /// What no schema tells.
    pub(crate) facts: Facts,
    /// The kind's own rules.
    pub(crate) strategy: &'static dyn Strategy,
    /// Moves fields between versions, where apiVersion alone does not tell them apart.
    pub(crate) convert: Option<Convert>,
    /// The storage version's fields.
    pub(crate) schema: Option<&'static Schema>,
    cache: OnceCell<WatchCache>,
    environment: Environment,
}

/// What caches are started with.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    /// What the caches' recent events may take together.
    pub(crate) budget: Arc<Budget>,
    /// How long a read waits for a revision that is still to come.
    pub(crate) patience: Duration,
}

/// All resources.
pub(crate) struct Resources {
    /// By plural, then few by group and version.
    by_name: HashMap<&'static str, Vec<Served>>,
}

impl Storage {
    fn new(resource: &'static Resource, environment: &Environment) -> Self {
        let (group, name) = (&*resource.group, &*resource.resource);
        let has_status = resource.subresources.iter().any(|sub| sub.name == "status");
        Self {
            group,
            resource: name,
            kind: &resource.kind,
            api_version: api_version(group, &resource.version),
            namespaced: resource.namespaced,
            has_status,
            prefix: format!("/registry/{}/{name}/", if group.is_empty() { "core" } else { group }),
            facts: strategy::facts(group, name, has_status),
            strategy: strategy::strategy(group, name),
            convert: convert::of(group, name),
            schema: Schema::of(&Gvk::new(group, &*resource.version, &*resource.kind)),
            cache: OnceCell::new(),
            environment: environment.clone(),
        }
    }

    /// The watch cache, started when first asked for.
    pub(crate) async fn cache(&self) -> Result<&WatchCache, Status> {
        self.cache
            .get_or_try_init(|| async {
                let fields = self.facts.fields;
                let Environment { store, tasks, shutdown, budget, .. } = self.environment.clone();
                let names = fields.iter().map(|field| (*field).to_owned()).collect();
                let options = CacheOptions::new(names, extractor(fields), budget, tasks, shutdown);
                WatchCache::start(store, &self.prefix, options).await
            })
            .await
            .map_err(|error| errors::cache(&error))
    }

    /// The watch cache, brought up to the store's present revision, which in a cluster of stores other servers advance.
    pub(crate) async fn fresh_cache(&self) -> Result<&WatchCache, Status> {
        let cache = self.cache().await?;
        let current =
            self.environment.store.current_revision().await.map_err(|error| errors::store(&error, self, ""))?;
        if cache.revision() < current {
            cache.wait_for(current).await.map_err(|error| errors::cache(&error))?;
        }
        Ok(cache)
    }

    /// Gives a new object the parts that upstream writes of every one.
    pub(crate) fn complete(&self, object: &mut Value) {
        let part = |name: &str| match self.schema?.field(name)? {
            Field { required: false, zero_is_value: false, ty: Type::Struct(ty), .. } => Some(ty),
            _ => None,
        };
        if object["spec"].is_null() && part("spec").is_some() {
            object["spec"] = json!({});
        }
        if object["status"].is_null()
            && let Some(status) = part("status")
        {
            object["status"] = status.zero();
        }
    }

    /// What recent events and objects in another encoding may take.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.environment.budget
    }

    /// How long a read waits for a revision that is still to come.
    pub(crate) fn patience(&self) -> Duration {
        self.environment.patience
    }

    /// An object's key.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = String::with_capacity(self.prefix.len() + namespace.len() + name.len() + 1);
        key.push_str(&self.prefix);
        if self.namespaced {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// The keys of one namespace, or of all where `namespace` is empty.
    pub(crate) fn range(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.clone()
        }
    }

    /// 404 for an object.
    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.group, self.resource, name)
    }

    /// 422 for an object.
    pub(crate) fn invalid(&self, name: &str, errors: Vec<apimachinery::field::FieldError>) -> Status {
        Status::invalid(self.group, self.kind, name, errors)
    }
}

impl Served {
    /// Where objects are stored; requests to resources without storage never get this far.
    pub(crate) fn storage(&self) -> Result<&Arc<Storage>, Status> {
        self.storage
            .as_ref()
            .ok_or_else(|| Status::method_not_supported(&self.resource.group, &self.resource.resource, "get"))
    }

    /// The group.
    pub(crate) fn group(&self) -> &'static str {
        &self.resource.group
    }

    /// The plural.
    pub(crate) fn name(&self) -> &'static str {
        &self.resource.resource
    }

    /// The kind.
    pub(crate) fn kind(&self) -> &'static str {
        &self.resource.kind
    }
}

impl Resources {
    pub(crate) fn new(environment: &Environment) -> Self {
        let storages: HashMap<_, _> = resources::all()
            .iter()
            .filter(|one| is_stored(one) && one.group == one.storage_group && one.version == one.storage_version)
            .map(|one| ((&*one.group, &*one.resource), Arc::new(Storage::new(one, environment))))
            .collect();
        let mut by_name: HashMap<&'static str, Vec<Served>> = HashMap::new();
        for resource in resources::all() {
            let storage = storages.get(&(&*resource.storage_group, &*resource.resource)).cloned();
            let schema = Schema::of(&Gvk::new(&*resource.group, &*resource.version, &*resource.kind));
            let api_version = api_version(&resource.group, &resource.version);
            by_name.entry(&resource.resource).or_default().push(Served { resource, api_version, schema, storage });
        }
        Self { by_name }
    }

    /// A resource in a version.
    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Served> {
        self.by_name
            .get(resource)?
            .iter()
            .find(|served| served.resource.group == group && served.resource.version == version)
    }

    /// A resource in the version it is stored in.
    pub(crate) fn stored(&self, group: &str, resource: &str) -> Option<&Served> {
        self.by_name.get(resource)?.iter().find(|served| {
            served.storage.as_ref().is_some_and(|storage| {
                storage.group == group && storage.api_version == served.api_version && served.resource.group == group
            })
        })
    }
}

/// Reviews and the like leave nothing behind.
fn is_stored(resource: &Resource) -> bool {
    resource.has_verb("list") && resource.has_verb("create")
}
