//! What files a configMap, secret, downwardAPI or projected volume holds.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource, Volume,
};

use super::atomic::{File, Payload, valid_path};
use super::token::Tokens;
use crate::downward::{self, LiveFacts};
use crate::objects::{Data, PodObjects};
use crate::pod::{self, PodId};

const DEFAULT_MODE: u32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// What a payload is made from.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) facts: &'a LiveFacts,
    pub(crate) objects: &'a PodObjects,
    pub(crate) client: Option<&'a kube::Client>,
}

/// The files of a volume of one of these four kinds; `None` for others.
pub(crate) async fn build(
    sources: &Sources<'_>,
    tokens: &mut Tokens,
    volume: &Volume,
) -> Result<Option<Payload>, String> {
    if let Some(source) = &volume.config_map {
        return config_map(sources, source).await.map(Some);
    }
    if let Some(source) = &volume.secret {
        return secret(sources, source).await.map(Some);
    }
    if let Some(source) = &volume.downward_api {
        let mut payload = Payload::new();
        let mode = mode(source.default_mode);
        downward(sources, pod::list(&source.items), mode, &mut payload)?;
        return Ok(Some(payload));
    }
    if let Some(source) = &volume.projected {
        return projected(sources, tokens, source).await.map(Some);
    }
    Ok(None)
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

async fn config_map(sources: &Sources<'_>, source: &ConfigMapVolumeSource) -> Result<Payload, String> {
    let optional = source.optional.unwrap_or(false);
    let mut payload = Payload::new();
    match sources.objects.config_map(&source.name).await {
        Some(data) => {
            let items = pod::list(&source.items);
            project("configmap", data, items, mode(source.default_mode), optional, &mut payload)?;
        }
        None if optional => {}
        None => return Err(format!("configmap {:?} not found", source.name)),
    }
    Ok(payload)
}

async fn secret(sources: &Sources<'_>, source: &SecretVolumeSource) -> Result<Payload, String> {
    let optional = source.optional.unwrap_or(false);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let mut payload = Payload::new();
    match sources.objects.secret(name).await {
        Some(data) => {
            project("secret", data, pod::list(&source.items), mode(source.default_mode), optional, &mut payload)?;
        }
        None if optional => {}
        None => return Err(format!("secret {name:?} not found")),
    }
    Ok(payload)
}

async fn projected(
    sources: &Sources<'_>,
    tokens: &mut Tokens,
    source: &ProjectedVolumeSource,
) -> Result<Payload, String> {
    let default = mode(source.default_mode);
    let mut payload = Payload::new();
    for part in pod::list(&source.sources) {
        if let Some(part) = &part.config_map {
            let optional = part.optional.unwrap_or(false);
            match sources.objects.config_map(&part.name).await {
                Some(data) => project("configmap", data, pod::list(&part.items), default, optional, &mut payload)?,
                None if optional => {}
                None => return Err(format!("configmap {:?} not found", part.name)),
            }
        } else if let Some(part) = &part.secret {
            let optional = part.optional.unwrap_or(false);
            match sources.objects.secret(&part.name).await {
                Some(data) => project("secret", data, pod::list(&part.items), default, optional, &mut payload)?,
                None if optional => {}
                None => return Err(format!("secret {:?} not found", part.name)),
            }
        } else if let Some(part) = &part.downward_api {
            downward(sources, pod::list(&part.items), default, &mut payload)?;
        } else if let Some(part) = &part.service_account_token {
            let client = sources.client.ok_or("this pod has no API server to ask for a token")?;
            let account = pod::spec(sources.pod).service_account_name.as_deref().unwrap_or("default");
            let audience = part.audience.as_deref().unwrap_or_default();
            let seconds = part.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
            let text = tokens.get(client, &PodId::of(sources.pod), account, audience, seconds).await?;
            let (mode, owner) = token_access(sources.pod, default);
            payload.insert(part.path.clone(), File { data: text.into_bytes(), mode, owner });
        } else {
            return Err("clusterTrustBundle and podCertificate sources are not supported yet".into());
        }
    }
    Ok(payload)
}

/// A token is for its pod's users only: the one user where all containers share it, and the group where there is one.
fn token_access(pod: &Pod, default: u32) -> (u32, Option<u32>) {
    let security = pod::spec(pod).security_context.as_ref();
    let of_pod = security.and_then(|s| s.run_as_user);
    let mut users =
        pod::all_containers(pod).map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next().flatten();
    let owner = first.and_then(|user| u32::try_from(user).ok()).filter(|_| users.all(|other| other == first));
    let private = owner.is_some() || security.is_some_and(|s| s.fs_group.is_some());
    (if private { 0o600 } else { default }, owner)
}

/// Puts an object's keys in the payload: all of them, or the listed ones under their paths.
fn project(
    kind: &str,
    mut data: Data,
    items: &[KeyToPath],
    default: u32,
    optional: bool,
    payload: &mut Payload,
) -> Result<(), String> {
    if items.is_empty() {
        let files = data.into_iter().map(|(key, data)| (key, File { data, mode: default, owner: None }));
        payload.extend(files);
        return Ok(());
    }
    for item in items {
        if !valid_path(&item.path) {
            return Err(format!("{kind} item path {:?} must be relative, without '..'", item.path));
        }
        match data.remove(&item.key) {
            Some(bytes) => {
                data.insert(item.key.clone(), bytes.clone());
                let mode = item.mode.map_or(default, |m| mode(Some(m)));
                payload.insert(item.path.clone(), File { data: bytes, mode, owner: None });
            }
            None if optional => {}
            None => return Err(format!("{kind} references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    sources: &Sources<'_>,
    items: &[DownwardAPIVolumeFile],
    default: u32,
    payload: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            downward::field(sources.pod, sources.facts, &field.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            downward::resource(sources.pod, sources.facts, "", selector)?
        } else {
            continue;
        };
        let mode = item.mode.map_or(default, |m| mode(Some(m)));
        payload.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SecurityContext};

    use super::*;

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode }
    }

    #[test]
    fn items_choose_paths_and_modes() {
        let data = || Data::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]);
        let cases: [(Vec<KeyToPath>, bool, Result<&str, ()>); 6] = [
            (vec![], false, Ok("a:644 b:644")),
            (vec![item("a", "x/y", Some(0o400))], false, Ok("x/y:400")),
            (vec![item("a", "x", None), item("a", "z", None)], false, Ok("x:644 z:644")),
            (vec![item("nope", "x", None)], false, Err(())),
            (vec![item("nope", "x", None)], true, Ok("")),
            (vec![item("a", "../x", None)], false, Err(())),
        ];
        for (items, optional, expected) in cases {
            let mut payload = Payload::new();
            let got = project("configmap", data(), &items, 0o644, optional, &mut payload);
            let shown: Vec<String> = payload.iter().map(|(p, f)| format!("{p}:{:o}", f.mode)).collect();
            assert_eq!(got.map(|()| shown.join(" ")).map_err(drop), expected.map(str::to_owned), "{items:?}");
        }
    }

    #[test]
    fn who_may_read_a_token() {
        for (fs_group, pod_user, users, expected) in [
            (Some(5), Some(7), vec![None], (0o600, Some(7))),
            (Some(5), None, vec![Some(7), None], (0o600, None)),
            (None, Some(7), vec![None, Some(7)], (0o600, Some(7))),
            (None, None, vec![Some(7), Some(8)], (0o644, None)),
            (None, None, vec![None], (0o644, None)),
        ] {
            let container = |user| Container {
                security_context: Some(SecurityContext { run_as_user: user, ..SecurityContext::default() }),
                ..Container::default()
            };
            let security = PodSecurityContext { fs_group, run_as_user: pod_user, ..PodSecurityContext::default() };
            let spec = PodSpec {
                security_context: Some(security),
                containers: users.iter().copied().map(container).collect(),
                ..PodSpec::default()
            };
            let pod = Pod { spec: Some(spec), ..Pod::default() };
            assert_eq!(token_access(&pod, 0o644), expected, "{fs_group:?} {pod_user:?} {users:?}");
        }
    }
}
