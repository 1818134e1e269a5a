//! Service-account tokens: JWTs signed with ES256, bound to an audience, a time and objects that must still exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::status::Status;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AUTHENTICATED, User};

/// Finds an object's bytes by group, resource, namespace and name, in the watch caches.
pub type Objects = Arc<dyn Fn(&str, &str, &str, &str) -> Option<Bytes> + Send + Sync>;

/// The prefix of a service account's user name.
pub const USER_PREFIX: &str = "system:serviceaccount:";
/// The group of all service accounts.
pub const ALL_GROUP: &str = "system:serviceaccounts";
/// A deleted object's tokens hold this much longer, for what is shutting down.
const DELETION_LEEWAY_SECONDS: i64 = 60;
/// Tokens whose signature is remembered. A verification costs 100 µs, a look-up less than one.
const REMEMBERED: usize = 4096;
/// Shortest life that may be asked for.
const SHORTEST_SECONDS: i64 = 600;
/// The longest life; what is asked beyond is cut.
const LONGEST_SECONDS: i64 = 1 << 32;

/// The object a token dies with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a token is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// The service account's uid.
    pub uid: String,
    /// The audiences; empty for the API server itself.
    pub audiences: Vec<String>,
    /// The token's life in seconds.
    pub expiration_seconds: i64,
    /// The object the token is bound to.
    pub bound: Option<BoundObject>,
    /// The node of the bound pod: name and uid, where known.
    pub node: Option<(String, String)>,
}

/// A signed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedToken {
    /// The JWT.
    pub token: String,
    /// The end of its life, RFC 3339.
    pub expires: String,
    /// The audiences it is for.
    pub audiences: Vec<String>,
}

/// Why a token proves nothing. Logged, never told to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not ours, forged, damaged, or out of its time.
    #[error("invalid bearer token: {0}")]
    Invalid(String),
    /// For somebody else.
    #[error("the token is for {0:?}")]
    Audience(Vec<String>),
    /// What it is bound to is gone.
    #[error("{kind} {namespace}/{name} of the token is gone or is another one now")]
    Unbound {
        /// The object's kind.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Private,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

/// Signs and checks service-account tokens.
pub struct TokenIssuer {
    issuer: String,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    jwk: Value,
    objects: Objects,
    /// Claims of tokens whose signature was found good, by the token's digest.
    known: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// An issuer with a P-256 key in PKCS #8 PEM; `objects` says what still exists.
    pub fn new(issuer: &str, key_pem: &str, objects: Objects) -> Result<Self, TokenError> {
        let invalid = |error: &dyn std::fmt::Display| TokenError::Invalid(format!("service-account key: {error}"));
        let signing = EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(|error| invalid(&error))?;
        let der = {
            use rustls_pki_types::pem::PemObject;
            rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| invalid(&error))?
        };
        let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
        )
        .map_err(|error| invalid(&error))?;
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err(invalid(&"not a P-256 key"));
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let verifying = DecodingKey::from_ec_components(&x, &y).map_err(|error| invalid(&error))?;
        let key_id = URL_SAFE_NO_PAD.encode(digest(&SHA256, point));
        let jwk = json!({ "use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y });
        Ok(Self { issuer: issuer.to_owned(), key_id, signing, verifying, jwk, objects, known: Mutex::default() })
    }

    /// The issuer's URL, which is also the default audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token.
    pub fn sign(&self, request: &TokenRequest) -> Result<SignedToken, Status> {
        let now = jiff::Timestamp::now().as_second();
        let life = request.expiration_seconds.clamp(SHORTEST_SECONDS, LONGEST_SECONDS);
        let audiences =
            if request.audiences.is_empty() { vec![self.issuer.clone()] } else { request.audiences.clone() };
        let bound = |kind: &str| {
            let object = request.bound.as_ref().filter(|bound| bound.kind == kind)?;
            Some(Reference { name: object.name.clone(), uid: object.uid.clone() })
        };
        let node = request.node.as_ref().map(|(name, uid)| Reference { name: name.clone(), uid: uid.clone() });
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("{USER_PREFIX}{}:{}", request.namespace, request.service_account),
            aud: audiences.clone(),
            exp: now + life,
            iat: now,
            nbf: now,
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Private {
                namespace: request.namespace.clone(),
                serviceaccount: Reference { name: request.service_account.clone(), uid: request.uid.clone() },
                pod: bound("Pod"),
                secret: bound("Secret"),
                node: bound("Node").or(node),
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        header.typ = None;
        let token = jsonwebtoken::encode(&header, &claims, &self.signing).map_err(Status::internal)?;
        let expires = jiff::Timestamp::from_second(claims.exp).map_err(Status::internal)?.to_string();
        Ok(SignedToken { token, expires, audiences })
    }

    /// Checks a token for any of these audiences (none: the API server's own) and gives its user and the audiences that
    /// it is good for.
    pub fn authenticate(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), TokenError> {
        let claims = self.verified(token)?;
        let now = jiff::Timestamp::now().as_second();
        // One that is not valid yet was signed before the clock was put back: we sign none for later.
        if claims.exp <= now {
            return Err(TokenError::Invalid("out of its time".to_owned()));
        }
        let good: Vec<String> = if audiences.is_empty() {
            claims.aud.iter().filter(|audience| **audience == self.issuer).cloned().collect()
        } else {
            audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect()
        };
        if good.is_empty() {
            return Err(TokenError::Audience(claims.aud.clone()));
        }
        self.check_bound(&claims, now)?;
        Ok((user_of(&claims), good))
    }

    /// The key set for `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// The document for `/.well-known/openid-configuration`.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    fn verified(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.known().get(&key) {
            return Ok(claims.clone());
        }
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_issuer(&[&self.issuer]);
        // Audience and time are checked at every use, the signature once.
        rules.validate_aud = false;
        rules.validate_exp = false;
        let data = jsonwebtoken::decode::<Claims>(token, &self.verifying, &rules)
            .map_err(|error| TokenError::Invalid(error.to_string()))?;
        let claims = Arc::new(data.claims);
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, claims.clone());
        Ok(claims)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Claims>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_bound(&self, claims: &Claims, now: i64) -> Result<(), TokenError> {
        let private = &claims.kubernetes;
        let namespace = private.namespace.as_str();
        self.check_alive("ServiceAccount", "serviceaccounts", namespace, &private.serviceaccount, now)?;
        if let Some(pod) = &private.pod {
            return self.check_alive("Pod", "pods", namespace, pod, now);
        }
        if let Some(secret) = &private.secret {
            return self.check_alive("Secret", "secrets", namespace, secret, now);
        }
        match &private.node {
            Some(node) => self.check_alive("Node", "nodes", "", node, now),
            None => Ok(()),
        }
    }

    fn check_alive(
        &self,
        kind: &str,
        resource: &str,
        namespace: &str,
        wanted: &Reference,
        now: i64,
    ) -> Result<(), TokenError> {
        #[derive(Deserialize)]
        struct Object {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            #[serde(default)]
            uid: String,
            deletion_timestamp: Option<jiff::Timestamp>,
        }
        let alive = (self.objects)("", resource, namespace, &wanted.name)
            .and_then(|bytes| serde_json::from_slice::<Object>(&bytes).ok())
            .is_some_and(|object| {
                let deleted = object.metadata.deletion_timestamp.map(jiff::Timestamp::as_second);
                object.metadata.uid == wanted.uid && deleted.is_none_or(|at| at + DELETION_LEEWAY_SECONDS >= now)
            });
        if alive {
            return Ok(());
        }
        Err(TokenError::Unbound { kind: kind.to_owned(), namespace: namespace.to_owned(), name: wanted.name.clone() })
    }
}

fn user_of(claims: &Claims) -> User {
    let private = &claims.kubernetes;
    let mut user = service_account(&private.namespace, &private.serviceaccount.name, &private.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    extra("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &private.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    user
}

/// The user that a service account is.
pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
    User {
        name: format!("{USER_PREFIX}{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![ALL_GROUP.to_owned(), format!("{ALL_GROUP}:{namespace}"), AUTHENTICATED.to_owned()],
        extra: std::collections::BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests;
