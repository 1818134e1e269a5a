//! postStart and preStop: a command in the container, an HTTP request, a connection, or a sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probe::{self, Action};
use crate::runtime::PodRuntime;

/// The response of a hook may take as long as its container's start or grace lets it; this is for dead peers.
const LONGEST: Duration = Duration::from_secs(3600);

/// Runs a hook to its end.
pub(crate) async fn run(
    runtime: &dyn PodRuntime,
    container: &Container,
    id: &str,
    ip: &str,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    let action = if let Some(exec) = &handler.exec {
        Action::Exec(crate::pod::list(&exec.command).to_vec())
    } else if let Some(get) = &handler.http_get {
        Action::http(container, get, ip)?
    } else if let Some(tcp) = &handler.tcp_socket {
        Action::tcp(container, tcp, ip)?
    } else {
        return Ok(());
    };
    probe::attempt(runtime, id, &action, LONGEST).await
}
