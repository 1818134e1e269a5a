//! postStart and preStop: a command in the container, an HTTP request, or a sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::pod;
use crate::probe::{self, Action};
use crate::runtime::PodRuntime;

/// The response of a hook may take as long as its container's start or grace lets it; this is for dead peers.
const LONGEST: Duration = Duration::from_secs(3600);
/// How hooks introduce themselves to HTTP servers.
const AGENT: &str = "kube-lifecycle/1.36";

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
    if let Some(exec) = &handler.exec {
        let command = pod::list(&exec.command).to_vec();
        let answer = runtime.exec_sync(id, command.clone(), LONGEST).await;
        let answer = answer.map_err(|error| format!("command {command:?} failed: {}", error.message))?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let code = answer.exit_code;
        return Err(format!("command {command:?} exited with {code}: {}", probe::output(answer)));
    }
    if let Some(get) = &handler.http_get {
        // Whatever is answered: a hook tells, it does not ask.
        let told = tokio::time::timeout(LONGEST, Action::http(container, get, ip)?.send(AGENT)).await;
        return told.map_err(|_| "the server does not answer".to_owned())?.map(drop);
    }
    Err("invalid handler: it names no action that can be taken".into())
}
