//! The CRI client: one thin method a call, each with a deadline and an error that names the call and its object.

use std::future::Future;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::endpoint::{self, EndpointError};
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::*;

/// Calls that look or change little.
const QUICK: Duration = Duration::from_secs(120);
/// For questions that a runtime answers from memory: one that takes longer is not well.
const PROMPT: Duration = Duration::from_secs(10);
/// Making a sandbox runs the network plug-in; a removal may wait for processes to die.
const SLOW: Duration = Duration::from_secs(240);
/// How long a closing shim may take until the runtime has recorded its container's end.
const EXIT_TRIES: u32 = 50;
const EXIT_PAUSE: Duration = Duration::from_millis(20);
/// What a call that carries its own time-out gets on top of it: the runtime may be being restarted.
const GRACE: Duration = Duration::from_secs(120);
/// A pull takes what it takes; this is only the end of patience with a dead registry.
const PULL: Duration = Duration::from_secs(60 * 60);
/// A list of a node's containers with all their labels.
const MAX_MESSAGE: usize = 32 << 20;

/// A CRI call that failed: what was asked, on which object, and what the runtime said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call} {object}: {message} ({code:?})")]
pub struct CriError {
    /// The CRI method, as the specification spells it.
    pub call: &'static str,
    /// The id or name of what it was called on; may be empty.
    pub object: String,
    /// gRPC code of the answer.
    pub code: Code,
    /// The runtime's words.
    pub message: String,
}

impl CriError {
    /// The object does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The runtime is older than this call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// The call ran out of time.
    pub fn is_timeout(&self) -> bool {
        self.code == Code::DeadlineExceeded
    }
}

/// A client of a CRI runtime. Cheap to clone; reconnects by itself when the runtime was restarted.
#[derive(Clone, Debug)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Runtime {
    /// A client for `endpoint`, `unix:///path` or a bare path. The connection is made with the first call.
    pub fn connect(endpoint: &str) -> Result<Self, EndpointError> {
        let channel = endpoint::channel(endpoint)?;
        Ok(Runtime {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }

    // --- the runtime itself ---

    /// Name and versions of the runtime.
    pub async fn version(&self) -> Result<VersionResponse, CriError> {
        let request = limited(VersionRequest { version: "v1".into() }, PROMPT);
        done("Version", "", self.runtime.clone().version(request)).await
    }

    /// Conditions (RuntimeReady, NetworkReady), handlers and features; `verbose` adds the configuration.
    pub async fn status(&self, verbose: bool) -> Result<StatusResponse, CriError> {
        done("Status", "", self.runtime.clone().status(limited(StatusRequest { verbose }, PROMPT))).await
    }

    // --- sandboxes ---

    /// Creates and starts a pod's sandbox; answers its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> Result<String, CriError> {
        let object = config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.into() };
        let answer =
            done("RunPodSandbox", &object, self.runtime.clone().run_pod_sandbox(limited(request, SLOW))).await?;
        Ok(answer.pod_sandbox_id)
    }

    /// Stops a sandbox, its containers and its network. Idempotent.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = limited(StopPodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        done("StopPodSandbox", id, self.runtime.clone().stop_pod_sandbox(request)).await.map(drop)
    }

    /// Removes a sandbox and its containers. Idempotent.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = limited(RemovePodSandboxRequest { pod_sandbox_id: id.into() }, SLOW);
        done("RemovePodSandbox", id, self.runtime.clone().remove_pod_sandbox(request)).await.map(drop)
    }

    /// State and addresses of a sandbox; `verbose` adds what the runtime keeps about it.
    pub async fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<PodSandboxStatusResponse, CriError> {
        let request = limited(PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose }, QUICK);
        done("PodSandboxStatus", id, self.runtime.clone().pod_sandbox_status(request)).await
    }

    /// The sandboxes that match, all without a filter.
    pub async fn list_pod_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, CriError> {
        let request = limited(ListPodSandboxRequest { filter }, QUICK);
        Ok(done("ListPodSandbox", "", self.runtime.clone().list_pod_sandbox(request)).await?.items)
    }

    // --- containers ---

    /// Creates a container in a sandbox; answers its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, CriError> {
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let object = format!("{name} in sandbox {sandbox_id}");
        let answer =
            done("CreateContainer", &object, Box::pin(self.runtime.clone().create_container(limited(request, QUICK))))
                .await?;
        Ok(answer.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = limited(StartContainerRequest { container_id: id.into() }, QUICK);
        done("StartContainer", id, self.runtime.clone().start_container(request)).await.map(drop)
    }

    /// Stops a container: its stop signal, and SIGKILL after `grace`. Idempotent.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = limited(StopContainerRequest { container_id: id.into(), timeout }, grace.saturating_add(QUICK));
        done("StopContainer", id, self.runtime.clone().stop_container(request)).await.map(drop)
    }

    /// Removes a container, killing it if it runs. Idempotent.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = limited(RemoveContainerRequest { container_id: id.into() }, QUICK);
        done("RemoveContainer", id, self.runtime.clone().remove_container(request)).await.map(drop)
    }

    /// Gives a running container other limits.
    pub async fn update_container_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(resources),
            ..UpdateContainerResourcesRequest::default()
        };
        let request = limited(request, QUICK);
        done("UpdateContainerResources", id, self.runtime.clone().update_container_resources(request)).await.map(drop)
    }

    /// The containers that match, all without a filter.
    pub async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, CriError> {
        let request = limited(ListContainersRequest { filter }, QUICK);
        Ok(done("ListContainers", "", self.runtime.clone().list_containers(request)).await?.containers)
    }

    /// State, exit code, times, resources and log path of a container.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        let request = limited(ContainerStatusRequest { container_id: id.into(), verbose: false }, QUICK);
        let answer = done("ContainerStatus", id, self.runtime.clone().container_status(request)).await?;
        answer.status.ok_or_else(|| CriError {
            call: "ContainerStatus",
            object: id.into(),
            code: Code::Internal,
            message: "the runtime answered no status".into(),
        })
    }

    /// The status of a container whose exit containerd's events have told.
    ///
    /// The event may come before CRI has written the exit down. Stopping a container that is over kills nothing and
    /// answers once it is recorded, except in the moment between the deletion of its task and the record.
    pub async fn exited_container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        let mut tries = 0;
        loop {
            let status = self.container_status(id).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            let stopped = self.stop_container(id, Duration::ZERO).await;
            let status = self.container_status(id).await?;
            if status.state() == ContainerState::ContainerExited || tries == EXIT_TRIES {
                return match stopped {
                    Err(error) if status.state() != ContainerState::ContainerExited => Err(error),
                    _ => Ok(status),
                };
            }
            // The task is deleted or its shim just closing: the runtime is about to write the exit down, and tells nobody.
            tokio::time::sleep(EXIT_PAUSE).await;
            tries += 1;
        }
    }

    /// Makes the runtime open the container's log anew, after the file was renamed.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let request = limited(ReopenContainerLogRequest { container_id: id.into() }, QUICK);
        done("ReopenContainerLog", id, self.runtime.clone().reopen_container_log(request)).await.map(drop)
    }

    /// Runs a command in a container and answers its output and exit code. A zero `timeout` means none.
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<ExecSyncResponse, CriError> {
        // CRI counts whole seconds; less than one would mean none at all.
        let seconds = if timeout.is_zero() { 0 } else { timeout.as_secs_f64().ceil() as i64 };
        let deadline = if timeout.is_zero() { PULL } else { timeout.saturating_add(GRACE) };
        let request = limited(ExecSyncRequest { container_id: id.into(), cmd, timeout: seconds }, deadline);
        done("ExecSync", id, self.runtime.clone().exec_sync(request)).await
    }

    // --- streaming ---

    /// The URL at which the runtime serves this exec.
    pub async fn exec(&self, request: ExecRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        Ok(done("Exec", &id, self.runtime.clone().exec(limited(request, QUICK))).await?.url)
    }

    /// The URL at which the runtime serves this attach.
    pub async fn attach(&self, request: AttachRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        Ok(done("Attach", &id, self.runtime.clone().attach(limited(request, QUICK))).await?.url)
    }

    /// The URL at which the runtime forwards `ports` of a sandbox.
    pub async fn port_forward(&self, sandbox_id: &str, ports: Vec<i32>) -> Result<String, CriError> {
        let request = limited(PortForwardRequest { pod_sandbox_id: sandbox_id.into(), port: ports }, QUICK);
        Ok(done("PortForward", sandbox_id, self.runtime.clone().port_forward(request)).await?.url)
    }

    // --- statistics ---

    /// Usage of the containers that match.
    pub async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, CriError> {
        let request = limited(ListContainerStatsRequest { filter }, QUICK);
        Ok(done("ListContainerStats", "", self.runtime.clone().list_container_stats(request)).await?.stats)
    }

    /// Usage of the sandboxes that match.
    pub async fn list_pod_sandbox_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, CriError> {
        let request = limited(ListPodSandboxStatsRequest { filter }, QUICK);
        Ok(done("ListPodSandboxStats", "", self.runtime.clone().list_pod_sandbox_stats(request)).await?.stats)
    }

    // --- images ---

    /// The images the runtime has.
    pub async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        let request = limited(ListImagesRequest { filter: None }, QUICK);
        Ok(done("ListImages", "", self.images.clone().list_images(request)).await?.images)
    }

    /// The image of this name, if the runtime has it.
    pub async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, CriError> {
        let request = limited(ImageStatusRequest { image: Some(image.clone()), verbose: false }, QUICK);
        Ok(done("ImageStatus", &image.image, self.images.clone().image_status(request)).await?.image)
    }

    /// Pulls an image; answers its reference (id or digest).
    pub async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<AuthConfig>,
        sandbox_config: Option<PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let request = limited(PullImageRequest { image: Some(image.clone()), auth, sandbox_config }, PULL);
        Ok(done("PullImage", &image.image, Box::pin(self.images.clone().pull_image(request))).await?.image_ref)
    }

    /// Space that images (and, since CRI 1.29, containers) take.
    pub async fn image_fs_info(&self) -> Result<ImageFsInfoResponse, CriError> {
        done("ImageFsInfo", "", self.images.clone().image_fs_info(limited(ImageFsInfoRequest {}, QUICK))).await
    }
}

fn limited<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

async fn done<T>(
    call: &'static str,
    object: &str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CriError> {
    answer.await.map(Response::into_inner).map_err(|status| {
        // tonic reports its own deadline as a cancellation.
        let expired = status.code() == Code::Cancelled && status.message().contains("Timeout expired");
        CriError {
            call,
            object: object.to_owned(),
            code: if expired { Code::DeadlineExceeded } else { status.code() },
            message: status.message().to_owned(),
        }
    })
}
