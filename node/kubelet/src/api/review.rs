//! Asks the API server: TokenReview for who, SubjectAccessReview for whether. Answers are kept for a while.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

use super::{Attributes, Authorizer, Decision, User};

/// As upstream's kubelet: what is allowed is believed longer than what is not.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
/// Answers kept at most, each kind.
const KEPT: usize = 4096;

/// The API server as [`Authorizer`].
pub struct ReviewAuthorizer {
    client: kube::Client,
    tokens: Cache<String, Option<User>>,
    decisions: Cache<(User, Attributes), Decision>,
}

impl ReviewAuthorizer {
    /// Asks through `client`, which must be the node's own.
    pub fn new(client: kube::Client) -> Self {
        ReviewAuthorizer { client, tokens: Cache::default(), decisions: Cache::default() }
    }

    async fn review_token(&self, token: &str) -> Result<Option<User>, String> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..Default::default() };
        let review = TokenReview { spec, ..Default::default() };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| format!("TokenReview: {error}"))?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        let user = status.user.unwrap_or_default();
        Ok(user.username.filter(|name| !name.is_empty()).map(|name| User {
            name,
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    async fn review_access(&self, user: &User, attributes: &Attributes) -> Result<Decision, String> {
        let mut last = Decision { allowed: false, reason: String::new() };
        for subresource in attributes.subresources {
            let resource = ResourceAttributes {
                verb: Some(attributes.verb.to_owned()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some((*subresource).to_owned()),
                name: Some(attributes.node.clone()),
                ..Default::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(resource),
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            let answer =
                Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
            let status = answer.map_err(|error| format!("SubjectAccessReview: {error}"))?.status.unwrap_or_default();
            last = Decision { allowed: status.allowed, reason: status.reason.unwrap_or_default() };
            if last.allowed {
                break;
            }
        }
        Ok(last)
    }
}

#[async_trait]
impl Authorizer for ReviewAuthorizer {
    async fn authenticate(&self, token: &str) -> Result<Option<User>, String> {
        let lifetime = |user: &Option<User>| if user.is_some() { TOKEN_FOR } else { DENIED_FOR };
        self.tokens.get(token.to_owned(), self.review_token(token), lifetime).await
    }

    async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<Decision, String> {
        // Decisions do not depend on the rest of the path.
        let key = (user.clone(), Attributes { path: String::new(), ..attributes.clone() });
        let lifetime = |decision: &Decision| if decision.allowed { ALLOWED_FOR } else { DENIED_FOR };
        self.decisions.get(key, self.review_access(user, attributes), lifetime).await
    }
}

/// Answers with their ends.
struct Cache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache { entries: Mutex::new(HashMap::new()) }
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// The kept answer, or the one `ask` gives. Failures are not kept.
    async fn get(
        &self,
        key: K,
        ask: impl Future<Output = Result<V, String>>,
        lifetime: impl Fn(&V) -> Duration,
    ) -> Result<V, String> {
        if let Some(value) = self.find(&key, Instant::now()) {
            return Ok(value);
        }
        let value = ask.await?;
        self.keep(key, value.clone(), Instant::now(), lifetime(&value));
        Ok(value)
    }

    fn find(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.get(key).filter(|(end, _)| *end > now).map(|(_, value)| value.clone())
    }

    fn keep(&self, key: K, value: V, now: Instant, lifetime: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if entries.len() >= KEPT {
            entries.retain(|_, (end, _)| *end > now);
        }
        // Full of answers that still hold: a flood of names. Forget them all rather than grow.
        if entries.len() >= KEPT {
            entries.clear();
        }
        entries.insert(key, (now + lifetime, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_and_are_bounded() {
        let cache = Cache::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        cache.keep(1, "a", now, second);
        assert_eq!(cache.find(&1, now), Some("a"));
        assert_eq!(cache.find(&1, now + second), None);
        for key in 0..KEPT * 2 {
            cache.keep(key, "b", now, second);
            assert!(cache.entries.lock().unwrap().len() <= KEPT);
        }
    }
}
