//! containerd keeps tenants apart by a namespace that travels in a header.

use tonic::metadata::MetadataValue;
use tonic::{IntoRequest, Request};

/// The namespace in which containerd's CRI plug-in lives.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// A request in CRI's namespace.
pub(crate) fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = message.into_request();
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// A request in CRI's namespace whose results are kept from garbage collection by a lease.
pub(crate) fn in_lease<T>(message: T, lease: &MetadataValue<tonic::metadata::Ascii>) -> Request<T> {
    let mut request = in_namespace(message);
    request.metadata_mut().insert("containerd-lease", lease.clone());
    request
}
