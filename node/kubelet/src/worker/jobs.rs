//! The work a pod needs, each piece a task that ends with an outcome for its worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use informer::rest::{self, Rest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::{End, LEAST_GRACE};
use super::state::{Applied, Run, Sandbox};
use super::{StartError, View};
use crate::cgroup::{CgroupError, PodLimits};
use crate::container::{self, Request, sandbox, security};
use crate::context::Context;
use crate::downward::LiveFacts;
use crate::env::{self, Env, service_env};
use crate::hooks;
use crate::images::{self, PullBackoff};
use crate::logs;
use crate::objects::PodObjects;
use crate::pod::{self, PodId};
use crate::qos::QosClass;
use crate::resources;
use crate::runtime::CriError;
use crate::volumes::{self, PodVolumes, VolumePaths};

/// How long a runtime that could not stop a container is left alone before it is asked again.
const STOP_RETRY: Duration = Duration::from_secs(1);
/// Groups empty an instant after their last process ended; there is no event for it on v1.
const CGROUP_TRIES: u32 = 40;
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// What of its pod a container is started into.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    pub(crate) volumes: VolumePaths,
    pub(crate) ips: Vec<String>,
    /// The container whose processes it sees: its id, or the name of one that does not run.
    pub(crate) target: Option<Result<String, String>>,
}

/// What the jobs of one pod share.
pub(crate) struct Shared {
    pub(crate) context: Arc<Context>,
    pub(crate) id: PodId,
    pub(crate) objects: PodObjects,
    pub(crate) volumes: tokio::sync::Mutex<PodVolumes>,
    pub(crate) pulls: PullBackoff,
}

impl Shared {
    pub(crate) fn new(context: Arc<Context>, id: PodId) -> Shared {
        let dir = context.settings.pods_dir.join(&id.uid);
        Shared {
            objects: PodObjects::new(context.objects.clone(), &id.namespace),
            volumes: tokio::sync::Mutex::new(PodVolumes::new(dir, context.client.clone())),
            pulls: PullBackoff::default(),
            context,
            id,
        }
    }

    fn facts(&self, ips: &[String]) -> LiveFacts {
        LiveFacts { pod_ips: ips.to_vec(), host_ip: self.context.host_ip.clone(), capacity: self.context.capacity }
    }

    fn pod_dir(&self) -> PathBuf {
        self.context.settings.pods_dir.join(&self.id.uid)
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.context.settings.logs_dir.join(self.id.log_dir())
    }

    fn event(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: String) {
        self.context.events.event(pod, container, warning, reason, message);
    }

    // --- before the containers ---

    /// cgroup, directories and volumes.
    pub(crate) async fn first_setup(
        &self,
        pod: &Arc<Pod>,
        ips: &[String],
    ) -> Result<(VolumePaths, Option<Timestamp>), String> {
        if let Err(error) = self.make_room(pod) {
            let message = format!("error: failed to create cgroup for pod: {error}");
            self.event(pod, None, true, "FailedCreatePodContainer", message.clone());
            return Err(message);
        }
        self.setup(pod, ips).await
    }

    fn limits(&self, pod: &Pod) -> PodLimits {
        PodLimits::of(pod, Some(self.context.settings.pod_pids).filter(|pids| *pids > 0))
    }

    /// A group of the pod's in which its containers may have what the pod was given.
    fn make_room(&self, pod: &Pod) -> Result<(), CgroupError> {
        let Some(cgroups) = &self.context.cgroups else { return Ok(()) };
        cgroups.make_room(QosClass::of(pod), &self.id.uid, &self.limits(pod))
    }

    /// Gives running containers the resources that the pod was given; `done` says which have them. The pod's group is
    /// above them throughout, and has exactly its limits when all is `settled`.
    pub(crate) async fn resize(
        &self,
        pod: &Pod,
        updates: Vec<(String, Applied)>,
        settled: bool,
        done: &mut Vec<(String, Applied)>,
    ) -> Result<(), String> {
        let runtime = &self.context.runtime;
        let limit =
            |resources: Option<&ResourceRequirements>| resources::limit_of(resources, "memory").unwrap_or(i64::MAX);
        let updates: Vec<_> =
            updates.into_iter().filter_map(|(name, had)| Some((pod::container(pod, &name)?, had))).collect();
        for (container, had) in &updates {
            let wanted = limit(container.resources.as_ref());
            if wanted >= limit(had.resources.as_ref()) {
                continue;
            }
            // The kernel would kill in it at once.
            let usage = runtime.memory_usage(&had.id).await.map_err(|error| error.to_string())?;
            if let Some(usage) = usage.filter(|usage| i64::try_from(*usage).is_ok_and(|usage| usage > wanted)) {
                return Err(format!(
                    "attempting to set container {:?} memory limit ({wanted}) below current usage ({usage})",
                    container.name
                ));
            }
        }
        self.make_room(pod).map_err(|error| error.to_string())?;
        for (container, Applied { id, .. }) in updates {
            let limits = container::linux_resources(pod, container, &self.context.settings);
            runtime.update_container_resources(&id, limits).await.map_err(|error| error.to_string())?;
            done.push((container.name.clone(), Applied { id, resources: container.resources.clone() }));
        }
        match &self.context.cgroups {
            Some(cgroups) if settled => cgroups
                .ensure_pod(QosClass::of(pod), &self.id.uid, &self.limits(pod))
                .map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }

    /// Directories and volumes. Also refreshes what volumes show.
    pub(crate) async fn setup(
        &self,
        pod: &Arc<Pod>,
        ips: &[String],
    ) -> Result<(VolumePaths, Option<Timestamp>), String> {
        for dir in [self.pod_dir(), self.log_dir()] {
            let made = tokio::fs::create_dir_all(&dir).await;
            made.map_err(|error| format!("mkdir {}: {error}", dir.display()))?;
        }
        let mut volumes = self.volumes.lock().await;
        match volumes.setup(pod, &self.facts(ips), &self.objects).await {
            Ok(paths) => Ok((paths, volumes.next_refresh())),
            Err(error) => {
                self.event(pod, None, true, "FailedMount", error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// A sandbox; the old one's network is taken down first.
    pub(crate) async fn sandbox(&self, pod: &Pod, old: Option<String>, attempt: u32) -> Result<Sandbox, String> {
        let runtime = &self.context.runtime;
        let made = async {
            self.refuse_unsupported(pod).await?;
            let handler = self.runtime_handler(pod).await?;
            let text = |error: cri::CriError| error.to_string();
            if let Some(old) = old {
                runtime.stop_pod_sandbox(&old).await.map_err(text)?;
            }
            let config = sandbox::config(pod, attempt, &self.context.settings);
            let id = runtime.run_pod_sandbox(config, &handler).await.map_err(text)?;
            self.context.registry.add(&id, &self.id.uid);
            let status = runtime.pod_sandbox_status(&id).await.map_err(text)?;
            status.as_ref().map(Sandbox::new).ok_or_else(|| "it vanished right after it was made".to_owned())
        };
        made.await.inspect_err(|error| {
            self.event(pod, None, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
        })
    }

    /// What would be less safe than asked for if the runtime did not know it.
    async fn refuse_unsupported(&self, pod: &Pod) -> Result<(), String> {
        let spec = pod::spec(pod);
        if spec.host_users == Some(false) {
            return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into());
        }
        let policy = spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref());
        if policy == Some("Strict") {
            let features = self.context.runtime.features().await.map_err(|error| error.to_string())?;
            if !features.supplemental_groups_policy {
                return Err("SupplementalGroupsPolicy=Strict is not supported in this node".into());
            }
        }
        Ok(())
    }

    /// What the runtime calls the pod's RuntimeClass.
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let class = pod::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty());
        let (Some(class), Some(client)) = (class, &self.context.client) else { return Ok(String::new()) };
        let path = rest::Path::object("node.k8s.io", "v1", "runtimeclasses", "", class);
        let found = Rest::new(client.clone()).get(&path).await;
        found
            .map(|class| class["handler"].as_str().unwrap_or_default().to_owned())
            .map_err(|error| format!("failed to get sandbox runtime: {}", rest::message(&error)))
    }

    // --- containers ---

    /// Image, environment, mounts; then a container, started.
    pub(crate) async fn start(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        attempt: u32,
        place: Place,
    ) -> Result<Run, StartError> {
        let Place { sandbox, volumes, ips, target } = place;
        let context = &self.context;
        let sandbox_config = sandbox::config(pod, sandbox.attempt, &context.settings);
        let image = images::ensure(context, pod, container, &self.objects, &sandbox_config, &self.pulls).await?;
        let fail = |reason: &'static str, message: String| {
            self.event(pod, Some(&container.name), true, "Failed", format!("Error: {message}"));
            StartError::retry(reason, message)
        };
        let unready = |message: String| fail("CreateContainerConfigError", message);
        self.make_room(pod).map_err(|error| unready(format!("cannot resize the pod's cgroup: {error}")))?;
        let target = target.transpose();
        let target = target.map_err(|name| unready(format!("unable to find target container {name}")))?;
        let prepared = self.prepare(pod, container, attempt, &volumes, ips, &image).await;
        let (env, prepared) = prepared.map_err(unready)?;
        let request = Request {
            pod,
            container,
            restart_count: attempt,
            image: &image,
            env: &env,
            mounts: prepared.mounts,
            termination_file: prepared.termination_file,
            target,
        };
        let config = container::config(request, &context.settings);
        let logs = self.log_dir().join(&container.name);
        if let Err(error) = tokio::fs::create_dir_all(&logs).await {
            return Err(StartError::retry("CreateContainerError", format!("mkdir {}: {error}", logs.display())));
        }
        let id = context.runtime.create_container(&sandbox.id, config, sandbox_config).await;
        let id = id.map_err(|error| fail("CreateContainerError", error.message))?;
        context.registry.add(&id, &self.id.uid);
        self.event(pod, Some(&container.name), false, "Created", "Container created".into());
        let started = context.runtime.start_container(&id).await;
        let status = context.runtime.container_status(&id).await;
        let run = status.map(|status| Run::new(status, &sandbox.id)).ok();
        match (started, run) {
            (Ok(()), Some(run)) => {
                self.event(pod, Some(&container.name), false, "Started", "Container started".into());
                Ok(run)
            }
            (Ok(()), None) => Err(fail("RunContainerError", "the container vanished right after its start".into())),
            (Err(error), run) => Err(StartError { run, ..fail("RunContainerError", error.message) }),
        }
    }

    async fn prepare(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        attempt: u32,
        volumes: &VolumePaths,
        ips: Vec<String>,
        image: &cri::v1::Image,
    ) -> Result<(Env, container::Prepared), String> {
        security::verify_non_root(pod, container, image)?;
        let services = self.services(pod).await;
        let env = env::build(pod, container, &self.facts(&ips), &self.objects, volumes, &services).await?;
        let work = {
            let (pod, container, volumes) = (Arc::clone(pod), container.clone(), volumes.clone());
            let (env, settings) = (env.clone(), self.context.settings.clone());
            move || container::prepare_mounts(&pod, &container, attempt, &volumes, &env, &ips, &settings)
        };
        let prepared = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
        Ok((env, prepared))
    }

    async fn services(&self, pod: &Pod) -> Env {
        let Some(services) = &self.context.services else { return Env::new() };
        services.synced().await;
        let links = pod::spec(pod).enable_service_links.unwrap_or(true);
        service_env(services.list().iter().map(AsRef::as_ref), &self.id.namespace, links)
    }

    /// The postStart hook.
    pub(crate) async fn post_start(&self, pod: &Pod, container: &Container, id: &str, ip: &str) -> Result<(), String> {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let result = hooks::run(self.context.runtime.as_ref(), container, id, ip, hook).await;
        if let Err(error) = &result {
            tracing::info!(pod = %self.id, container = container.name, error, "postStart hook failed");
            self.event(pod, Some(&container.name), true, "FailedPostStartHook", "PostStartHook failed".into());
        }
        result
    }

    /// preStop within the grace period, then its turn, then the stop signal, SIGKILL at the period's end.
    pub(crate) async fn kill(
        &self,
        pod: &Pod,
        name: &str,
        id: &str,
        ip: &str,
        end: End,
        others: watch::Receiver<Arc<View>>,
    ) {
        let End { message, grace, after, .. } = end;
        self.event(pod, Some(name), false, "Killing", message);
        let mut left = grace;
        let container = pod::container(pod, name);
        let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
        if let Some((container, hook)) = hook.filter(|_| end.hook && grace > 0) {
            let began = Instant::now();
            let run = hooks::run(self.context.runtime.as_ref(), container, id, ip, hook);
            match tokio::time::timeout(Duration::from_secs(grace as u64), run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!(pod = %self.id, container = name, error, "preStop hook failed");
                    self.event(pod, Some(name), true, "FailedPreStopHook", "PreStopHook failed".into());
                }
                Err(_) => tracing::info!(pod = %self.id, container = name, "preStop hook did not end in time"),
            }
            left = (grace - began.elapsed().as_secs() as i64).max(LEAST_GRACE);
        }
        if let Err(error) = self.stop(id, left, &after, others).await {
            tracing::warn!(pod = %self.id, container = name, %error, "cannot stop the container");
            self.event(pod, Some(name), true, "FailedKillPod", format!("error killing container: {error}"));
            tokio::time::sleep(STOP_RETRY).await;
        }
    }

    /// Stops a container once `after` have ended, or when there is no more time to wait for them.
    pub(crate) async fn stop(
        &self,
        id: &str,
        grace: i64,
        after: &[String],
        mut others: watch::Receiver<Arc<View>>,
    ) -> Result<(), CriError> {
        let mut left = grace;
        if !after.is_empty() && grace > 0 {
            let began = Instant::now();
            let turn = async {
                // The worker shows what it sees at the end of the round in which it decided upon this.
                let _ = others.changed().await;
                let _ = others.wait_for(|view| !after.iter().any(|name| view.alive(name))).await;
            };
            // Whoever is not done by then is about to be killed.
            let _ = tokio::time::timeout(Duration::from_secs(grace as u64), turn).await;
            left = (grace - began.elapsed().as_secs() as i64).max(LEAST_GRACE);
        }
        self.context.runtime.stop_container(id, Duration::from_secs(left.max(0) as u64)).await
    }

    /// Removes runs in this order, and leaves their logs.
    pub(crate) async fn remove_runs(&self, runs: impl Iterator<Item = Run>) -> Result<(), String> {
        for run in runs {
            self.context.runtime.remove_container(&run.id).await.map_err(|error| error.to_string())?;
            self.context.registry.remove(&run.id);
        }
        Ok(())
    }

    /// Removes a dead run with its logs.
    pub(crate) async fn forget(&self, run: Run) {
        if let Err(error) = self.context.runtime.remove_container(&run.id).await {
            tracing::warn!(pod = %self.id, container = run.id, %error, "cannot remove an old container");
            return;
        }
        self.context.registry.remove(&run.id);
        if let Err(error) = tokio::task::spawn_blocking(move || logs::remove(Path::new(&run.log_path))).await {
            tracing::warn!(pod = %self.id, %error, "cannot remove the log of an old container");
        }
    }

    /// Removes a sandbox that another took the place of and none of whose containers is remembered.
    pub(crate) async fn forget_sandbox(&self, id: &str) {
        let removed = async {
            self.context.runtime.stop_pod_sandbox(id).await?;
            self.context.runtime.remove_pod_sandbox(id).await
        };
        match removed.await {
            Ok(()) => self.context.registry.remove(id),
            Err(error) => tracing::warn!(pod = %self.id, sandbox = id, %error, "cannot remove an old sandbox"),
        }
    }

    // --- after the containers ---

    /// A finished pod gives back its network, volumes and cgroup; containers stay for their logs.
    pub(crate) async fn release(&self, sandboxes: &[String]) -> Result<(), String> {
        for id in sandboxes {
            self.context.runtime.stop_pod_sandbox(id).await.map_err(|error| error.to_string())?;
        }
        volumes::mounts::unmount_below(&self.pod_dir().join("volumes")).map_err(|error| error.to_string())?;
        self.remove_cgroup().await
    }

    /// Removes containers, sandboxes, volumes, cgroup, directories and logs.
    pub(crate) async fn cleanup(&self) -> Result<(), String> {
        // A refresh that is under way would bring the directory back.
        let _volumes = self.volumes.lock().await;
        cleanup(&self.context, &self.id).await
    }

    async fn remove_cgroup(&self) -> Result<(), String> {
        remove_cgroup(&self.context, &self.id.uid).await
    }
}

/// Removes all that a pod of this identity left here; also used for pods that the API no longer knows.
pub(crate) async fn cleanup(context: &Context, id: &PodId) -> Result<(), String> {
    let runtime = &context.runtime;
    let text = |error: cri::CriError| error.to_string();
    let selector = super::by_uid(&id.uid);
    let filter = cri::v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let sandboxes = runtime.list_pod_sandboxes(Some(filter)).await.map_err(text)?;
    for sandbox in &sandboxes {
        runtime.stop_pod_sandbox(&sandbox.id).await.map_err(text)?;
    }
    let filter = cri::v1::ContainerFilter { label_selector: selector, ..Default::default() };
    for container in runtime.list_containers(Some(filter)).await.map_err(text)? {
        runtime.remove_container(&container.id).await.map_err(text)?;
    }
    for sandbox in &sandboxes {
        runtime.remove_pod_sandbox(&sandbox.id).await.map_err(text)?;
    }
    volumes::teardown(context.settings.pods_dir.join(&id.uid)).await?;
    remove_cgroup(context, &id.uid).await?;
    let logs = context.settings.logs_dir.join(id.log_dir());
    match tokio::fs::remove_dir_all(&logs).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("remove {}: {error}", logs.display()));
        }
        _ => {}
    }
    context.registry.remove_pod(&id.uid);
    Ok(())
}

async fn remove_cgroup(context: &Context, uid: &str) -> Result<(), String> {
    let Some(cgroups) = &context.cgroups else { return Ok(()) };
    for tried in 0..CGROUP_TRIES {
        if cgroups.remove_pod(uid).map_err(|error| error.to_string())? {
            return Ok(());
        }
        if tried == CGROUP_TRIES / 4 {
            cgroups.kill_pod(uid);
        }
        tokio::time::sleep(CGROUP_PAUSE).await;
    }
    Err(format!("the cgroup of pod {uid} still holds processes"))
}
