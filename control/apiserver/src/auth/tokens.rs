//! Service-account tokens: signed JWTs bound to an audience, a time and an object.

use apimachinery::status::Status;

/// Signs and checks service-account tokens.
pub struct TokenIssuer {
    issuer: String,
}

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

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Signs a token.
    pub fn sign(&self, _request: &TokenRequest) -> Result<SignedToken, Status> {
        Err(Status::internal("token signing is not set up"))
    }
}
