//! Bound service-account tokens: asked of the API server, kept while fresh.

use std::collections::HashMap;
use std::time::Duration;

use informer::rest::{self, Path, Rest};
use jiff::Timestamp;
use serde_json::json;

use crate::pod::PodId;

/// Never keep a token longer than this, however long it lives.
const MAX_AGE: i64 = 24 * 3600;

/// What identifies a request: audience and lifetime.
type Key = (String, i64);

#[derive(Clone, Debug)]
struct Token {
    text: String,
    asked_at: Timestamp,
    refresh_at: Timestamp,
}

impl Token {
    /// Whether it is in the first part of its life. One from the future was asked for before the clock was put back: others
    /// than the API server may not take it.
    fn is_fresh(&self, now: Timestamp) -> bool {
        (self.asked_at..self.refresh_at).contains(&now)
    }
}

/// The tokens of one pod.
#[derive(Default)]
pub(crate) struct Tokens {
    held: HashMap<Key, Token>,
}

impl Tokens {
    /// A token for the audience (empty: the API server's own), from memory while it is in the first 80 % of its life.
    pub(crate) async fn get(
        &mut self,
        client: &kube::Client,
        pod: &PodId,
        account: &str,
        audience: &str,
        seconds: i64,
    ) -> Result<String, String> {
        let key = (audience.to_owned(), seconds);
        let now = Timestamp::now();
        if let Some(token) = self.held.get(&key).filter(|token| token.is_fresh(now)) {
            return Ok(token.text.clone());
        }
        match request(client, pod, account, audience, seconds).await {
            Ok((text, expires)) => {
                let refresh_at = refresh_at(now, expires);
                self.held.insert(key, Token { text: text.clone(), asked_at: now, refresh_at });
                Ok(text)
            }
            // An old token that still holds beats none.
            Err(error) => match self.held.get_mut(&key) {
                Some(token) => {
                    tracing::warn!(%pod, account, error, "cannot refresh the service-account token, trying again in a minute");
                    (token.asked_at, token.refresh_at) = (now, now + Duration::from_secs(60));
                    Ok(token.text.clone())
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    /// When the first token wants to be renewed.
    pub(crate) fn next_refresh(&self) -> Option<Timestamp> {
        self.held.values().map(|token| token.refresh_at).min()
    }
}

fn refresh_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs().max(1);
    now + Duration::from_secs((life * 8 / 10).min(MAX_AGE) as u64)
}

async fn request(
    client: &kube::Client,
    pod: &PodId,
    account: &str,
    audience: &str,
    seconds: i64,
) -> Result<(String, Timestamp), String> {
    let audiences: Vec<&str> = if audience.is_empty() { vec![] } else { vec![audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid},
        },
    });
    let path = Path::object("", "v1", "serviceaccounts", &pod.namespace, account).child("token");
    let answer = Rest::new(client.clone()).create(&path, &body).await.map_err(|error| rest::message(&error))?;
    let token = answer["status"]["token"].as_str().ok_or("the answer holds no token")?;
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse().ok());
    Ok((token.to_owned(), expires.ok_or("the answer holds no expiry")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_from_the_future_is_not_fresh() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = Token { text: String::new(), asked_at: at(1000), refresh_at: at(2000) };
        for (now, fresh) in [(999, false), (1000, true), (1999, true), (2000, false)] {
            assert_eq!(token.is_fresh(at(now)), fresh, "{now}");
        }
    }

    #[test]
    fn refreshed_at_four_fifths_of_life_or_after_a_day() {
        let now = Timestamp::from_second(0).unwrap();
        for (life, expected) in [(600, 480), (3607, 2885), (365 * 86400, 86400)] {
            let at = refresh_at(now, Timestamp::from_second(life).unwrap());
            assert_eq!(at.as_second(), expected, "{life}");
        }
    }
}
