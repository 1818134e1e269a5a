//! Feeds the authorizer's indexes from the registry's watch caches.

use std::sync::{Arc, Mutex, PoisonError};

use store::{CacheError, Entry, EventKind, WatchCache, WatchEvent, Watcher};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Authorizer;
use super::rbac::Kind;

/// What a followed cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Roles or bindings.
    Rbac(Kind),
    /// Pods: what nodes may read.
    Pods,
    /// Persistent volumes, by the claims they are bound to.
    Volumes,
    /// Volume attachments, by node.
    Attachments,
}

/// One followed cache. The watcher is only polled, under its lock, by whoever needs the index to be current: the
/// feeding task after each announcement, and a decision before it refuses.
pub(super) struct Feed {
    source: Source,
    cache: WatchCache,
    position: Mutex<Position>,
}

struct Position {
    watcher: Watcher,
    /// What the index holds, so that a relist can remove what has gone.
    broken: bool,
}

impl Feed {
    /// Loads what the cache holds and notes where to go on.
    fn start(source: Source, cache: WatchCache, authorizer: &Authorizer) -> Self {
        let (snapshot, watcher) = cache.subscribe(cache.prefix());
        for entry in snapshot.range(cache.prefix(), None) {
            authorizer.apply(source, entry);
        }
        Self { source, cache, position: Mutex::new(Position { watcher, broken: false }) }
    }

    /// Applies what the cache has got since.
    pub(super) fn catch_up(&self, authorizer: &Authorizer) {
        // Asking for the revision makes the cache take in every acknowledged write.
        self.cache.revision();
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        while !position.broken {
            match position.watcher.take() {
                Ok(events) if events.is_empty() => return,
                Ok(events) => events.iter().for_each(|event| authorizer.apply_event(self.source, event)),
                Err(CacheError::Lagged) => {
                    let (snapshot, watcher) = self.cache.subscribe(self.cache.prefix());
                    authorizer.clear(self.source);
                    for entry in snapshot.range(self.cache.prefix(), None) {
                        authorizer.apply(self.source, entry);
                    }
                    position.watcher = watcher;
                }
                Err(_) => position.broken = true,
            }
        }
    }
}

impl Authorizer {
    /// Follows the caches of roles, bindings, pods and volumes from now on. What they hold already is loaded before this
    /// returns. `cache` finds the cache of a group and resource.
    pub fn follow(
        self: &Arc<Self>,
        cache: impl Fn(&str, &str) -> Option<WatchCache>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let sources = Kind::ALL
            .map(|kind| (Source::Rbac(kind), "rbac.authorization.k8s.io", kind.resource()))
            .into_iter()
            .chain([
                (Source::Pods, "", "pods"),
                (Source::Volumes, "", "persistentvolumes"),
                (Source::Attachments, "storage.k8s.io", "volumeattachments"),
            ]);
        let feeds: Vec<Feed> = sources
            .filter_map(|(source, group, resource)| {
                let cache = cache(group, resource)?;
                let waker = cache.subscribe(cache.prefix()).1;
                let state = (Arc::clone(self), waker, shutdown.clone());
                supervise::spawn("authorizer", tasks, shutdown, state, move |(authorizer, waker, shutdown)| {
                    Box::pin(feed_task(authorizer, source, waker, shutdown))
                });
                Some(Feed::start(source, cache, self))
            })
            .collect();
        if self.feeds.set(feeds).is_err() {
            tracing::warn!("the authorizer follows its caches already");
        }
    }

    fn apply_event(&self, source: Source, event: &WatchEvent) {
        if event.kind == EventKind::Deleted {
            self.remove(source, &event.entry);
        } else {
            self.apply(source, &event.entry);
        }
    }

    fn apply(&self, source: Source, entry: &Entry) {
        let (namespace, name) = (entry.namespace(), entry.name());
        match source {
            Source::Rbac(kind) => {
                let mut rbac = self.rbac.write().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = rbac.apply(kind, namespace, name, &entry.bytes) {
                    tracing::error!(resource = kind.resource(), namespace, name, %error, "cannot read; it grants nothing");
                }
            }
            Source::Pods => {
                self.nodes.apply_pod(namespace, name, entry.field("spec.nodeName").unwrap_or_default(), &entry.bytes);
            }
            Source::Volumes => self.nodes.set_volume(name, Some(&entry.bytes)),
            Source::Attachments => self.nodes.set_attachment(name, Some(&entry.bytes)),
        }
    }

    fn remove(&self, source: Source, entry: &Entry) {
        let (namespace, name) = (entry.namespace(), entry.name());
        match source {
            Source::Rbac(kind) => {
                self.rbac.write().unwrap_or_else(PoisonError::into_inner).delete(kind, namespace, name);
            }
            Source::Pods => {
                self.nodes.delete_pod(namespace, name, entry.field("spec.nodeName").unwrap_or_default());
            }
            Source::Volumes => self.nodes.set_volume(name, None),
            Source::Attachments => self.nodes.set_attachment(name, None),
        }
    }

    fn clear(&self, source: Source) {
        match source {
            Source::Rbac(kind) => self.rbac.write().unwrap_or_else(PoisonError::into_inner).clear(kind),
            Source::Pods => self.nodes.clear_pods(),
            Source::Volumes => self.nodes.clear_volumes(),
            Source::Attachments => self.nodes.clear_attachments(),
        }
    }
}

/// Keeps one source current. The waker only tells that there is something; the feed's own watcher says what.
async fn feed_task(authorizer: &Authorizer, source: Source, waker: &mut Watcher, shutdown: &CancellationToken) {
    loop {
        let woken = tokio::select! {
            () = shutdown.cancelled() => return,
            woken = waker.next() => woken,
        };
        let Some(feed) = authorizer.feeds.get().and_then(|feeds| feeds.iter().find(|feed| feed.source == source))
        else {
            continue;
        };
        match woken {
            Ok(_) => {}
            Err(CacheError::Lagged) => *waker = feed.cache.subscribe(feed.cache.prefix()).1,
            Err(_) => return,
        }
        feed.catch_up(authorizer);
    }
}
