//! Unix sockets as gRPC endpoints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A kernel limit: `sun_path` with its closing zero.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// An endpoint that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EndpointError {
    /// Only unix sockets carry CRI here.
    #[error("container runtime endpoint {0:?}: use unix:///path/to/socket")]
    Scheme(String),
    /// The path does not fit a socket address.
    #[error(
        "socket path {path} has {length} bytes, the kernel allows {SOCKET_PATH_MAX}: choose a shorter data directory"
    )]
    TooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
}

/// The path behind `unix:///path`, `unix:/path` or `/path`.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, EndpointError> {
    let path = match endpoint.strip_prefix("unix:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => endpoint,
    };
    if !path.starts_with('/') {
        return Err(EndpointError::Scheme(endpoint.to_owned()));
    }
    let path = Path::new(path);
    check_socket_path(path)?;
    Ok(path.to_owned())
}

/// Refuses a path that no socket can be bound to.
pub(crate) fn check_socket_path(path: &Path) -> Result<(), EndpointError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(EndpointError::TooLong { path: path.display().to_string(), length });
    }
    Ok(())
}

/// A channel that connects when first used and again whenever the other side comes back.
pub(crate) fn channel(endpoint: &str) -> Result<Channel, EndpointError> {
    let path = socket_path(endpoint)?;
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never resolved: the connector knows the socket.
    Ok(Endpoint::from_static("http://localhost")
        .connect_timeout(Duration::from_secs(5))
        .connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (endpoint, want) in [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("unix:/run/c.sock", Some("/run/c.sock")),
            ("/run/c.sock", Some("/run/c.sock")),
            ("tcp://127.0.0.1:1", None),
            ("unix://relative", None),
            ("", None),
        ] {
            assert_eq!(socket_path(endpoint).ok().as_deref(), want.map(Path::new), "{endpoint}");
        }
        let long = format!("/{}", "x".repeat(SOCKET_PATH_MAX));
        assert!(matches!(socket_path(&long), Err(EndpointError::TooLong { length: 108, .. })));
        assert!(socket_path(&long[..SOCKET_PATH_MAX]).is_ok());
    }
}
