//! What is mounted into a container: its volumes (or parts of them), the hosts file, the termination message.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cri::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{Settings, sandbox};
use crate::env::{Env, expand};
use crate::pod::{self, PodId};
use crate::volumes::{VolumePaths, subpath};

/// Mounts of a container, with the file its termination message is read from.
pub(crate) struct Prepared {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) termination_file: String,
}

/// Makes the files and resolves the paths. Blocking.
pub(crate) fn prepare(
    pod: &Pod,
    container: &Container,
    run: u32,
    volumes: &VolumePaths,
    env: &Env,
    ips: &[String],
    settings: &Settings,
) -> Result<Prepared, String> {
    let dir = settings.pods_dir.join(PodId::of(pod).uid);
    let mut mounts = Vec::new();
    for (index, volume_mount) in pod::list(&container.volume_mounts).iter().enumerate() {
        mounts.push(volume(pod, &dir, container, index, volume_mount, volumes, env)?);
    }
    let has = |path: &str| mounts.iter().any(|mount: &Mount| mount.container_path == path);
    if !has("/etc/hosts") {
        mounts.push(hosts(pod, &dir, ips, settings).map_err(|error| format!("hosts file: {error}"))?);
    }
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let path = path.unwrap_or("/dev/termination-log");
    let file = termination_file(&dir, &container.name, run).map_err(|error| format!("termination message: {error}"))?;
    mounts.push(Mount { container_path: path.to_owned(), host_path: file.display().to_string(), ..Mount::default() });
    Ok(Prepared { mounts, termination_file: file.display().to_string() })
}

fn volume(
    pod: &Pod,
    dir: &Path,
    container: &Container,
    index: usize,
    mount: &VolumeMount,
    volumes: &VolumePaths,
    env: &Env,
) -> Result<Mount, String> {
    if mount.recursive_read_only.as_deref() == Some("Enabled") {
        let why = "requested recursive read-only mode, but it is not supported by the runtime";
        return Err(format!("volume {:?} {why}", mount.name));
    }
    let host = volumes.get(&mount.name).ok_or_else(|| format!("volume {:?} is not mounted", mount.name))?;
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
        (_, Some(expr)) if !expr.is_empty() => Some(expanded(expr, env)?),
        _ => None,
    };
    let host = match sub {
        None => host.clone(),
        Some(sub) => {
            let target = dir.join("volume-subpaths").join(&mount.name).join(&container.name).join(index.to_string());
            subpath::prepare(host, &sub, &target).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                    mount.name, container.name
                )
            })?
        }
    };
    let container_path =
        if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
    let shown_only = pod::list(&pod::spec(pod).volumes).iter().any(|volume| {
        volume.name == mount.name
            && (volume.config_map.is_some()
                || volume.secret.is_some()
                || volume.projected.is_some()
                || volume.downward_api.is_some())
    });
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Ok(Mount {
        container_path,
        host_path: host.display().to_string(),
        readonly: mount.read_only.unwrap_or(false) || shown_only,
        propagation: propagation.into(),
        ..Mount::default()
    })
}

/// The path that an expression stands for. A variable that is missing or empty would make another path of it, up to the
/// whole volume: then there is none.
fn expanded(expr: &str, env: &Env) -> Result<String, String> {
    let mut missing = BTreeSet::new();
    let path = expand(expr, |name| {
        let value = env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        if value.as_ref().is_none_or(String::is_empty) {
            missing.insert(name.to_owned());
        }
        value
    });
    if missing.is_empty() {
        return Ok(path);
    }
    Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", ")))
}

fn hosts(pod: &Pod, dir: &Path, ips: &[String], settings: &Settings) -> io::Result<Mount> {
    let text = if pod::host_network(pod) {
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}{}", sandbox::host_aliases(pod))
    } else {
        sandbox::hosts_file(pod, ips, settings)
    };
    fs::create_dir_all(dir)?;
    let path = dir.join("etc-hosts");
    // In place: containers that run already have this very file mounted.
    if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
        fs::write(&path, text)?;
    }
    Ok(Mount { container_path: "/etc/hosts".into(), host_path: path.display().to_string(), ..Mount::default() })
}

fn termination_file(dir: &Path, container: &str, run: u32) -> io::Result<PathBuf> {
    let parent = dir.join("containers").join(container);
    fs::create_dir_all(&parent)?;
    let path = parent.join(format!("{run}"));
    fs::File::create(&path)?;
    // Whoever the container runs as may write its last words.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, PodSpec, Volume};

    use super::*;

    #[test]
    fn an_expression_wants_all_its_variables() {
        let env: Env = [("A", "a"), ("B", "b"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (expr, expected) in [
            ("$(A)/$(B)", Ok("a/b")),
            ("x/$$(NONE)", Ok("x/$(NONE)")),
            ("$(EMPTY)", Err("missing value for EMPTY")),
            ("$(NONE)/$(A)/$(EMPTY)", Err("missing value for EMPTY, NONE")),
        ] {
            assert_eq!(expanded(expr, &env), expected.map(str::to_owned).map_err(str::to_owned), "{expr}");
        }
    }

    #[test]
    fn volumes_hosts_and_termination() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { pods_dir: dir.path().to_owned(), ..Settings::for_tests() };
        let mount = |path: &str, volume: &str| VolumeMount {
            name: volume.into(),
            mount_path: path.into(),
            ..VolumeMount::default()
        };
        let container = Container {
            name: "c".into(),
            volume_mounts: Some(vec![mount("/cfg", "cm"), mount("rel", "host")]),
            ..Container::default()
        };
        let cm = Volume { name: "cm".into(), config_map: Some(ConfigMapVolumeSource::default()), ..Volume::default() };
        let mut pod = Pod { spec: Some(PodSpec { volumes: Some(vec![cm]), ..PodSpec::default() }), ..Pod::default() };
        pod.metadata.uid = Some("u".into());
        let volumes = VolumePaths::from([("cm".into(), "/v/cm".into()), ("host".into(), "/v/host".into())]);
        let got = prepare(&pod, &container, 2, &volumes, &Env::new(), &["10.0.0.1".into()], &settings).unwrap();
        let shown: Vec<(&str, bool)> = got.mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
        assert_eq!(shown, [("/cfg", true), ("/rel", false), ("/etc/hosts", false), ("/dev/termination-log", false)]);
        assert!(Path::new(&got.termination_file).ends_with("u/containers/c/2"));
        let recursive = VolumeMount { recursive_read_only: Some("Enabled".into()), ..mount("/x", "cm") };
        let recursive = Container { volume_mounts: Some(vec![recursive]), ..Container::default() };
        assert!(prepare(&pod, &recursive, 0, &volumes, &Env::new(), &[], &settings).is_err());
        let missing = Container { volume_mounts: Some(vec![mount("/x", "nope")]), ..Container::default() };
        assert!(prepare(&pod, &missing, 0, &volumes, &Env::new(), &[], &settings).is_err());
    }
}
