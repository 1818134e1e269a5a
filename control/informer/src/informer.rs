//! The handle: a shared index fed by a watch, with handlers told of every change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::index::{Event, Index, IndexFn};
use crate::meta::{ObjectKey, Projection};
use crate::source::{self, Sink, Target};

/// The latest projection of every object of a resource (or of those a selector chooses). Clones share it.
pub struct Informer<T>(Arc<Shared<T>>);

/// What is to be watched and how it is indexed.
pub struct Builder<T> {
    client: kube::Client,
    target: Target,
    namespace: Option<String>,
    indexes: Vec<(&'static str, IndexFn<T>)>,
}

type Handler<T> = Arc<dyn Fn(&Event<T>) + Send + Sync>;

struct Shared<T> {
    /// Held for a moment, never while handlers run.
    index: RwLock<Index<T>>,
    /// Held while handlers run, so that they see changes in order and each of them once. Nothing but delivery takes it.
    handlers: Mutex<Vec<Handler<T>>>,
    generation: watch::Sender<u64>,
    synced: watch::Sender<bool>,
}

struct Feed<T>(Arc<Shared<T>>);

// === impl Builder ===

impl<T: Projection> Builder<T> {
    /// Only objects with these fields, e.g. `spec.nodeName=x`.
    #[must_use]
    pub fn field_selector(mut self, selector: impl Into<String>) -> Self {
        self.target.field_selector = selector.into();
        self
    }

    /// Only objects with these labels.
    #[must_use]
    pub fn label_selector(mut self, selector: impl Into<String>) -> Self {
        self.target.label_selector = selector.into();
        self
    }

    /// Only objects of this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Declares an index: [`Informer::by_index`] finds an object under each value that `values_of` gives for it.
    #[must_use]
    pub fn index(mut self, name: &'static str, values_of: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.indexes.push((name, Box::new(values_of)));
        self
    }

    /// Starts the watch.
    pub fn start(self, tasks: &TaskTracker, shutdown: CancellationToken) -> Informer<T> {
        let shared = Arc::new(Shared {
            index: RwLock::new(Index::new(self.indexes)),
            handlers: Mutex::new(Vec::new()),
            generation: watch::Sender::new(0),
            synced: watch::Sender::new(false),
        });
        let path = Target::new(T::GROUP, T::VERSION, T::RESOURCE, self.namespace.as_deref()).path;
        let target = Target { path, ..self.target };
        source::start(self.client, target, Feed(Arc::clone(&shared)), tasks, shutdown);
        Informer(shared)
    }
}

// === impl Informer ===

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Projection> Informer<T> {
    /// Begins to describe an informer over `client`.
    pub fn builder(client: kube::Client) -> Builder<T> {
        let target = Target::new(T::GROUP, T::VERSION, T::RESOURCE, None);
        Builder { client, target, namespace: None, indexes: Vec::new() }
    }

    /// An object by key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.0.index().get(key).cloned()
    }

    /// All objects in the order of their keys.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.0.index().iter().cloned().collect()
    }

    /// The objects found under `value` in a declared index.
    ///
    /// # Panics
    /// When no index of that name was declared.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<T>> {
        self.0.index().by_index(index, value)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.index().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first full state has arrived.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits for the first full state.
    pub async fn synced(&self) {
        // The sender lives in what `self` holds, so waiting ends with the condition alone.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Adds a handler. It is called at once with every known object as `Upsert { old: None, .. }`, then in order with each
    /// change, after the index has it. Handlers run on the watch's task: they must be quick, must not block, and must not
    /// add handlers to this informer.
    pub fn on_event(&self, handler: impl Fn(&Event<T>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers();
        for new in self.list() {
            handler(&Event::Upsert { old: None, new });
        }
        handlers.push(Arc::new(handler));
    }

    /// A counter that rises with every change, and once when the first full state is complete.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }
}

// === impl Shared ===

/// Poisoning is ignored throughout: `Index` upholds its invariants at every call that may panic in a user's function.
impl<T: Projection> Shared<T> {
    fn index(&self) -> RwLockReadGuard<'_, Index<T>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index<T>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn handlers(&self) -> MutexGuard<'_, Vec<Handler<T>>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, apply: impl FnOnce(&mut Index<T>) -> Vec<Event<T>>) {
        let handlers = self.handlers();
        let events = apply(&mut self.index_mut());
        if events.is_empty() {
            return;
        }
        for event in &events {
            for handler in handlers.iter() {
                // One user's mistake must not stop the watch for all others.
                let call = std::panic::AssertUnwindSafe(|| handler(event));
                if let Err(panic) = std::panic::catch_unwind(call) {
                    tracing::error!(resource = T::RESOURCE, key = %event.object().key(), "a handler panicked");
                    supervise::panicked("informer handler", &*panic);
                }
            }
        }
        self.generation.send_modify(|generation| *generation += 1);
    }
}

// === impl Feed ===

impl<T: Projection> Sink<T> for Feed<T> {
    fn begin(&mut self) {
        self.0.index_mut().begin_replace();
    }

    fn upsert(&mut self, object: T) {
        self.0.change(|index| index.apply(object));
    }

    fn delete(&mut self, last: T) {
        self.0.change(|index| index.delete(last).into_iter().collect());
    }

    fn synced(&mut self) {
        self.0.change(Index::end_replace);
        if !self.0.synced.send_replace(true) {
            self.0.generation.send_modify(|generation| *generation += 1);
        }
    }
}
