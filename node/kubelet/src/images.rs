//! Getting a container's image: pull policy, pull secrets, back-off.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use cri::containerd::registry_of;
use cri::v1::{AuthConfig, Image, PodSandboxConfig};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::objects::PodObjects;
use crate::pod;
use crate::worker::StartError;

/// Pulls of one pod that failed: their back-off by image, and the last error of each.
#[derive(Default)]
pub(crate) struct PullBackoff(Mutex<(Backoff<String>, HashMap<String, String>)>);

impl PullBackoff {
    /// How much longer to wait, and why.
    fn left(&self, image: &String) -> Option<(Duration, String)> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (backoff, errors) = &*guard;
        let left = backoff.left(image, Timestamp::now())?;
        Some((left, errors.get(image).cloned().unwrap_or_default()))
    }

    fn failed(&self, image: &str, error: &str) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.next(image.to_owned(), Timestamp::now());
        guard.1.insert(image.to_owned(), error.to_owned());
    }

    fn succeeded(&self, image: &String) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.reset(image);
        guard.1.remove(image);
    }
}

/// Makes sure that the image is here. The error's reason and message are what status shows.
pub(crate) async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    objects: &PodObjects,
    sandbox: &PodSandboxConfig,
    backoff: &PullBackoff,
) -> Result<Image, StartError> {
    let shown = container.image.clone().unwrap_or_default();
    let name = with_tag(&shown);
    let event = |warning: bool, reason: &str, message: String| {
        context.events.event(pod, Some(&container.name), warning, reason, message);
    };
    if !is_reference(&shown) {
        let why = format!("couldn't parse image name {shown:?}: invalid reference format");
        let message = format!("Failed to apply default image tag {shown:?}: {why}");
        event(true, "InspectFailed", message.clone());
        return Err(StartError::retry("InvalidImageName", message));
    }
    let present = match context.runtime.image_status(&name).await {
        Ok(present) => present,
        Err(error) => {
            let message = format!("Failed to inspect image {shown:?}: {error}");
            event(true, "InspectFailed", message.clone());
            return Err(StartError::retry("ImageInspectError", message));
        }
    };
    match (policy(container), present) {
        ("Never", None) => {
            let message = format!("Container image {shown:?} is not present with pull policy of Never");
            event(true, "ErrImageNeverPull", message.clone());
            return Err(StartError::retry("ErrImageNeverPull", message));
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            let message =
                format!("Container image {shown:?} already present on machine and can be accessed by the pod");
            event(false, "Pulled", message);
            return Ok(image);
        }
        _ => {}
    }
    if let Some((left, error)) = backoff.left(&name) {
        let message = format!("Back-off pulling image {shown:?}");
        event(false, "BackOff", message.clone());
        return Err(StartError::after("ImagePullBackOff", format!("{message}: ErrImagePull: {error}"), left));
    }
    event(false, "Pulling", format!("Pulling image {shown:?}"));
    let began = Instant::now();
    let pulled = pull(context, pod, objects, &name, sandbox).await;
    match pulled {
        Ok(image) => {
            let took = format!("{:.3}s", began.elapsed().as_secs_f64());
            let size = image.size;
            event(
                false,
                "Pulled",
                format!(
                    "Successfully pulled image {shown:?} in {took} ({took} including waiting). Image size: {size} bytes."
                ),
            );
            backoff.succeeded(&name);
            Ok(image)
        }
        Err(error) => {
            event(true, "Failed", format!("Failed to pull image {shown:?}: {error}"));
            backoff.failed(&name, &error);
            Err(StartError::pull(error))
        }
    }
}

async fn pull(
    context: &Context,
    pod: &Pod,
    objects: &PodObjects,
    name: &str,
    sandbox: &PodSandboxConfig,
) -> Result<Image, String> {
    let mut candidates: Vec<Option<AuthConfig>> = Vec::new();
    for reference in pod::list(&pod::spec(pod).image_pull_secrets) {
        let Some(data) = objects.secret(&reference.name).await else { continue };
        for (key, bytes) in &data {
            candidates.extend(credentials(key, bytes, name).into_iter().map(Some));
        }
    }
    candidates.extend(context.settings.registries.auth_for(name).map(Some));
    if candidates.is_empty() {
        candidates.push(None);
    }
    let mut last = String::new();
    for auth in candidates {
        match context.runtime.pull_image(name, auth, sandbox).await {
            Ok(reference) => {
                let found = context.runtime.image_status(&reference).await;
                return match found.map_err(|error| error.to_string())? {
                    Some(image) => Ok(image),
                    None => Err(format!("image {reference} vanished right after it was pulled")),
                };
            }
            Err(error) => last = error.message,
        }
    }
    Err(last)
}

fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if with_tag(container.image.as_deref().unwrap_or_default()).ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether this names an image at all: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
fn is_reference(image: &str) -> bool {
    let all = |text: &str, allowed: fn(char) -> bool| !text.is_empty() && text.chars().all(allowed);
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let good_digest = digest.is_none_or(|digest| {
        let parts = digest.split_once(':');
        parts.is_some_and(|(_, hex)| hex.len() >= 32 && all(hex, |c| matches!(c, '0'..='9' | 'a'..='f')))
    });
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    let good_tag = tag.is_none_or(|tag| {
        tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && all(tag, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    });
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if registry_of(name) == host => (host, path),
        _ => ("localhost", name),
    };
    let good_host = all(host, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    let word = |part: &str| {
        all(part, |c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    good_digest && good_tag && good_host && path.split('/').all(word)
}

/// The name with `:latest` where it has neither tag nor digest.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// The credentials that a secret's entry has for the image, those of the most specific servers first.
fn credentials(key: &str, bytes: &[u8], image: &str) -> Vec<AuthConfig> {
    let parsed: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let entries = match key {
        ".dockerconfigjson" => parsed.get("auths"),
        ".dockercfg" => Some(&parsed),
        _ => None,
    };
    let mut found: Vec<(&String, &Value)> =
        entries.and_then(Value::as_object).into_iter().flatten().filter(|(server, _)| serves(server, image)).collect();
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, entry)| auth(entry)).collect()
}

fn auth(entry: &Value) -> AuthConfig {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    let both = BASE64_STANDARD.decode(text("auth")).ok().and_then(|raw| String::from_utf8(raw).ok());
    if let Some((user, pass)) = both.as_deref().and_then(|auth| auth.split_once(':')) {
        (username, password) = (user.to_owned(), pass.to_owned());
    }
    AuthConfig { username, password, identity_token: text("identitytoken"), ..AuthConfig::default() }
}

/// Whether credentials for `[SCHEME://]HOST[/v1|/v2][/PATH]` are for the image: each part of the host may have a `*`, and
/// the path is the beginning of the image's.
fn serves(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = ["v1", "v2"]
        .into_iter()
        .find_map(|api| path.strip_prefix(api))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(path);
    let (wanted, repository) = (registry_of(image), image.strip_prefix(registry_of(image)).unwrap_or(image));
    let docker = wanted == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io");
    let repository = repository.trim_start_matches('/');
    (docker || host_matches(host, wanted)) && repository.starts_with(path.trim_matches('/'))
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let part = |(pattern, part): (&str, &str)| match pattern.split_once('*') {
        Some((begin, end)) => part.len() >= begin.len() + end.len() && part.starts_with(begin) && part.ends_with(end),
        None => pattern == part,
    };
    pattern.split('.').count() == host.split('.').count() && pattern.split('.').zip(host.split('.')).all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (image, tagged, host) in [
            ("nginx", "nginx:latest", "docker.io"),
            ("a/b:1", "a/b:1", "docker.io"),
            ("reg.example:5000/a", "reg.example:5000/a:latest", "reg.example:5000"),
            ("localhost/x@sha256:1", "localhost/x@sha256:1", "localhost"),
        ] {
            assert_eq!((with_tag(image).as_str(), registry_of(image)), (tagged, host));
        }
    }

    #[test]
    fn what_names_an_image() {
        let digest = "sha256:".to_owned() + &"0a".repeat(32);
        for (image, good) in [
            ("busybox", true),
            ("a/b_c/d-e.f:V1.2-x", true),
            ("reg.example:5000/a", true),
            ("localhost/x", true),
            (&format!("a@{digest}"), true),
            (&format!("a:1@{digest}"), true),
            ("a@sha256:short", false),
            ("", false),
            ("Upper", false),
            ("a b", false),
            ("a//b", false),
            ("a:", false),
            ("a:-x", false),
            ("/a", false),
            ("a/", false),
        ] {
            assert_eq!(is_reference(image), good, "{image}");
        }
    }

    #[test]
    fn pull_policy_defaults_by_tag() {
        for (image, own, expected) in
            [("a", None, "Always"), ("a:1", None, "IfNotPresent"), ("a", Some("Never"), "Never")]
        {
            let container =
                Container { image: Some(image.into()), image_pull_policy: own.map(Into::into), ..Container::default() };
            assert_eq!(policy(&container), expected);
        }
    }

    #[test]
    fn credentials_of_the_right_registry() {
        let config = br#"{"auths":{"https://reg.example/v1/":{"auth":"dTpwOnE="},"other":{"username":"x"},
            "reg.example/team":{"username":"team"}}}"#;
        let users = |image: &str| -> Vec<(String, String)> {
            let found = credentials(".dockerconfigjson", config, image);
            found.into_iter().map(|auth| (auth.username, auth.password)).collect()
        };
        let user = |name: &str, password: &str| (name.to_owned(), password.to_owned());
        assert_eq!(users("reg.example/a:1"), [user("u", "p:q")]);
        assert_eq!(users("reg.example/team/a:1"), [user("team", ""), user("u", "p:q")], "the most specific first");
        assert_eq!(users("nginx"), []);
        assert!(credentials(".dockerconfigjson", b"not json", "nginx").is_empty());
    }

    #[test]
    fn servers_of_an_image() {
        for (server, image, expected) in [
            ("reg.example:5000", "reg.example:5000/a", true),
            ("reg.example:5000", "reg.example/a", false),
            ("*.example", "reg.example/a", true),
            ("*.example", "a.reg.example/a", false),
            ("r*.example", "reg.example/a", true),
            ("https://index.docker.io/v1/", "nginx:1", true),
            ("docker.io", "team/app", true),
            ("reg.example/team", "reg.example/team/app", true),
            ("reg.example/team", "reg.example/app", false),
        ] {
            assert_eq!(serves(server, image), expected, "{server} {image}");
        }
    }
}
