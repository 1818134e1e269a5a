//! `kube::Client`s over the pipeline, for the components in this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tower::Service;

use super::{Inner, body};
use crate::auth::User;
use crate::auth::authenticate::InProcess;
use crate::request::ResponseBody;

/// The pipeline as one user sees it.
#[derive(Clone)]
struct Caller {
    inner: Arc<Inner>,
    user: Arc<User>,
}

/// A client for a user in some groups.
pub(super) fn client(inner: Arc<Inner>, user: &str, groups: &[&str]) -> kube::Client {
    kube::Client::new(Caller { inner, user: Arc::new(User::new(user, groups)) }, "default")
}

impl Service<Request<kube::client::Body>> for Caller {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(body::boxed);
        request.extensions_mut().insert(InProcess(self.user.clone()));
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.handle(request).await) })
    }
}
