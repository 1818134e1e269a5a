//! The seam to the container runtime: what a pod worker asks of it, so that tests can put a fake in its place.

use std::time::Duration;

use async_trait::async_trait;
pub(crate) use cri::CriError;
use cri::v1::{
    AuthConfig, Container, ContainerConfig, ContainerFilter, ContainerStatsFilter, ContainerStatus, ExecSyncResponse,
    Image, ImageSpec, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus,
    RuntimeFeatures,
};

/// CRI as far as a worker uses it.
#[async_trait]
pub(crate) trait PodRuntime: Send + Sync + 'static {
    /// `handler` is the name of a RuntimeClass's handler; empty for the runtime's default.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String, CriError>;
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError>;
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError>;
    async fn pod_sandbox_status(&self, id: &str) -> Result<Option<PodSandboxStatus>, CriError>;
    async fn list_pod_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, CriError>;
    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, CriError>;
    async fn start_container(&self, id: &str) -> Result<(), CriError>;
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError>;
    async fn remove_container(&self, id: &str) -> Result<(), CriError>;
    async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, CriError>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, CriError>;
    /// The status of a container that is known to have exited: waits for the runtime's own bookkeeping.
    async fn exited_container_status(&self, id: &str) -> Result<ContainerStatus, CriError>;
    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse, CriError>;
    async fn image_status(&self, image: &str) -> Result<Option<Image>, CriError>;
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String, CriError>;
    async fn reopen_container_log(&self, id: &str) -> Result<(), CriError>;
    /// Gives a running container other limits.
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<(), CriError>;
    /// How many bytes of memory a running container uses, where the runtime knows.
    async fn memory_usage(&self, id: &str) -> Result<Option<u64>, CriError>;
    /// What the runtime can do that older ones cannot.
    async fn features(&self) -> Result<RuntimeFeatures, CriError>;
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..ImageSpec::default() }
}

#[async_trait]
impl PodRuntime for cri::Runtime {
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String, CriError> {
        Box::pin(cri::Runtime::run_pod_sandbox(self, config, handler)).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        ignore_missing(cri::Runtime::stop_pod_sandbox(self, id).await)
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        ignore_missing(cri::Runtime::remove_pod_sandbox(self, id).await)
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<Option<PodSandboxStatus>, CriError> {
        match cri::Runtime::pod_sandbox_status(self, id, false).await {
            Ok(response) => Ok(response.status),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_pod_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, CriError> {
        cri::Runtime::list_pod_sandboxes(self, filter).await
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, CriError> {
        cri::Runtime::create_container(self, sandbox, config, sandbox_config).await
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        cri::Runtime::start_container(self, id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        ignore_missing(cri::Runtime::stop_container(self, id, grace).await)
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        ignore_missing(cri::Runtime::remove_container(self, id).await)
    }

    async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, CriError> {
        cri::Runtime::list_containers(self, filter).await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        cri::Runtime::container_status(self, id).await
    }

    async fn exited_container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        cri::Runtime::exited_container_status(self, id).await
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse, CriError> {
        cri::Runtime::exec_sync(self, id, cmd, timeout).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, CriError> {
        cri::Runtime::image_status(self, &spec(image)).await
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String, CriError> {
        cri::Runtime::pull_image(self, &spec(image), auth, Some(sandbox_config.clone())).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        cri::Runtime::reopen_container_log(self, id).await
    }

    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<(), CriError> {
        cri::Runtime::update_container_resources(self, id, resources).await
    }

    async fn memory_usage(&self, id: &str) -> Result<Option<u64>, CriError> {
        let filter = ContainerStatsFilter { id: id.to_owned(), ..ContainerStatsFilter::default() };
        let stats = cri::Runtime::list_container_stats(self, Some(filter)).await?;
        Ok(stats.into_iter().find_map(|stats| Some(stats.memory?.usage_bytes?.value)))
    }

    async fn features(&self) -> Result<RuntimeFeatures, CriError> {
        Ok(cri::Runtime::status(self, false).await?.features.unwrap_or_default())
    }
}

fn ignore_missing(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
