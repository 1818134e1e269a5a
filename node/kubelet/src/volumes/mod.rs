//! Volumes of pods: made before the first container, refreshed when what they show changes, undone after the last.

mod atomic;
mod hostpath;
pub(crate) mod mounts;
mod ownership;
mod payload;
pub(crate) mod subpath;
mod token;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

pub(crate) use payload::Sources;

use crate::downward::LiveFacts;
use crate::objects::PodObjects;
use crate::{pod, resources};

/// A volume that could not be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub(crate) struct VolumeError {
    volume: String,
    reason: String,
}

/// Host paths of a pod's volumes by name.
pub(crate) type VolumePaths = HashMap<String, PathBuf>;

/// The volumes of one pod.
pub(crate) struct PodVolumes {
    dir: PathBuf,
    client: Option<kube::Client>,
    tokens: token::Tokens,
    /// Volumes that are complete, with their fsGroup applied.
    ready: VolumePaths,
}

impl PodVolumes {
    /// Of the pod whose directory this is. Without a client there are no tokens.
    pub(crate) fn new(pod_dir: PathBuf, client: Option<kube::Client>) -> PodVolumes {
        PodVolumes { dir: pod_dir, client, tokens: token::Tokens::default(), ready: VolumePaths::new() }
    }

    /// Makes every volume ready and brings the shown contents up to date. May be called again and again.
    pub(crate) async fn setup(
        &mut self,
        pod: &Arc<Pod>,
        facts: &LiveFacts,
        objects: &PodObjects,
    ) -> Result<VolumePaths, VolumeError> {
        let group = fs_group(pod);
        for volume in pod::list(&pod::spec(pod).volumes) {
            let path = self.one(pod, facts, objects, volume, group).await;
            let path = path.map_err(|reason| VolumeError { volume: volume.name.clone(), reason })?;
            self.ready.insert(volume.name.clone(), path);
        }
        Ok(self.ready.clone())
    }

    /// When a token wants to be renewed.
    pub(crate) fn next_refresh(&self) -> Option<Timestamp> {
        self.tokens.next_refresh()
    }

    async fn one(
        &mut self,
        pod: &Arc<Pod>,
        facts: &LiveFacts,
        objects: &PodObjects,
        volume: &Volume,
        group: Option<u32>,
    ) -> Result<PathBuf, String> {
        let sources = Sources { pod, facts, objects, client: self.client.as_ref() };
        if let Some(files) = payload::build(&sources, &mut self.tokens, volume).await? {
            let (plugin, in_memory) = match volume {
                Volume { config_map: Some(_), .. } => ("kubernetes.io~configmap", false),
                Volume { downward_api: Some(_), .. } => ("kubernetes.io~downward-api", true),
                Volume { secret: Some(_), .. } => ("kubernetes.io~secret", true),
                _ => ("kubernetes.io~projected", true),
            };
            let path = self.volume_dir(plugin, &volume.name);
            let target = path.clone();
            return blocking(move || {
                fs::create_dir_all(&target)?;
                if in_memory {
                    mounts::tmpfs(&target, None)?;
                }
                atomic::write(&target, &files, group).map(|_| path)
            })
            .await;
        }
        if let Some(path) = self.ready.get(&volume.name) {
            return Ok(path.clone());
        }
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            hostpath::check(&path, source.type_.as_deref().unwrap_or_default())?;
            return Ok(path);
        }
        if let Some(source) = volume.empty_dir.clone() {
            let path = self.volume_dir("kubernetes.io~empty-dir", &volume.name);
            let on_mismatch = on_root_mismatch(pod);
            let most = most_memory(pod, &source, facts.capacity.memory);
            return blocking(move || empty_dir(&path, &source, most, group, on_mismatch).map(|()| path)).await;
        }
        Err(format!("{} volumes are not supported yet", source_kind(volume)))
    }

    fn volume_dir(&self, plugin: &str, name: &str) -> PathBuf {
        self.dir.join("volumes").join(plugin).join(name)
    }
}

/// Undoes everything below a pod's directory, mounts first, and removes it.
pub(crate) async fn teardown(pod_dir: PathBuf) -> Result<(), String> {
    blocking(move || {
        mounts::unmount_below(&pod_dir)?;
        match fs::remove_dir_all(&pod_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a volume in memory may hold: no more than it says, than its pod may use, and than the node gives pods at all.
fn most_memory(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: i64) -> Option<i64> {
    let own = source.size_limit.as_ref().and_then(|limit| resources::amount("memory", limit));
    [own, resources::pod_limit(pod, "memory"), Some(allocatable)].into_iter().flatten().filter(|most| *most > 0).min()
}

fn empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    most: Option<i64>,
    group: Option<u32>,
    on_mismatch: bool,
) -> io::Result<()> {
    fs::create_dir_all(path)?;
    match source.medium.as_deref().unwrap_or_default() {
        "Memory" => mounts::tmpfs(path, most)?,
        "" => {}
        other => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("medium {other:?} is not supported yet")));
        }
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o777 != 0o777 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o777))?;
    }
    match group {
        Some(group) if on_mismatch && ownership::matches(path, group, false)? => Ok(()),
        Some(group) => ownership::set_group(path, group, false),
        None => Ok(()),
    }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod::spec(pod).security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn on_root_mismatch(pod: &Pod) -> bool {
    let policy = pod::spec(pod).security_context.as_ref().and_then(|s| s.fs_group_change_policy.as_deref());
    policy == Some("OnRootMismatch")
}

/// The name of the volume's source in the API.
fn source_kind(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let kind = value.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
    kind.unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{
        Container, DownwardAPIVolumeSource, NFSVolumeSource, PodSpec, ResourceRequirements,
    };
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    async fn setup(dir: &Path, volume: Volume) -> Result<VolumePaths, VolumeError> {
        let spec = PodSpec { volumes: Some(vec![volume]), ..PodSpec::default() };
        let pod = Arc::new(Pod { spec: Some(spec), ..Pod::default() });
        let objects = PodObjects::new(None, "ns");
        PodVolumes::new(dir.to_owned(), None).setup(&pod, &LiveFacts::default(), &objects).await
    }

    #[tokio::test]
    async fn empty_dir_and_teardown() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("pod");
        let volume = Volume { name: "v".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
        let paths = setup(&pod_dir, volume).await.unwrap();
        let path = &paths["v"];
        assert!(path.ends_with("volumes/kubernetes.io~empty-dir/v"));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o777);
        teardown(pod_dir.clone()).await.unwrap();
        assert!(!pod_dir.exists());
        teardown(pod_dir).await.unwrap();
    }

    #[test]
    fn memory_is_bounded_by_volume_pod_and_node() {
        let quantity = |text: &str| Quantity(text.into());
        for (own, pod, node, expected) in [
            (Some("1Mi"), Some("2Mi"), 3 << 20, Some(1 << 20)),
            (Some("4Mi"), Some("2Mi"), 3 << 20, Some(2 << 20)),
            (None, None, 3 << 20, Some(3 << 20)),
            (Some("0"), None, 0, None),
        ] {
            let limits = pod.map(|limit| [("memory".to_owned(), quantity(limit))].into());
            let resources = Some(ResourceRequirements { limits, ..ResourceRequirements::default() });
            let container = Container { resources, ..Container::default() };
            let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
            let pod = Pod { spec: Some(spec), ..Pod::default() };
            let source = EmptyDirVolumeSource { size_limit: own.map(quantity), ..EmptyDirVolumeSource::default() };
            assert_eq!(most_memory(&pod, &source, node), expected, "{own:?} {node}");
        }
    }

    #[tokio::test]
    async fn what_is_not_supported_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume { name: "v".into(), nfs: Some(NFSVolumeSource::default()), ..Volume::default() };
        let error = setup(dir.path(), volume).await.unwrap_err().to_string();
        assert_eq!(error, "MountVolume.SetUp failed for volume \"v\" : nfs volumes are not supported yet");
        let missing = k8s_openapi::api::core::v1::ConfigMapVolumeSource { name: "cm".into(), ..Default::default() };
        let volume = Volume { name: "v".into(), config_map: Some(missing), ..Volume::default() };
        assert!(setup(dir.path(), volume).await.unwrap_err().reason.contains("\"cm\" not found"));
        let empty =
            Volume { name: "d".into(), downward_api: Some(DownwardAPIVolumeSource::default()), ..Volume::default() };
        assert_eq!(source_kind(&empty), "downwardAPI");
    }
}
